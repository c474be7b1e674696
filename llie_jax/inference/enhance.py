"""`llie_jax.enhance`: one call from an image to an enhanced image."""

import collections
import hashlib
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

from llie_jax.inference.enhancer import TILE, Enhancer, check_finite
from llie_jax.models.base import Model

_KEPT = 2
_enhancers: collections.OrderedDict[Hashable, tuple[Enhancer, Any]] = (
    collections.OrderedDict()
)
_lock = threading.Lock()


def enhance(
    model: Model,
    variables: Mapping[str, Any],
    image: np.ndarray,
    *,
    strength: float = 1.0,
    saturation: float = 1.0,
    warmth: float = 0.0,
    gate: bool = False,
    tile: int = TILE,
    overlap: int | None = None,
    limit: float | None = None,
    shared_kernels: bool = True,
    clip: bool = True,
    progress: Callable[[], None] | None = None,
) -> np.ndarray:
    """Enhances an image of any size, from 1 x 1 pixel up; see `Enhancer`.

    The two most recently used enhancers are cached, so a loop over photos prepares the
    model once.

    Args:
        model: a model from `llie_jax.build` or `llie_jax.load`.
        variables: its variables.
        image: RGB [H, W, 3], uint8, uint16, or float in [0, 1].
        strength: share of the model's result in the mixture with the image, 0 to 1; see
            `Enhancer` for this and the next seven.
        saturation: factor on the saturation of the result, 0 to 2.
        warmth: white balance of the result, -1 (cold) to 1 (warm).
        gate: leaves images that the model finds well exposed as they are.
        tile: side of the tiles of large images, in pixels.
        overlap: minimum overlap of neighbouring tiles, in pixels.
        limit: images with more pixels than this are tiled.
        shared_kernels: tiles of one image share the kernels that ADR generates.
        clip: clips a float result to [0, 1].
        progress: called after each tile.

    Returns:
        [H, W, 3]; uint8 or uint16, rounded to nearest, if the image is; otherwise
            float32.

    Raises:
        TypeError: if the image is neither uint8, uint16 nor float.
        ValueError: if the image's shape or range or an option is invalid, or the
            model's output is not finite.
    """
    options = {
        "strength": strength,
        "saturation": saturation,
        "warmth": warmth,
        "gate": gate,
        "tile": tile,
        "overlap": overlap,
        "limit": limit,
        "shared_kernels": shared_kernels,
    }
    enhancer = _enhancer(model, variables, options)
    if clip or np.issubdtype(np.asarray(image).dtype, np.integer):
        return enhancer(image, progress=progress)
    result = enhancer(image, raw=True, progress=progress)
    check_finite(result)
    return result


def _enhancer(model, variables, options) -> Enhancer:
    """Returns the cached enhancer, or a new one."""
    leaves, names = jax.tree.flatten(dict(variables))
    key = (model, names, tuple(map(_identity, leaves)), tuple(options.items()))
    with _lock:
        if key not in _enhancers:
            # Keep the arrays alive too: a freed array's id can be reused.
            _enhancers[key] = Enhancer(model, variables, **options), leaves
            if len(_enhancers) > _KEPT:
                _enhancers.popitem(last=False)
        _enhancers.move_to_end(key)
        return _enhancers[key][0]


def _identity(leaf) -> Hashable:
    """Returns a key that identifies an array, without reading JAX's values."""
    if isinstance(leaf, jax.Array):
        return id(leaf)
    array = np.ascontiguousarray(leaf)  # a NumPy array can change in place
    return array.shape, str(array.dtype), hashlib.blake2b(array).digest()
