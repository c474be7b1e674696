"""A model on one image of any size."""

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from llie_jax.inference import freeze, padding, tiling

TILE = 1024
"""Side of a tile, in pixels; one tile of DarkIR-m takes about 3 GB on a CPU."""

logger = logging.getLogger(__name__)


def plan(
    model: nn.Module,
    size: tuple[int, int],
    *,
    tile: int = TILE,
    overlap: int | None = None,
    limit: float | None = None,
) -> tiling.Grid:
    """Returns the tiles that `enhance` uses for an image of (height, width) pixels.

    Up to `limit` pixels that is a single one; see `enhance` for the options.
    """
    if limit is None:
        limit = tile * tile
    if overlap is None:
        overlap = tile // 8
    multiple = model.multiple
    height, width = (math.ceil(side / multiple) * multiple for side in size)
    if size[0] * size[1] <= limit:
        return tiling.Grid((height, width), (0,), (0,))
    return tiling.plan((height, width), tile=tile, overlap=overlap, multiple=multiple)


def enhance(
    model: nn.Module,
    variables: Mapping[str, Any],
    image: np.ndarray,
    *,
    tile: int = TILE,
    overlap: int | None = None,
    limit: float | None = None,
    shared_kernels: bool = True,
    clip: bool = True,
    progress: Callable[[], None] | None = None,
) -> np.ndarray:
    """Enhances an image of any size, from 1 x 1 pixel up.

    The image is padded to the model's `multiple` in the model's `pad_mode`, and cropped
    back. Above `limit` pixels it is enhanced in overlapping tiles. A model with global
    statistics then gives another result than without tiles; `plan` tells beforehand
    whether that happens.

    A model compiles once for each padded size up to the limit, and once for all images
    above it that are at least a tile high and wide. A folder of many small sizes
    compiles less with a smaller tile.

    Args:
        model: a model as `llie_jax.build` or `llie_jax.load` gives it.
        variables: its variables.
        image: RGB [H, W, 3], uint8, or float in [0, 1].
        tile: side of the tiles in pixels, rounded up to the model's `multiple`.
        overlap: pixels that neighbouring tiles share at least; by default an eighth of
            the tile.
        limit: the largest number of pixels that is enhanced in one piece; by default
            those of a tile, so that no image needs more memory than a tile. Infinity
            never tiles.
        shared_kernels: tiles of one image share the kernels that ADR generates, made
            from a smaller form of the whole image; False gives each tile its own.
            Without effect on other models.
        clip: limits a float result to [0, 1].
        progress: called after each tile.

    Returns:
        [H, W, 3]; uint8, rounded to nearest, if the image is; otherwise float32.

    Raises:
        TypeError: if the image is neither uint8 nor float.
        ValueError: if its shape or range is another, the options are, or the model's
            result is not finite.
    """
    image = np.asarray(image)
    _check(image)
    size = image.shape[:2]
    grid = plan(model, size, tile=tile, overlap=overlap, limit=limit)
    if len(grid) > 1:
        logger.info("%d x %d pixels: enhanced in %d tiles", *size, len(grid))
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    padded, _ = padding.pad_to_multiple(image, model.multiple, model.pad_mode)
    variables = freeze.freeze(model, jax.device_put(variables))
    if len(grid) > 1 and shared_kernels:
        floats = padded if image.dtype != np.uint8 else padded.astype(np.float32) / 255
        variables |= freeze.shared_kernels(model, variables, floats, pixels=tile**2)
    function = functools.partial(_apply, model, variables)
    if len(grid) > 1:
        result = tiling.apply(function, padded, grid, progress=progress)
    else:
        result = np.array(function(padded))
        if progress is not None:
            progress()
    result = padding.crop(result, size)
    if not np.isfinite(result).all():
        raise ValueError(
            "The model's result is not finite; are the weights those of a run that "
            "diverged?"
        )
    if clip or image.dtype == np.uint8:
        np.clip(result, 0, 1, out=result)
    return to_uint8(result) if image.dtype == np.uint8 else result


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns a float image in [0, 1] as uint8, clipped and rounded to nearest."""
    scaled = np.multiply(image, 255, dtype=np.float32)
    np.clip(scaled, 0, 255, out=scaled)
    return np.rint(scaled, out=scaled).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: nn.Module, variables: Any, image: jax.Array) -> jax.Array:
    """Returns the model's image, float32, for [H, W, 3]."""
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255
    return model.apply(variables, image[None]).image[0].astype(jnp.float32)


def _check(image: np.ndarray) -> None:
    """Raises if `image` is not an RGB image as `enhance` takes it."""
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(
            f"`image` has shape {image.shape}; one RGB image [H, W, 3] is accepted."
        )
    if image.dtype == np.uint8:
        return
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(
            f"`image` is {image.dtype}; accepted are uint8, or float in [0, 1] "
            "(divide 16-bit values by 65535)."
        )
    highest = image.max()
    # Resampling may overshoot a little; 8-bit values in a float array never stay below.
    if not np.isfinite(highest) or highest > 2:
        raise ValueError(
            f"The highest value of `image` is {highest:g}; floats are in [0, 1] "
            "(divide 8-bit values by 255)."
        )
