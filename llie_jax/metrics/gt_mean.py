"""Scores after the image is scaled to the mean brightness of the reference.

"GT mean" removes the error of the global exposure, 2 to 4 dB on LOL-v1, and it uses the
answer: such scores are comparable only with each other, and tables mark them. Four
scripts differ in what they call the mean, and in the rounding before and after.

All take RGB images [H, W, 3], uint8, uint16 or floats. A black image, which no factor
brightens, stays as it is.
"""

import functools

import numpy as np

from llie_jax.image import color
from llie_jax.metrics import lpips, psnr, ssim, values
from llie_jax.metrics.base import MetricCard
from llie_jax.registry import register

_decibels = functools.partial(MetricCard, unit="dB", uses_reference=True)
_similarity = functools.partial(
    MetricCard, uses_reference=True, minimum_size=ssim.WINDOW
)
_lpips = functools.partial(lpips.card, "alex", uses_reference=True)


@register("gtmean", _decibels(used_by="this toolbox; the protocol default"))
def gtmean(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `rgb_uint8` of the image scaled to the reference's mean gray."""
    return psnr.rgb_uint8(_plain(image, target), target)


@register("gtmean_ssim", _similarity(used_by="this toolbox; the protocol default"))
def gtmean_ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `gauss11` of the image scaled to the reference's mean gray."""
    return ssim.gauss11(_plain(image, target), target)


@register("gtmean_retinexformer", _decibels(used_by="Retinexformer with --GT_mean"))
def gtmean_retinexformer(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `rgb_float` of the image scaled as Retinexformer's script does.

    The means are of gray with the weights of red and blue swapped, in float32.
    """
    return psnr.rgb_float(_retinexformer(image, target), target)


@register(
    "gtmean_retinexformer_ssim", _similarity(used_by="Retinexformer with --GT_mean")
)
def gtmean_retinexformer_ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `gauss11` of the image scaled as Retinexformer's script does."""
    return ssim.gauss11(_retinexformer(image, target), target)


@register("gtmean_cidnet", _decibels(used_by="HVI-CIDNet with --use_GT_mean"))
def gtmean_cidnet(image: np.ndarray, target: np.ndarray) -> float:
    """Returns the PSNR of the image scaled as HVI-CIDNet's script does, unrounded.

    The image is truncated to 8 bits first; the means are of gray rounded to 8 bits.
    """
    return psnr.rgb_float(_cidnet(image, target), target)


@register("gtmean_cidnet_ssim", _similarity(used_by="HVI-CIDNet with --use_GT_mean"))
def gtmean_cidnet_ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Returns unrounded `gauss11` of the image scaled as HVI-CIDNet's script does."""
    return ssim.gauss11(_cidnet(image, target), target, quantize=False)


@register("gtmean_cidnet_lpips", _lpips(used_by="HVI-CIDNet with --use_GT_mean"))
class GTMeanCIDNetLPIPS(lpips.LPIPSAlex):
    """`lpips_alex` of the image scaled as HVI-CIDNet's script does, unrounded."""

    def convert(self, image: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns the scaled image."""
        return super().convert(_cidnet(image, target), target)


@register("gtmean_llflow", _decibels(used_by="LLFlow", takes_raw=True))
def gtmean_llflow(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `rgb_uint8` of the image scaled and truncated as LLFlow's script does.

    The reference's mean is of gray with the weights of red and blue swapped, that of
    the image is over all channels of the output before clipping.
    """
    return psnr.rgb_uint8(_llflow(image, target), target)


@register("gtmean_llflow_ssim", _similarity(used_by="LLFlow", takes_raw=True))
def gtmean_llflow_ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Returns `uniform7_gray` of the image scaled as LLFlow's script does."""
    return ssim.uniform7_gray(_llflow(image, target), target)


@register("gtmean_llflow_lpips", _lpips(used_by="LLFlow", takes_raw=True))
class GTMeanLLFlowLPIPS(lpips.LPIPSAlex):
    """`lpips_alex` of the image scaled and truncated as LLFlow's script does."""

    def convert(self, image: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns the scaled image."""
        return super().convert(_llflow(image, target), target)


def _plain(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    image = values.to_unit(image)
    mean, wanted = color.gray(image).mean(), color.gray(values.to_unit(target)).mean()
    return np.clip(image * _ratio(wanted, mean), 0, 1)


def _retinexformer(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    image, target = (values.to_unit(x).astype(np.float32) for x in (image, target))
    wanted, mean = (color.gray(x[..., ::-1]).mean() for x in (target, image))
    return np.clip(image * np.float32(_ratio(wanted, mean)), 0, 1)


def _cidnet(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    image = values.to_levels(image, rounding="truncate").astype(np.float64)
    target = values.to_levels(target).astype(np.float64)
    wanted, mean = (np.rint(color.gray(x)).mean() for x in (target, image))
    return np.clip(image * _ratio(wanted, mean), 0, 255) / 255


def _llflow(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    image, target = values.to_unit(image, clip=False), values.to_unit(target)
    ratio = _ratio(color.gray(target[..., ::-1]).mean(), image.mean())
    return values.to_levels(image * ratio, rounding="truncate")


def _ratio(wanted: float, mean: float) -> float:
    return float(wanted / mean) if mean else 1.0
