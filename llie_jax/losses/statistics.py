"""Losses on statistics of an image's errors: PSNR, and errors far from the mean."""

import math

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import difference, reduce_pixels
from llie_jax.registry import register


@register("outlier_aware", LossCard())
def outlier_aware(
    prediction: jax.Array, target: jax.Array, *, reduce: str = "mean"
) -> jax.Array:
    """Returns the absolute difference per image, weighted towards outliers, [B].

    The weight tanh(|d - mean| / (deviation / sqrt(2))) of a difference d compares it
    with the other differences of its image and channel. No gradient flows through it.

    Source: Yan et al., MobileIE, ICCV 2025; the tanh is the authors' code.

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    error = difference(prediction, target)
    fixed = jax.lax.stop_gradient(error)
    distance = jnp.abs(fixed - jnp.mean(fixed, (1, 2), keepdims=True))
    degrees = max(math.prod(error.shape[1:3]) - 1, 1)
    variance = jnp.sum(jnp.square(distance), (1, 2), keepdims=True) / degrees
    weight = jnp.tanh(distance / (jnp.sqrt(variance / 2) + 1e-6))
    return reduce_pixels(jnp.abs(error) * weight, reduce)


@register("psnr", LossCard())
def psnr(
    prediction: jax.Array,
    target: jax.Array,
    *,
    best: float = 50.0,
    eps: float = 1e-8,
) -> jax.Array:
    """Returns how far the PSNR of each image is below `best`, in dB, [B].

    Source: used as a loss by Chen et al., Simple Baselines for Image Restoration, ECCV
    2022; with an offset in the authors' code of MobileIE (Yan et al., ICCV 2025) and of
    LYT-Net (Brateanu et al., SPL 2025).
    Differs: a PSNR per image; LYT-Net's is that of the whole batch, which is one image
    in its training.

    Args:
        prediction: images [B, H, W, C], with a peak of 1.
        target: images of the same shape.
        best: PSNR at which the loss is 0.
        eps: added to the mean squared error.

    Raises:
        ValueError: if the shapes differ or `eps` is not positive.
    """
    if not eps > 0:
        raise ValueError(
            f"psnr needs eps > 0, because the PSNR of equal images is infinite; got "
            f"{eps!r}."
        )
    error = reduce_pixels(jnp.square(difference(prediction, target)), "mean")
    return best + 10.0 * jnp.log10(error + eps)
