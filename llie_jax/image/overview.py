"""A small picture of a whole photo, and where a part lies in it.

Models that tone a photo as a whole take both with a crop or a tile of it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.image import levels
from llie_jax.image.resize import adaptive_mean


def overview(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the means of `side` x `side` cells of a photo, float32 in [0, 1].

    Args:
        image: [H, W, 3], uint8, uint16, or float in [0, 1].
        side: rows and columns of cells.
    """
    image = jnp.asarray(levels.to_float(np.asarray(image)), jnp.float32)
    return np.asarray(adaptive_mean(image[None], (side, side)))[0]


def window(rows: np.ndarray, columns: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns where parts lie in their photos, float32 [B, 4].

    Top, left, bottom and right, in the height and width of the photo. The bottom of a
    part that is upside down is less than its top, likewise its right and left.

    Args:
        rows: the photo's row of each row of the part, consecutive and rising or
            falling, int [B, P].
        columns: likewise, int [B, Q].
        sizes: height and width of the photos, int [B, 2].
    """

    def edges(run, length):
        first, last = run[:, 0], run[:, -1]
        falls = first > last
        return (first + falls) / length, (last + ~falls) / length

    top, bottom = edges(np.asarray(rows), sizes[:, 0])
    left, right = edges(np.asarray(columns), sizes[:, 1])
    return np.stack([top, left, bottom, right], -1).astype(np.float32)


def mirrored(overview: jax.Array, window: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns overviews and windows of mirrored photos, for parts that are mirrored.

    A photo is as natural mirrored as not, and a model that sees both memorises scenes
    less. Parts that are upside down stay so in their photos.

    Args:
        overview: [B, S, S, 3].
        window: [B, 4], see `window`; where the right is less than the left, the photo
            is mirrored, after which the part is not mirrored in it.
    """
    top, left, bottom, right = window.T
    falls = right < left
    left, right = (jnp.where(falls, 1 - x, x) for x in (left, right))
    overview = jnp.where(falls[:, None, None, None], overview[:, :, ::-1], overview)
    return overview, jnp.stack([top, left, bottom, right], -1)


def coordinates(window: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, ...]:
    """Returns where the pixels of parts lie in their photos: rows [B, P], columns.

    Args:
        window: [B, 4], see `window`.
        size: height P and width Q of the parts.
    """
    found = []
    for axis, count in enumerate(size):
        first, last = window[:, axis, None], window[:, axis + 2, None]
        place = jax.lax.broadcasted_iota(jnp.float32, (1, count), 1)
        found.append(first + (place + 0.5) / count * (last - first))
    return tuple(found)
