"""Resizing by whole factors."""

import jax
import jax.numpy as jnp


def area_downsample(x: jax.Array, factor: int) -> jax.Array:
    """Returns the means of `factor` x `factor` cells, [B, H/factor, W/factor, C].

    Args:
        x: images or features [B, H, W, C] of a floating dtype.
        factor: cell side in pixels; H and W must divide by it.

    Raises:
        ValueError: if `factor` is not a positive integer or does not divide H and W.
    """
    _check_factor(factor)
    batch, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ValueError(
            f"{height} x {width} pixels are not whole cells of {factor} x {factor}; "
            f"crop to {height // factor * factor} x {width // factor * factor}."
        )
    cells = x.reshape(
        batch, height // factor, factor, width // factor, factor, channels
    )
    return cells.mean((2, 4))


def nearest_upsample(x: jax.Array, factor: int) -> jax.Array:
    """Returns `x` with every pixel repeated, [B, H*factor, W*factor, C].

    Args:
        x: images or features [B, H, W, C].
        factor: how often a pixel is repeated along each axis.

    Raises:
        ValueError: if `factor` is not a positive integer.
    """
    _check_factor(factor)
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def _check_factor(factor: int) -> None:
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"A resize factor is an integer from 1 up, not {factor!r}.")
