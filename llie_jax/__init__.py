"""llie_jax: low-light image enhancement in JAX.

Train, evaluate as the papers do, load official checkpoints, brighten photos.

    model, variables = llie_jax.load("runs/demo")
    bright = llie_jax.enhance(model, variables, dark)
"""

__version__ = "0.1.0"

from llie_jax import models as models  # isort: skip  registers what specs name
from llie_jax import convert as convert
from llie_jax import costs as costs
from llie_jax import metrics as metrics
from llie_jax.inference.enhance import enhance as enhance
from llie_jax.registry import build as build
from llie_jax.registry import default_spec as default_spec
from llie_jax.registry import list_models as list_models
from llie_jax.types import Outputs as Outputs
from llie_jax.weights import load as load
