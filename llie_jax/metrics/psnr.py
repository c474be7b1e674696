"""Peak signal-to-noise ratio, one function for each definition in use.

All take RGB images [H, W, 3], uint8, uint16 or floats in [0, 1], and return decibels in
float64: `10 log10(peak^2 / MSE)` with the mean over all pixels and channels, and
infinity for equal images.
"""

import math

import numpy as np

from llie_jax.image import color
from llie_jax.metrics import values
from llie_jax.metrics.base import MetricCard
from llie_jax.registry import register


@register(
    "rgb_uint8",
    MetricCard(
        used_by="SNR-Net, BasicSR, scikit-image, papers that score saved PNG files",
        unit="dB",
    ),
)
def rgb_uint8(image: np.ndarray, target: np.ndarray, *, crop_border: int = 0) -> float:
    """Returns the PSNR of both images rounded to 8 bits.

    Args:
        image: the image.
        target: the reference.
        crop_border: pixels to leave out at every side.

    Raises:
        ValueError: if nothing is left.
    """
    image, target = (values.crop(x, crop_border) for x in (image, target))
    return _psnr(values.to_levels(image), values.to_levels(target), peak=255)


@register("rgb_uint8_trunc", MetricCard(used_by="HVI-CIDNet, LLFlow", unit="dB"))
def rgb_uint8_trunc(image: np.ndarray, target: np.ndarray) -> float:
    """Returns the PSNR with the image truncated to 8 bits, not rounded.

    It differs from `rgb_uint8` by up to 0.2 dB in either direction; use it only to
    compare with papers.

    Differs: HVI-CIDNet's script adds 1e-8 to the mean squared error (below 1e-5 dB).
    """
    levels = values.to_levels(image, rounding="truncate")
    return _psnr(levels, values.to_levels(target), peak=255)


@register(
    "rgb_float",
    MetricCard(
        used_by="Retinexformer, MIRNet, Restormer; DarkIR without clipping", unit="dB"
    ),
)
def rgb_float(image: np.ndarray, target: np.ndarray, *, clip: bool = True) -> float:
    """Returns the PSNR of the image before rounding, against the target as stored.

    Args:
        image: the image.
        target: the reference.
        clip: clip the image to [0, 1] first.
    """
    return _psnr(values.to_unit(image, clip=clip), values.to_unit(target), peak=1)


@register(
    "y_float",
    MetricCard(used_by="some comparison tables; super-resolution's habit", unit="dB"),
)
def y_float(image: np.ndarray, target: np.ndarray) -> float:
    """Returns the PSNR of the unrounded BT.601 luma; 1 to 2.5 dB above RGB values."""
    image, target = values.to_unit(image), values.to_unit(target)
    return _psnr(color.luma_bt601(image), color.luma_bt601(target), peak=255)


def _psnr(image: np.ndarray, target: np.ndarray, *, peak: float) -> float:
    error = np.mean(np.square(image.astype(np.float64) - target))
    return 10 * math.log10(peak**2 / error) if error else math.inf
