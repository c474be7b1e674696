"""Losses in frequency bands: edges, and the Fourier amplitude."""

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import (
    as_float,
    check_shapes,
    difference,
    reduce_pixels,
)
from llie_jax.registry import register

_BLUR = (0.05, 0.25, 0.4, 0.25, 0.05)


@register("edge", LossCard())
def edge(
    prediction: jax.Array, target: jax.Array, *, reduce: str = "mean"
) -> jax.Array:
    """Returns the squared difference of the Laplacian residuals per image, [B].

    The residual is linear, so it is computed once, of the difference. The paper's
    factor of 50 is the term's weight.

    Source: Feijoo et al., DarkIR, CVPR 2025, L_edge.

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    residue = laplacian_residue(difference(prediction, target))
    return reduce_pixels(jnp.square(residue), reduce)


@register("amplitude_spectrum", LossCard())
def amplitude_spectrum(
    prediction: jax.Array, target: jax.Array, *, reduce: str = "mean"
) -> jax.Array:
    """Returns the squared difference of the Fourier amplitudes per image, [B].

    The amplitudes are those of the unnormalised `rfft2`, over its half spectrum. They
    grow with the image size, so a weight is tuned for one patch size.

    Source: the authors' code of DarkIR (Feijoo et al., CVPR 2025), off by default.

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    check_shapes(prediction, target)
    error = _amplitude(prediction) - _amplitude(target)
    return reduce_pixels(jnp.square(error), reduce)


def laplacian_residue(image: jax.Array) -> jax.Array:
    """Returns the first level of the Laplacian pyramid of `image`, [B, H, W, C].

    This is the image minus its blurred, downsampled and upsampled version: edges and
    texture.

    Source: Burt and Adelson, 1983; 5-tap kernel and borders as in DarkIR's code.

    Args:
        image: [B, H, W, C] of a floating dtype, any size.
    """
    blurred = _blur(image)
    _, height, width, _ = image.shape
    kept = (jnp.arange(height) % 2 == 0)[:, None] & (jnp.arange(width) % 2 == 0)
    # A quarter of the samples remains, so a factor of 4 preserves the mean.
    sparse = jnp.where(kept[None, :, :, None], 4 * blurred, 0)
    return image - _blur(sparse)


def _blur(image: jax.Array) -> jax.Array:
    """Blurs both axes with the 5-tap kernel and replicated borders."""
    for axis in (1, 2):
        size = image.shape[axis]
        pads = [(0, 0)] * image.ndim
        pads[axis] = (2, 2)
        padded = jnp.pad(image, pads, mode="edge")
        image = sum(
            tap * jax.lax.slice_in_dim(padded, shift, shift + size, axis=axis)
            for shift, tap in enumerate(_BLUR)
        )
    return image


def _amplitude(image: jax.Array) -> jax.Array:
    # The gradient of a complex `abs` at 0 is 0 in JAX; that of `sqrt` is infinite.
    return jnp.abs(jnp.fft.rfft2(as_float(image), axes=(1, 2)))
