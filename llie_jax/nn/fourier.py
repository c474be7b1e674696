"""Fourier transforms of feature maps, including maps of symbolic size.

XLA's FFT needs constant sizes. Where height or width is symbolic, as in an export with
free sizes, matrix products compute the same sums.
"""

import jax
import jax.numpy as jnp
from jax import lax


def rfft2(x: jax.Array) -> jax.Array:
    """Returns the half spectrum [B, H, W // 2 + 1, C] of features [B, H, W, C].

    Args:
        x: features, float32.
    """
    height, width = x.shape[1:3]
    if isinstance(height, int) and isinstance(width, int):
        return jnp.fft.rfft2(x, axes=(1, 2))
    rows, columns = _angles(height, height), _angles(width, width // 2 + 1)
    half = lax.complex(
        _product(x, jnp.cos(columns), 2), -_product(x, jnp.sin(columns), 2)
    )
    return _rotated(half, rows, -1)


def irfft2(spectrum: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns features [B, H, W, C] of a half spectrum [B, H, W // 2 + 1, C].

    Args:
        spectrum: complex64.
        size: (H, W), which may be symbolic.
    """
    height, width = size
    if isinstance(height, int) and isinstance(width, int):
        return jnp.fft.irfft2(spectrum, s=size, axes=(1, 2))
    rows, columns = _angles(height, height), _angles(width, width // 2 + 1)
    half = _rotated(spectrum, rows, 1)
    # Every term stands for two, except the constant one and that of half the width.
    number = lax.broadcasted_iota(jnp.int32, (1, width // 2 + 1), 1)
    weight = jnp.where((number == 0) | (2 * number == width), 1.0, 2.0)
    cosine, sine = weight * jnp.cos(columns), weight * jnp.sin(columns)
    y = _product(half.real, cosine.T, 2) - _product(half.imag, sine.T, 2)
    return y / (height * width)


def _angles(size: int, count: int) -> jax.Array:
    """Returns 2 pi n k / size, float32 [size, count]."""
    n = lax.broadcasted_iota(jnp.int32, (size, count), 0)
    k = lax.broadcasted_iota(jnp.int32, (size, count), 1)
    # Reduced as integers: the cosine of a large float32 angle is inexact.
    turns = (n * k % size).astype(jnp.float32)
    return turns * (2 * jnp.pi) / jnp.asarray(size, jnp.float32)


def _product(x: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    """Multiplies one axis of x by a matrix [axis, new]."""
    y = jnp.tensordot(x, matrix, axes=(axis, 0), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(y, -1, axis)


def _rotated(spectrum: jax.Array, angles: jax.Array, sign: int) -> jax.Array:
    """Returns the transform of a complex array [B, H, k, C] along H."""
    cosine, sine = jnp.cos(angles), sign * jnp.sin(angles)
    real, imaginary = spectrum.real, spectrum.imag
    return lax.complex(
        _product(real, cosine, 1) - _product(imaginary, sine, 1),
        _product(real, sine, 1) + _product(imaginary, cosine, 1),
    )
