"""Loads and describes weights by name, file or run."""

import os
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from llie_jax import files, messages, registry
from llie_jax.messages import listed
from llie_jax.models.base import variable_shapes
from llie_jax.weights import release, run, shipped
from llie_jax.weights.fit import flat

_PICKLED = (".pth", ".pt", ".ckpt", ".pkl")


def load(
    weights: str | os.PathLike | None = None, *, step: int | str = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a model and its variables.

    Args:
        weights: a `.safetensors` file, a run's workdir, a checkpoint folder inside one,
            or a name that `llie-jax models` lists: of weights that ship with the
            package, or of published ones. None: the default of those that ship.
        step: which checkpoint of a run: "best" (highest validation PSNR, the latest if
            none was recorded), "latest", or a step. Averaged weights (EMA) are used
            if the run keeps them.

    Raises:
        FileNotFoundError: if nothing has that name, or its file must be downloaded
            first; the message says how.
        ValueError: if the file is damaged, or does not match its model (the message
            lists names and shapes).
    """
    source = _find(weights, step)
    model = registry.build(source.spec)
    tensors = source.tensors(flat(variable_shapes(model)))
    tensors = {name: jnp.asarray(value) for name, value in tensors.items()}
    return model, traverse_util.unflatten_dict(tensors, sep="/")


def describe(
    weights: str | os.PathLike | None = None, *, step: int | str = "best"
) -> dict[str, Any]:
    """Describes weights, for score files and reports.

    Args:
        weights: as in `load`.
        step: as in `load`.

    Returns:
        `weights` as given (the path of the default ones if None), `source` ("file",
        "run", "shipped" or "published"), `path`, `spec`, `weights_sha256` (of the file;
        of names and arrays for a run), `step` (None for files), `averaged` (whether
        these are EMA weights) and `metadata` (of the file, or the metrics of the
        checkpoint).

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    source = _find(weights, step)
    facts = source.describe()
    return {
        "weights": facts["path"] if weights is None else os.fspath(weights),
        **facts,
    }


def _find(
    weights: str | os.PathLike | None, step: int | str
) -> release.ReleaseFile | run.RunCheckpoint:
    """Returns the source of the weights."""
    if weights is None:
        return release.ReleaseFile(shipped.default(), source="shipped")
    path = files.path(weights).expanduser()
    if path.is_dir():
        return run.find(path, step)
    if path.suffix.lower() in _PICKLED:
        raise ValueError(
            f"{path} is a PyTorch file, which is never unpickled here. Run "
            f"`llie-jax convert {path} {path.with_suffix('.safetensors').name}` and "
            "use the file that it writes."
        )
    if path.is_file():
        return release.ReleaseFile(path)
    if (file := shipped.locate(str(weights))) is not None:
        return release.ReleaseFile(file, source="shipped")
    known = release.published()
    if str(weights) in known:
        return release.find_published(str(weights), known[str(weights)])
    names = [*shipped.names(), *known]
    raise FileNotFoundError(
        f"There is no file, folder or published name {str(weights)!r}."
        f"{messages.suggest(str(weights), names)} Weights that ship: "
        f"{listed(shipped.names())}. Published: {listed(known, limit=5)}; "
        "`llie-jax models` lists them."
    )
