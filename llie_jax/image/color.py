"""Linear light, saturation, and brightness as evaluation scripts define it.

The functions of light and brightness take NumPy or JAX arrays and return the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Luminance of linear red, green and blue in sRGB (ITU-R BT.709)."""


def srgb_to_linear(encoded: Array) -> Array:
    """Decodes sRGB values to linear light, both in [0, 1] (IEC 61966-2-1)."""
    power = ((encoded + 0.055) / 1.055) ** 2.4
    return _where(encoded <= 0.04045, encoded / 12.92, power)


def linear_to_srgb(linear: Array) -> Array:
    """Encodes linear light as sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    power = 1.055 * linear ** (1 / 2.4) - 0.055
    return _where(linear <= 0.0031308, linear * 12.92, power)


def _where(condition, a, b):
    return (jnp if isinstance(condition, jax.Array) else np).where(condition, a, b)


_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
"""Linear sRGB to the responses of Oklab's three cones; grey excites them equally."""

_LIGHTNESS = np.array([0.2104542553, 0.7936177850, -0.0040720403], np.float32)
"""The cube roots of the responses to Oklab's lightness; sums to 1."""


def scale_chroma(linear: np.ndarray, factor: float) -> np.ndarray:
    """Scales chroma at equal lightness and hue, where sRGB holds the colour.

    Where it does not, the factor is the largest one that it does hold, so that no
    channel is clipped.

    Source: Ottosson, A perceptual color space for image processing, 2020 (Oklab). Its
    chroma is linear in the cube roots of the responses minus the lightness.

    Args:
        linear: linear sRGB [N, 3], float32 in [0, 1].
        factor: 0 (grey) or more.

    Returns:
        [N, 3], float32 in [0, 1].
    """
    back = np.linalg.inv(_CONES.astype(np.float64)).astype(np.float32)
    roots = np.cbrt(linear @ _CONES.T)
    lightness = (roots @ _LIGHTNESS)[:, None]
    chroma = roots - lightness

    def scaled(pixels, factors):
        roots = lightness[pixels] + factors * chroma[pixels]
        return (roots * roots * roots) @ back.T  # faster than a power

    def holds(found):
        return ((found > -1e-4) & (found < 1 + 1e-4)).all(-1, keepdims=True)

    result = scaled(slice(None), np.float32(factor))
    if factor > 1:
        outside = np.flatnonzero(~holds(result))
        low = np.ones((len(outside), 1), np.float32)
        high = np.full_like(low, factor)
        for _ in range(8):  # bisection; the photo itself, at 1, is inside
            middle = (low + high) / 2
            inside = holds(scaled(outside, middle))
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        result[outside] = scaled(outside, low)
    return np.clip(result, 0, 1)


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
