"""Losses on local statistics: mean, contrast and correlation around each pixel."""

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, check_shapes, reduce_pixels
from llie_jax.nn.conv_kernels import grouped_conv
from llie_jax.registry import register

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


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
    x, y = as_float(prediction), as_float(target)
    means = _blur(jnp.concatenate([x, y, x * x, y * y, x * y], axis=-1))
    mean_x, mean_y, square_x, square_y, product = jnp.split(means, 5, axis=-1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    # Rounding errors could make it zero for images far out of range.
    contrast = jnp.maximum(variances + _C2, 0.5 * _C2)
    similarity = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    similarity /= (mean_x**2 + mean_y**2 + _C1) * contrast
    return reduce_pixels(1 - similarity, reduce)


def _blur(x: jax.Array) -> jax.Array:
    """Returns the Gaussian mean around each pixel, with zeros outside the image."""
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    kernel = jnp.asarray(taps / taps.sum(), x.dtype)[:, None, None, None]
    kernel = jnp.broadcast_to(kernel, (_WINDOW, 1, 1, x.shape[-1]))
    # The variances are small differences of large means.
    with jax.default_matmul_precision("highest"):
        rows = grouped_conv(x, kernel, groups=x.shape[-1])
        return grouped_conv(rows, kernel.swapaxes(0, 1), groups=x.shape[-1])
