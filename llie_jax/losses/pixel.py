"""Losses that compare images pixel by pixel.

A basic loss is a function `(prediction, target) -> [B]`: float images [B, H, W, C] in,
one value per image out, reduced over the image's pixels and channels by `reduce`:
"mean", or "sum" for objectives that were published as sums. The batch is always
averaged by the caller, so a published sum over a batch of B images is B times that.
Computation is in float32 at least, whatever the dtype of the images.
"""

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.registry import register


@register("l1", LossCard())
def l1(prediction: jax.Array, target: jax.Array, *, reduce: str = "mean") -> jax.Array:
    """Returns the absolute difference per image, [B].

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    return reduce_pixels(jnp.abs(difference(prediction, target)), reduce)


@register("mse", LossCard())
def mse(prediction: jax.Array, target: jax.Array, *, reduce: str = "mean") -> jax.Array:
    """Returns the squared difference per image, [B].

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    return reduce_pixels(jnp.square(difference(prediction, target)), reduce)


@register("charbonnier", LossCard())
def charbonnier(
    prediction: jax.Array,
    target: jax.Array,
    *,
    eps: float = 1e-6,
    reduce: str = "mean",
) -> jax.Array:
    """Returns sqrt(difference^2 + eps) per image, [B]: an L1 that is smooth at 0.

    Source: Charbonnier et al., ICIP 1994, in the form used for restoration.

    Args:
        prediction: images [B, H, W, C].
        target: images of the same shape.
        eps: added inside the root, not squared; equal images score sqrt(eps).
        reduce: "mean" or "sum" over pixels and channels.

    Raises:
        ValueError: if the shapes differ, `reduce` is unknown or `eps` is not positive.
    """
    if not eps > 0:
        raise ValueError(
            f"charbonnier needs eps > 0 (its gradient at 0 is infinite without), "
            f"not {eps!r}; use 'l1' for eps = 0."
        )
    squared = jnp.square(difference(prediction, target))
    return reduce_pixels(jnp.sqrt(squared + eps), reduce)


def difference(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns `prediction - target`, in float32 at least.

    Raises:
        ValueError: if the shapes differ.
    """
    check_shapes(prediction, target)
    return as_float(prediction) - as_float(target)


def check_shapes(prediction: jax.Array, target: jax.Array) -> None:
    """Refuses what would broadcast.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"The prediction {prediction.shape} and the target {target.shape} differ "
            "in shape; a loss needs equal shapes."
        )


def as_float(x: jax.Array) -> jax.Array:
    """Returns `x` in float32, or unchanged if it is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def reduce_pixels(values: jax.Array, reduce: str) -> jax.Array:
    """Returns the mean or the sum of [B, ...] over all axes but the first, [B].

    Raises:
        ValueError: if `reduce` is neither "mean" nor "sum".
    """
    axes = tuple(range(1, values.ndim))
    if reduce == "mean":
        return values.mean(axes)
    if reduce == "sum":
        return values.sum(axes)
    raise ValueError(f"A loss reduces by 'mean' or 'sum', not {reduce!r}.")
