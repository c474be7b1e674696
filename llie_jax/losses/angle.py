"""The angle between colours."""

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, check_shapes, reduce_pixels
from llie_jax.registry import register

_EPSILON = 1e-8


@register("rgb_cosine", LossCard())
def rgb_cosine(
    prediction: jax.Array, target: jax.Array, *, reduce: str = "mean"
) -> jax.Array:
    """Returns 1 - the cosine of the angle between colours per image, [B].

    A colour is the vector of a pixel's channels. The prediction is clipped to [0, 1]
    first; a black pixel counts as perpendicular to every colour.

    Source: Yan et al., MobileIE, ICCV 2025, and the authors' code.

    Args:
        prediction: images [B, H, W, 3], clipped or not.
        target: images of the same shape, in [0, 1].
        reduce: "mean" or "sum" over pixels.

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    check_shapes(prediction, target)
    x, y = jnp.clip(as_float(prediction), 0.0, 1.0), as_float(target)
    cosine = jnp.sum(x * y, -1) / (_length(x) * _length(y))
    return reduce_pixels(1.0 - cosine, reduce)


def _length(x: jax.Array) -> jax.Array:
    # Limited under the root, whose gradient is infinite at 0.
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), -1), _EPSILON**2))
