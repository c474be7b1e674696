"""Losses on parts of the spectrum: edges, and the Fourier amplitude."""

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
    """Returns the squared difference of the Laplacian residues per image, [B].

    The residue is linear, so it is taken once, of the difference. The factor 50 of the
    paper is the term's weight.

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

    Amplitudes are those of the unnormalised `rfft2`, over its half spectrum; they grow
    with the image's size, so a weight fits one patch size.

    Source: the authors' code of DarkIR (Feijoo et al., CVPR 2025), where it is off.

    Raises:
        ValueError: if the shapes differ or `reduce` is unknown.
    """
    check_shapes(prediction, target)
    error = _amplitude(prediction) - _amplitude(target)
    return reduce_pixels(jnp.square(error), reduce)


def laplacian_residue(image: jax.Array) -> jax.Array:
    """Returns what a Laplacian pyramid's first level keeps of `image`, [B, H, W, C].

    That is the image less its blurred version brought down to every second pixel and
    up again: edges and texture.

    Source: Burt and Adelson, 1983; 5-tap kernel and borders as in DarkIR's code.

    Args:
        image: [B, H, W, C] of a floating dtype, any size.
    """
    blurred = _blur(image)
    _, height, width, _ = image.shape
    kept = (jnp.arange(height) % 2 == 0)[:, None] & (jnp.arange(width) % 2 == 0)
    # A quarter of the samples is kept: times 4 keeps the mean.
    sparse = jnp.where(kept[None, :, :, None], 4 * blurred, 0)
    return image - _blur(sparse)


def _blur(image: jax.Array) -> jax.Array:
    """Blurs both axes with the 5-tap kernel, borders repeated."""
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
