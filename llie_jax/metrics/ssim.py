"""Structural similarity, one function for each window and colour space in use.

All take RGB images [H, W, 3], uint8, uint16 or floats in [0, 1], and return a float64
between -1 and 1. Values are rounded to 8 bits first, unless `quantize` is False.

Source: Wang et al., Image quality assessment: from error visibility to structural
similarity, TIP 2004, Eq. (13), with K1 = 0.01 and K2 = 0.03.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from llie_jax.image import color
from llie_jax.metrics import values
from llie_jax.metrics.base import MetricCard
from llie_jax.registry import register

WINDOW = 11
SIGMA = 1.5
_BOX = 7


@register(
    "gauss11",
    MetricCard(
        used_by="the original MATLAB code, BasicSR, Retinexformer, HVI-CIDNet, DarkIR",
        minimum_size=WINDOW,
    ),
)
def gauss11(
    image: np.ndarray,
    target: np.ndarray,
    *,
    quantize: bool = True,
    crop_border: int = 0,
) -> float:
    """Returns SSIM with the 11x11 Gaussian window, averaged over the channels.

    Only windows inside the image count.

    Args:
        image: the image.
        target: the reference.
        quantize: round both to 8 bits first; False neither rounds nor clips.
        crop_border: pixels to leave out at every side.

    Raises:
        ValueError: if less than a window is left.
    """
    image, target = (
        _scaled(values.crop(x, crop_border), quantize) for x in (image, target)
    )
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"crop_border={crop_border} leaves less than a window.")
    return _mean_over_channels(_gaussian, image, target)


@register(
    "gauss11_y",
    MetricCard(
        used_by="BasicSR with test_y_channel, pyiqa's default, LEDNet",
        minimum_size=WINDOW,
    ),
)
def gauss11_y(image: np.ndarray, target: np.ndarray, *, swapped: bool = False) -> float:
    """Returns SSIM with the 11x11 Gaussian window, on unrounded BT.601 luma.

    Args:
        image: the image.
        target: the reference.
        swapped: swap red and blue first, as scripts do that read images with OpenCV.
    """
    return _ssim(_gaussian, _luma(image, swapped), _luma(target, swapped))


@register("gauss11_y_full", MetricCard(used_by="forks of BasicSR"))
def gauss11_y_full(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `gauss11_y` over the whole image, its edges replicated."""
    return _ssim(_gaussian_full, _luma(image), _luma(target))


@register(
    "uniform7",
    MetricCard(
        used_by="scikit-image's defaults and papers that cite it", minimum_size=_BOX
    ),
)
def uniform7(image: np.ndarray, target: np.ndarray) -> float:
    """Returns SSIM with a 7x7 box and sample covariance, averaged over the channels."""
    return _mean_over_channels(
        _box, _scaled(image), _scaled(target), correction=_sample_correction()
    )


@register(
    "uniform7_gray",
    MetricCard(used_by="LLFlow and papers that reuse its script", minimum_size=_BOX),
)
def uniform7_gray(image: np.ndarray, target: np.ndarray) -> float:
    """Returns SSIM with a 7x7 box and sample covariance, on gray rounded to 8 bits."""
    image, target = (np.rint(color.gray(_scaled(x))) for x in (image, target))
    return _ssim(_box, image, target, correction=_sample_correction())


@register(
    "gauss_volume",
    MetricCard(
        used_by="training-time validation of MIRNetv2, Restormer, Retinexformer"
    ),
)
def gauss_volume(image: np.ndarray, target: np.ndarray) -> float:
    """Returns SSIM with one Gaussian over height, width and channel, edges replicated.

    Not comparable with `gauss11`: it smooths over the colour channels as well. It runs
    in float32, as those validation scripts do, at about a second per photo: rounding in
    their sums of 1331 weighted squares moves the result by up to 4e-5.
    """
    image, target = (_scaled(x).astype(np.float32) for x in (image, target))
    return _ssim(_gaussian_volume, image, target)


def _scaled(image: np.ndarray, quantize: bool = True) -> np.ndarray:
    """Returns float64 values with 255 as white."""
    if quantize:
        return values.to_levels(image).astype(np.float64)
    return 255 * values.to_unit(image, clip=False)


def _luma(image: np.ndarray, swapped: bool = False) -> np.ndarray:
    """Returns the unrounded luma of an image rounded to 8 bits."""
    levels = values.to_levels(image) / 255
    return color.luma_bt601(levels[..., ::-1] if swapped else levels)


def _mean_over_channels(window: Callable, image, target, **options) -> float:
    """Returns the mean over channels, one at a time to save memory."""
    channels = [
        _ssim(
            window,
            np.ascontiguousarray(image[..., channel]),
            np.ascontiguousarray(target[..., channel]),
            **options,
        )
        for channel in range(image.shape[-1])
    ]
    return float(np.mean(channels))


def _ssim(window: Callable, x, y, *, correction: float = 1.0) -> float:
    """Returns the mean SSIM of two arrays with 255 as peak.

    Args:
        window: computes the local means of an array.
        x: one array.
        y: the other one.
        correction: factor on variances and covariance, n / (n - 1) for sample ones.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = window(x), window(y)
    product, square_x, square_y = mean_x * mean_y, mean_x**2, mean_y**2
    covariance = correction * (window(x * y) - product)
    if x.dtype == np.float64:  # only their sum is needed: one window fewer
        variances = correction * (window(x * x + y * y) - (square_x + square_y))
    else:  # the float32 scripts round them one by one, which shows in the result
        variance_x = correction * (window(x * x) - square_x)
        variance_y = correction * (window(y * y) - square_y)
        variances = variance_x + variance_y
    similarity = (2 * product + c1) * (2 * covariance + c2)
    similarity /= (square_x + square_y + c1) * (variances + c2)
    return float(np.mean(similarity, dtype=np.float64))


def _taps() -> np.ndarray:
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    return taps / taps.sum()


def _gaussian(x: np.ndarray) -> np.ndarray:
    """Returns Gaussian means [H - 10, W - 10] of the windows inside [H, W]."""
    taps, edge = _taps(), WINDOW // 2
    rows = ndimage.correlate1d(x, taps, axis=1)[:, edge:-edge]
    return ndimage.correlate1d(rows, taps, axis=0)[edge:-edge]


def _gaussian_full(x: np.ndarray) -> np.ndarray:
    """Returns Gaussian means [H, W] of [H, W], its edges replicated."""
    rows = ndimage.correlate1d(x, _taps(), axis=1, mode="nearest")
    return ndimage.correlate1d(rows, _taps(), axis=0, mode="nearest")


def _gaussian_volume(x: np.ndarray) -> np.ndarray:
    """Returns Gaussian means [C, H, W] of float32 [H, W, C], its edges replicated.

    The 1331 products are added one by one: the rounding depends on the order.
    """
    taps, edge = _taps(), WINDOW // 2
    window = np.einsum("i,j,k->ijk", taps, taps, taps).astype(np.float32)
    (height, width, channels), rows = x.shape, 16  # few rows at a time stay in cache
    padded = np.pad(x.transpose(2, 0, 1), edge, mode="edge")
    means = np.zeros((channels, height, width), np.float32)
    for top in range(0, height, rows):
        block = means[:, top : top + rows]
        product = np.empty_like(block)
        for i, j, k in np.ndindex(window.shape):
            shifted = padded[k:, top + i :, j:]
            shifted = shifted[:channels, : block.shape[1], :width]
            np.multiply(shifted, window[i, j, k], out=product)
            block += product
    return means


def _box(x: np.ndarray) -> np.ndarray:
    """Returns plain means [H - 6, W - 6] of the 7x7 windows inside [H, W]."""
    edge = _BOX // 2
    return ndimage.uniform_filter(x, _BOX)[edge:-edge, edge:-edge]


def _sample_correction() -> float:
    return _BOX**2 / (_BOX**2 - 1)
