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
    tile: int = TILE,
    overlap: int | None = None,
    limit: float | None = None,
    shared_kernels: bool = True,
    clip: bool = True,
    progress: Callable[[], None] | None = None,
) -> np.ndarray:
    """Enhances an image of any size, from 1 x 1 pixel up; see `Enhancer`.

    The enhancers of the last two calls that differ in more than the image are kept, so
    that a loop over photos prepares once.

    Args:
        model: a model as `llie_jax.build` or `llie_jax.load` gives it.
        variables: its variables.
        image: RGB [H, W, 3], uint8, or float in [0, 1].
        tile: side of the tiles of large images; this and the next three as in
            `Enhancer`.
        overlap: pixels that neighbouring tiles share at least.
        limit: the largest number of pixels that is enhanced in one piece.
        shared_kernels: tiles of one image share the kernels that ADR generates.
        clip: limits a float result to [0, 1].
        progress: called after each tile.

    Returns:
        [H, W, 3]; uint8, rounded to nearest, if the image is; otherwise float32.

    Raises:
        TypeError: if the image is neither uint8 nor float.
        ValueError: if its shape or range is another, the options are, or the model's
            result is not finite.
    """
    options = {
        "tile": tile,
        "overlap": overlap,
        "limit": limit,
        "shared_kernels": shared_kernels,
    }
    enhancer = _enhancer(model, variables, options)
    if clip or np.asarray(image).dtype == np.uint8:
        return enhancer(image, progress=progress)
    result = enhancer(image, raw=True, progress=progress)
    check_finite(result)
    return result


def _enhancer(model, variables, options) -> Enhancer:
    """Returns the enhancer of earlier calls, or a new one."""
    leaves, names = jax.tree.flatten(dict(variables))
    key = (model, names, tuple(map(_identity, leaves)), tuple(options.items()))
    with _lock:
        if key not in _enhancers:
            # The arrays are kept too: the address of one that is gone is used again.
            _enhancers[key] = Enhancer(model, variables, **options), leaves
            if len(_enhancers) > _KEPT:
                _enhancers.popitem(last=False)
        _enhancers.move_to_end(key)
        return _enhancers[key][0]


def _identity(leaf) -> Hashable:
    """Returns what tells one array from another, without a look at JAX's values."""
    if isinstance(leaf, jax.Array):
        return id(leaf)
    array = np.ascontiguousarray(leaf)  # a NumPy array may be changed in place
    return array.shape, str(array.dtype), hashlib.blake2b(array).digest()
