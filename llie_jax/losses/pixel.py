"""Losses that compare images pixel by pixel.

A basic loss is a function `(prediction, target) -> [B]`: float images [B, H, W, C] in,
one value per image out, reduced over pixels and channels by `reduce`: "mean", or "sum"
for objectives that are published as sums. The caller always averages over the batch, so
a published sum over a batch of B images is B times the value here. Computation is in
float32 or wider, whatever the dtype of the images.
"""

import math

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
    clip: bool = False,
    reduce: str = "mean",
) -> jax.Array:
    """Returns sqrt(difference^2 + eps) per image, [B]: an L1 that is smooth at 0.

    Source: Charbonnier et al., ICIP 1994, in the form common in image restoration.

    Args:
        prediction: images [B, H, W, C].
        target: images of the same shape.
        eps: added under the root, not squared; equal images give sqrt(eps).
        clip: whether the prediction is clipped to [0, 1] first, as MIRNet's authors do;
            values outside then get no gradient.
        reduce: "mean" or "sum" over pixels and channels.

    Raises:
        ValueError: if the shapes differ, `reduce` is unknown or `eps` is not positive.
    """
    if not eps > 0:
        raise ValueError(
            f"charbonnier needs eps > 0, because its gradient at 0 is infinite "
            f"otherwise; got {eps!r}. Use 'l1' for eps = 0."
        )
    if clip:
        prediction = jnp.clip(prediction, 0, 1)
    squared = jnp.square(difference(prediction, target))
    return reduce_pixels(jnp.sqrt(squared + eps), reduce)


@register("smooth_l1", LossCard())
def smooth_l1(
    prediction: jax.Array,
    target: jax.Array,
    *,
    beta: float = 1.0,
    reduce: str = "mean",
) -> jax.Array:
    """Returns an L1 that is a parabola below `beta`, per image, [B].

    Source: Girshick, Fast R-CNN, ICCV 2015, Eq. (3), for beta = 1; PyTorch's form.

    Args:
        prediction: images [B, H, W, C].
        target: images of the same shape.
        beta: difference at which the parabola becomes a line of slope 1.
        reduce: "mean" or "sum" over pixels and channels.

    Raises:
        ValueError: if the shapes differ, `reduce` is unknown or `beta` is not positive.
    """
    if not beta > 0:
        raise ValueError(
            f"smooth_l1 needs beta > 0, got {beta!r}. Use 'l1' for beta = 0."
        )
    size = jnp.abs(difference(prediction, target))
    values = jnp.where(size < beta, 0.5 * jnp.square(size) / beta, size - 0.5 * beta)
    return reduce_pixels(values, reduce)


@register("tonemapped_l1", LossCard())
def tonemapped_l1(
    prediction: jax.Array,
    target: jax.Array,
    *,
    mu: float = 5000.0,
    reduce: str = "mean",
) -> jax.Array:
    """Returns the L1 of log(1 + mu x) / log(1 + mu) per image, [B].

    The logarithm gives dark pixels the same weight as bright ones.

    Source: Kalantari and Ramamoorthi, Deep High Dynamic Range Imaging of Dynamic
    Scenes, SIGGRAPH 2017, Eq. (5); CPGA-Net+ uses it for low light.
    Differs: values below 0, of which there is no logarithm, mirror those above.

    Args:
        prediction: images [B, H, W, C].
        target: images of the same shape.
        mu: the strength of the compression.
        reduce: "mean" or "sum" over pixels and channels.

    Raises:
        ValueError: if the shapes differ, `reduce` is unknown or `mu` is not positive.
    """
    if not mu > 0:
        raise ValueError(
            f"tonemapped_l1 needs mu > 0, got {mu!r}. Use 'l1' for no compression."
        )

    def compress(image):
        image = as_float(image)
        return jnp.sign(image) * jnp.log1p(mu * jnp.abs(image)) / math.log1p(mu)

    return l1(compress(prediction), compress(target), reduce=reduce)


def difference(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns `prediction - target`, in float32 or wider.

    Raises:
        ValueError: if the shapes differ.
    """
    check_shapes(prediction, target)
    return as_float(prediction) - as_float(target)


def check_shapes(prediction: jax.Array, target: jax.Array) -> None:
    """Rejects shapes that would broadcast.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"The prediction has shape {prediction.shape}, the target {target.shape}; "
            "a loss needs equal shapes."
        )


def as_float(x: jax.Array) -> jax.Array:
    """Casts `x` to float32; wider dtypes are unchanged."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def reduce_pixels(values: jax.Array, reduce: str) -> jax.Array:
    """Reduces [B, ...] over all axes but the first, to [B].

    Raises:
        ValueError: if `reduce` is neither "mean" nor "sum".
    """
    axes = tuple(range(1, values.ndim))
    if reduce == "mean":
        return values.mean(axes)
    if reduce == "sum":
        return values.sum(axes)
    raise ValueError(f"A loss reduces by 'mean' or 'sum', not {reduce!r}.")
