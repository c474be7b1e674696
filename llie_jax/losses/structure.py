"""Losses on local statistics: mean, contrast and correlation around each pixel."""

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.image.resize import area_downsample
from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, check_shapes, reduce_pixels
from llie_jax.nn.conv_kernels import grouped_conv
from llie_jax.registry import register

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_SCALE_POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Powers of the five scales of MS-SSIM, fine to coarse."""


@register("ssim", LossCard())
def ssim(
    prediction: jax.Array, target: jax.Array, *, reduce: str = "mean"
) -> jax.Array:
    """Returns 1 - SSIM per image, [B]: 0 for equal images.

    Gaussian windows of 11 x 11 pixels, with constants for a dynamic range of 1. Borders
    are zero-padded, so the SSIM map has one value per pixel and channel; the metrics
    leave the border out.

    Source: Wang et al., IEEE TIP 2004, Eq. (13); borders as in HVI-CIDNet's code.

    Args:
        prediction: images [B, H, W, C], for example in [0, 1] or, in HVI, [-1, 1].
        target: images of the same shape.
        reduce: "mean" or "sum" over pixels and channels.

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    check_shapes(prediction, target)
    luminance, structure = _similarity(prediction, target)
    return reduce_pixels(1 - luminance * structure, reduce)


@register("ms_ssim", LossCard())
def ms_ssim(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns 1 - MS-SSIM per image, [B]: 0 for equal images.

    Contrast and structure are compared at five scales, each half the size of the one
    before, luminance only at the last. Only windows inside the image count.

    Source: Wang et al., Multiscale structural similarity for image quality assessment,
    Asilomar 2003, Eq. (7); negative means count as 0 and odd sides get a row or column
    of zeros, as in the library pytorch_msssim.

    Args:
        prediction: images [B, H, W, C] in [0, 1], at least 161 pixels high and wide.
        target: images of the same shape.

    Raises:
        ValueError: if the shapes differ or the images are smaller.
    """
    check_shapes(prediction, target)
    smallest = (_WINDOW - 1) * 2 ** (len(_SCALE_POWERS) - 1) + 1
    if min(prediction.shape[1:3]) < smallest:
        raise ValueError(
            f"ms_ssim compares five scales and needs at least {smallest} x {smallest} "
            f"pixels; got {prediction.shape[1]} x {prediction.shape[2]}. Use larger "
            "crops, or weight 0 to turn it off."
        )
    x, y, edge = as_float(prediction), as_float(target), _WINDOW // 2
    total = 1.0
    for scale, power in enumerate(_SCALE_POWERS):
        if scale:
            x, y = _halved(x), _halved(y)
        luminance, structure = _similarity(x, y)
        last = scale == len(_SCALE_POWERS) - 1
        compared = luminance * structure if last else structure
        mean = compared[:, edge:-edge, edge:-edge].mean((1, 2))
        # The gradient of a power is infinite at 0, which `where` alone cannot mask.
        positive = mean > 0
        total *= jnp.where(positive, jnp.where(positive, mean, 1.0) ** power, 0.0)
    return reduce_pixels(1 - total, "mean")


def _similarity(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns how similar the luminance and the structure are around each pixel.

    Args:
        x: images [B, H, W, C].
        y: images of the same shape.

    Returns:
        Two maps [B, H, W, C], whose product is SSIM.
    """
    x, y = as_float(x), as_float(y)
    means = _blur(jnp.concatenate([x, y, x * x, y * y, x * y], axis=-1))
    mean_x, mean_y, square_x, square_y, product = jnp.split(means, 5, axis=-1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    # Rounding errors could make it zero for images far out of range.
    contrast = jnp.maximum(variances + _C2, 0.5 * _C2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / contrast


def _halved(x: jax.Array) -> jax.Array:
    """Returns the means of 2 x 2 cells, with zeros before the first of odd sides."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (height % 2, 0), (width % 2, 0), (0, 0)))
    return area_downsample(padded, 2)


def _blur(x: jax.Array) -> jax.Array:
    """Returns the Gaussian mean around each pixel, with zeros outside the image."""
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    kernel = jnp.asarray(taps / taps.sum(), x.dtype)[:, None, None, None]
    kernel = jnp.broadcast_to(kernel, (_WINDOW, 1, 1, x.shape[-1]))
    # The variances are small differences of large means.
    with jax.default_matmul_precision("highest"):
        rows = grouped_conv(x, kernel, groups=x.shape[-1])
        return grouped_conv(rows, kernel.swapaxes(0, 1), groups=x.shape[-1])
