"""llie_jax: low-light image enhancement in JAX.

Train, evaluate as the papers do, load official checkpoints, brighten photos.

    model, variables = llie_jax.load()  # the weights that ship
    bright = llie_jax.enhance(model, variables, dark)

Names are imported on first use: JAX and Flax take seconds to import, and a command's
`--help` needs neither.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from llie_jax import convert as convert
    from llie_jax import costs as costs
    from llie_jax import data as data
    from llie_jax import evaluation as evaluation
    from llie_jax import metrics as metrics
    from llie_jax import models as models
    from llie_jax import nn as nn
    from llie_jax import registry as registry
    from llie_jax import weights as weights
    from llie_jax.inference.enhance import enhance as enhance
    from llie_jax.inference.enhancer import Enhancer as Enhancer
    from llie_jax.registry import build as build
    from llie_jax.registry import default_spec as default_spec
    from llie_jax.registry import list_models as list_models
    from llie_jax.types import Outputs as Outputs
    from llie_jax.weights import load as load

__version__ = "0.1.0"

_HOMES = {
    "Enhancer": "llie_jax.inference.enhancer",
    "Outputs": "llie_jax.types",
    "build": "llie_jax.registry",
    "default_spec": "llie_jax.registry",
    "enhance": "llie_jax.inference.enhance",
    "list_models": "llie_jax.registry",
    "load": "llie_jax.weights",
}
"""Public names that are not modules, and the modules that define them."""


def __getattr__(name: str) -> Any:
    """Returns a public name or a module of the package, imported now (PEP 562)."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _modules():
        value = importlib.import_module(f"{__name__}.{name}")
        if name == "nn":  # so that llie_jax.nn.adr exists
            importlib.import_module(f"{__name__}.models")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns all names, including those not imported yet."""
    return sorted({*globals(), *_HOMES, *_modules()})


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]
