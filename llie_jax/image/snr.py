"""The signal-to-noise ratio of a dark image, estimated pixel by pixel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.image import maximum

_GREY = (0.299, 0.587, 0.114)
_RADIUS = 2
_EPSILON = 1e-4


def box_blur(image: jax.Array) -> jax.Array:
    """Returns the mean of the 5x5 pixels around each pixel, [B, H, W, C], float32.

    The border is reflected without repeating the edge pixels.

    Args:
        image: [B, H, W, C], at least 3 pixels high and wide.

    Raises:
        ValueError: if the image is smaller.
    """
    return _blur(image, np.ones(2 * _RADIUS + 1))


def gaussian_blur(image: jax.Array, sigma: float = 1.5) -> jax.Array:
    """Returns the Gaussian mean of the 5x5 pixels around each pixel; see `box_blur`.

    Args:
        image: [B, H, W, C], at least 3 pixels high and wide.
        sigma: standard deviation in pixels.

    Raises:
        ValueError: if the image is smaller.
    """
    places = np.arange(-_RADIUS, _RADIUS + 1)
    return _blur(image, np.exp(-0.5 * (places / sigma) ** 2))


def _blur(image: jax.Array, weights: np.ndarray) -> jax.Array:
    if any(side <= _RADIUS for side in image.shape[1:3]):
        raise ValueError(
            f"image is {image.shape[1]} x {image.shape[2]}; a blur of 5 x 5 pixels "
            "needs at least 3 on each side."
        )
    x, total = image.astype(jnp.float32), float(weights.sum())
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (_RADIUS, _RADIUS)
        padded, length = jnp.pad(x, padding, mode="reflect"), x.shape[axis]
        x = sum(
            float(weight)
            * jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
            for start, weight in enumerate(weights)
        )
        x = x / total
    return x


def snr_map(
    image: jax.Array, blur: Callable[[jax.Array], jax.Array] = box_blur
) -> jax.Array:
    """Returns the signal-to-noise map of images, [B, H, W, 1] in [0, 1], float32.

    The blurred grey image over its difference from the sharp one, divided by the
    largest ratio in the image. That ratio is often an outlier: on photographs the mean
    of the map is a few percent.

    Source: Xu et al., SNR-Aware Low-light Image Enhancement, CVPR 2022, Eqs. (2), (3).

    Args:
        image: RGB [B, H, W, 3] in [0, 1], at least 3 pixels high and wide.
        blur: estimates the image without noise; FLOL uses `gaussian_blur`.

    Raises:
        ValueError: if the image is smaller.
    """
    weights = jnp.asarray(_GREY)
    grey = jnp.sum(image.astype(jnp.float32) * weights, -1, keepdims=True)
    blurred = jnp.sum(blur(image) * weights, -1, keepdims=True)
    ratio = blurred / (jnp.abs(grey - blurred) + _EPSILON)
    largest = maximum.largest(ratio.reshape(len(ratio), -1), -1)[..., None, None]
    return jnp.clip(ratio / (largest + _EPSILON), 0.0, 1.0)
