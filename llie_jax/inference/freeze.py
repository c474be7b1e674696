"""What can be computed once: for all images, or for all tiles of one image."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from llie_jax.inference import padding


def freeze(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables with a `cache` of all that depends on parameters only.

    ADR's generators then skip what they share for all images. Models without such
    parts get no cache. It is never saved, and must be made anew for other parameters.

    Args:
        model: the model.
        variables: its variables, without a cache or with one that is kept.
    """
    variables = dict(variables)
    if "cache" in variables:
        return variables
    side = model.multiple
    image = jnp.zeros((1, side, side, 3))
    return variables | _written("cache", model, variables, image)


def shared_kernels(
    model: nn.Module, variables: Mapping[str, Any], image: np.ndarray, *, pixels: int
) -> dict[str, Any]:
    """Returns the collection `kernels` of one image, made from a smaller form of it.

    With it, all tiles of the image have the same generated kernels, close to those of
    the image as a whole. Empty for models that generate none.

    Args:
        model: the model.
        variables: its variables.
        image: RGB [H, W, 3], float in [0, 1].
        pixels: about how many pixels the smaller form has at most.
    """
    factor = max(1, math.ceil(math.sqrt(image.shape[0] * image.shape[1] / pixels)))
    height, width = (side // factor * factor for side in image.shape[:2])
    cells = image[:height, :width].reshape(
        height // factor, factor, width // factor, factor, 3
    )
    small = cells.mean(axis=(1, 3), dtype=np.float32)
    small, _ = padding.pad_to_multiple(small, model.multiple, model.pad_mode)
    return _written("kernels", model, dict(variables), small[None])


def _written(collection, model, variables, image) -> dict[str, Any]:
    """Returns what the model writes to a collection, {} if nothing."""
    run = functools.partial(_run, collection, model)
    if not jax.eval_shape(run, variables, image):
        return {}  # and nothing is compiled
    return run(variables, image)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(collection, model, variables, image):
    # Only what leads to the collection is compiled.
    return model.apply(variables, image, mutable=[collection])[1]
