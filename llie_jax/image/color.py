"""Brightness of RGB images, in the two definitions that evaluation scripts use.

The functions take NumPy or JAX arrays and return the same kind.
"""

import jax.numpy as jnp


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
