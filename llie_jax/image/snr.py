"""The signal-to-noise ratio of a dark image, estimated pixel by pixel."""

import jax
import jax.numpy as jnp

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
    if any(side <= _RADIUS for side in image.shape[1:3]):
        raise ValueError(
            f"image is {image.shape[1]} x {image.shape[2]}; a blur of 5 x 5 pixels "
            "needs at least 3 on each side."
        )
    x = image.astype(jnp.float32)
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (_RADIUS, _RADIUS)
        padded, length = jnp.pad(x, padding, mode="reflect"), x.shape[axis]
        x = sum(
            jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
            for start in range(2 * _RADIUS + 1)
        ) / (2 * _RADIUS + 1)
    return x


def snr_map(image: jax.Array) -> jax.Array:
    """Returns the signal-to-noise map of images, [B, H, W, 1] in [0, 1], float32.

    The blurred grey image over its difference from the sharp one, divided by the
    largest ratio in the image. That ratio is often an outlier: on photographs the mean
    of the map is a few percent.

    Source: Xu et al., SNR-Aware Low-light Image Enhancement, CVPR 2022, Eqs. (2), (3).

    Args:
        image: RGB [B, H, W, 3] in [0, 1], at least 3 pixels high and wide.

    Raises:
        ValueError: if the image is smaller.
    """
    weights = jnp.asarray(_GREY)
    grey = jnp.sum(image.astype(jnp.float32) * weights, -1, keepdims=True)
    blurred = jnp.sum(box_blur(image) * weights, -1, keepdims=True)
    ratio = blurred / (jnp.abs(grey - blurred) + _EPSILON)
    largest = jnp.max(ratio, axis=(1, 2, 3), keepdims=True)
    return jnp.clip(ratio / (largest + _EPSILON), 0.0, 1.0)
