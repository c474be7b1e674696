"""Degeneration: the effect of resetting a layer on a model's image."""

from collections.abc import Sequence

import numpy as np

from llie_jax.image import levels

DMR = (
    "DMR: mean over layers and images of 10 log10(1 / MSE) between the model's image "
    "and its image with one layer reset, both clipped to [0, 1]; in dB, an equal image "
    "counts as 100. Lower: each layer matters more. In 8 bits: likewise of the images "
    "rounded to 8 bits."
)
"""The definition, which reports print beside the number."""

POI = (
    "POI: share of images whose PSNR is strictly higher with one layer reset, in "
    "percent, mean over layers. With all layers of a kind reset at once it differs."
)
"""The definition, which reports print beside the number."""

_FLOOR = 1e-10


def degeneration(
    image: np.ndarray, reset_image: np.ndarray, *, rounded: bool = False
) -> float:
    """Returns 10 log10(1 / MSE) of one image and one reset layer, in dB.

    Source: Li et al., arXiv 2412.16459, Eq. (8). DMR is its mean over layers and
    images: a mean of logarithms, as the equation says, and not a sum, judging by the
    size of the published values.

    Args:
        image: the image of the model [H, W, 3], floating point; clipped to [0, 1] here.
        reset_image: the image of the model with the layer reset, likewise.
        rounded: rounds both to 8 bits before, the other reading of the paper, which
            calls 255 the peak.

    Raises:
        ValueError: if the shapes differ.
    """
    if image.shape != reset_image.shape:
        raise ValueError(f"The images are {image.shape} and {reset_image.shape}.")
    if rounded:
        image, reset_image = (
            levels.quantize(x, 8) / 255.0 for x in (image, reset_image)
        )
    first, second = (
        np.clip(np.asarray(x, np.float64), 0, 1) for x in (image, reset_image)
    )
    return float(-10 * np.log10(max(np.mean((first - second) ** 2), _FLOOR)))


def poi(trained: Sequence[float], reset: Sequence[float]) -> float:
    """Returns the percentage of images that score strictly higher after a reset.

    Args:
        trained: PSNR of each image by the model as trained.
        reset: PSNR of each image with the layers reset.

    Raises:
        ValueError: if there are no scores, or their numbers differ.
    """
    if len(trained) != len(reset) or not len(trained):
        raise ValueError(f"There are {len(trained)} and {len(reset)} scores.")
    return 100 * float(np.mean(np.asarray(reset) > np.asarray(trained)))
