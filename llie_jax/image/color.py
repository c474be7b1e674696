"""Linear light, and brightness in the two definitions that evaluation scripts use.

The functions of brightness take NumPy or JAX arrays and return the same kind.
"""

import jax.numpy as jnp
import numpy as np

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Luminance of linear red, green and blue in sRGB (ITU-R BT.709)."""


def srgb_to_linear(encoded: np.ndarray) -> np.ndarray:
    """Decodes sRGB values to linear light, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(
        encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Encodes linear light as sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    )


def luma_bt601(image):
    """Returns BT.601 studio-range luma, as MATLAB's `rgb2ycbcr` computes it.

    This is not OpenCV's full-range YCrCb.

    Args:
        image: RGB [..., 3], floating point in [0, 1].

    Returns:
        Luma [...] in [16, 235], not rounded, in the precision of `image`.

    Raises:
        TypeError: if the image is not floating point; the offset assumes values in
            [0, 1].
        ValueError: if the last axis does not have three channels.
    """
    _check_rgb(image)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"luma_bt601 needs floating-point values in [0, 1], got {image.dtype}; "
            "divide 8-bit values by 255."
        )
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return 16 + 65.481 * red + 128.553 * green + 24.966 * blue


def gray(image):
    """Returns 0.299 R + 0.587 G + 0.114 B, on the scale of `image`.

    Args:
        image: RGB [..., 3], any scale.

    Returns:
        Gray [...], not rounded.

    Raises:
        ValueError: if the last axis does not have three channels.
    """
    _check_rgb(image)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _check_rgb(image) -> None:
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(f"An RGB image has shape [..., 3], got {list(image.shape)}.")
