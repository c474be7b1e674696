"""Reads arrays of the official code, which has channels before rows and columns."""

import jax
import jax.numpy as jnp
import numpy as np


def nhwc(array) -> jax.Array:
    """Returns an array [B, C, H, W] as [B, H, W, C]."""
    return jnp.asarray(np.moveaxis(array, 1, -1))
