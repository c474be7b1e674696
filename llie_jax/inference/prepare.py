"""Values computed once: for all images, or for all tiles of one image."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.inference import padding, programs
from llie_jax.models.base import Model
from llie_jax.nn import conv_kernels


def prepare(model: Model, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables with a `cache` of all that depends only on parameters.

    ADR's generators and LFPV's bank then skip the work that is the same for all images.
    Models without such parts get no cache. It is never saved; other parameters need a
    new one.

    Args:
        model: the model.
        variables: its variables; an existing cache is kept.
    """
    variables = dict(variables)
    if "cache" in variables:
        return variables
    side = model.multiple
    image = np.zeros((1, side, side, 3), np.float32)
    return variables | _written("cache", model, variables, image)


def shared_kernels(
    model: Model,
    variables: Mapping[str, Any],
    image: np.ndarray,
    *,
    pixels: int,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Returns the collection `kernels` of one image, from a downscaled copy of it.

    With it, all tiles of the image use the same generated kernels, close to those of
    the whole image. Empty for models that generate none.

    Args:
        model: the model.
        variables: its variables.
        image: RGB [H, W, 3], float in [0, 1].
        pixels: approximate maximum number of pixels of the downscaled copy.
        inputs: further inputs of the model; maps of the image's size are downscaled
            too.
    """
    size = image.shape[:2]
    factor = max(1, math.ceil(math.sqrt(size[0] * size[1] / pixels)))
    height, width = (side // factor * factor for side in size)

    def smaller(values):
        if not padding.is_map(values, size):
            return values
        cells = values[:height, :width].reshape(
            height // factor, factor, width // factor, factor, -1
        )
        cells = cells.mean(axis=(1, 3), dtype=np.float32)
        return padding.pad_to_multiple(cells, model.multiple, model.pad_mode)[0]

    small = {name: smaller(value)[None] for name, value in (inputs or {}).items()}
    return _written("kernels", model, dict(variables), smaller(image)[None], small)


def _written(collection, model, variables, image, inputs=None) -> dict[str, Any]:
    """Returns what the model writes to a collection, {} if nothing."""
    constants = {"variables": variables, "image": image, "inputs": inputs or {}}
    if not _writes(collection, model, _Shapes(constants)):
        return {}  # without compiling anything
    return programs.run(_run, collection, model, constants=constants)


class _Shapes:
    """Names, shapes and dtypes of a tree of arrays."""

    def __init__(self, tree):
        self.tree = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree
        )
        self._key = programs.structure(self.tree)

    def __hash__(self):
        return hash(self._key)

    def __eq__(self, other):
        return self._key == other._key


@functools.lru_cache(maxsize=32)  # tracing a large model takes seconds
def _writes(collection: str, model: Model, shapes: _Shapes) -> bool:
    run = functools.partial(_run, collection, model)
    with conv_kernels.use_implementation("lax"):  # the fastest to trace
        return bool(jax.eval_shape(run, shapes.tree))


def _run(collection, model, constants):
    # XLA compiles only what the collection depends on.
    rngs = {stream: jax.random.key(0) for stream in model.test_streams}
    return model.apply(
        constants["variables"],
        jnp.asarray(constants["image"]),
        mutable=[collection],
        rngs=rngs,
        **constants["inputs"],
    )[1]
