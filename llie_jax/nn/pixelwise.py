"""Functions of single pixels, with gradients one block of pixels at a time on CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from llie_jax.nn.conv_kernels import forced_implementation


def pixelwise(function: Callable, weights: Any, x: jax.Array) -> jax.Array:
    """Applies a function of single pixels, such as a stack of 1x1 convolutions.

    On CPU the gradient takes one block of pixels at a time and computes what is between
    the layers again, so that it stays in the cache. For IAT's feed-forward network (16
    channels, 64 hidden, 4 x 128 x 128 pixels) that takes 0.7 of the time and a quarter
    of the memory. The function itself is faster on all pixels at once.

    Args:
        function: (weights, [N, C]) -> [N, features], each row on its own. A function of
            a module, not a lambda: it is part of the key under which JAX keeps what it
            compiled.
        weights: a tree of arrays.
        x: features [..., C].

    Returns:
        Features [..., features].
    """
    implementation = forced_implementation()
    rows = x.reshape(-1, x.shape[-1])
    if implementation == "lax":
        y = function(weights, rows)
    else:
        y = _pixelwise(weights, rows, function)
    return y.reshape(*x.shape[:-1], y.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pixelwise(weights, x, function):
    return function(weights, x)


def _pixelwise_forward(weights, x, function):
    return _pixelwise(weights, x, function), (weights, x)


def _pixelwise_backward(function, residuals, g):
    return lax.platform_dependent(
        *residuals,
        g,
        cpu=functools.partial(_gradients_in_blocks, function),
        default=functools.partial(_gradients, function),
    )


_pixelwise.defvjp(_pixelwise_forward, _pixelwise_backward)

_BLOCK_PIXELS = 4096


def _gradients_in_blocks(function, weights, x, g):
    def add_block(sums, block):
        weights_gradient, x_gradient = _gradients(function, weights, *block)
        return jax.tree.map(jnp.add, sums, weights_gradient), x_gradient

    # Sums of many blocks are at least float32, whatever the weights are.
    zeros = jax.tree.map(
        lambda w: jnp.zeros_like(w, jnp.promote_types(w.dtype, jnp.float32)), weights
    )
    sums, x_gradient = lax.scan(add_block, zeros, (_blocks(x), _blocks(g)))
    sums = jax.tree.map(lambda total, w: total.astype(w.dtype), sums, weights)
    return sums, x_gradient.reshape(-1, x.shape[-1])[: len(x)]


def _gradients(function, weights, x, g):
    return jax.vjp(function, weights, x)[1](g)


def _blocks(x):
    """Returns blocks of equal size, [blocks, rows, C]; zeros fill up the last one."""
    count = max(1, -(-len(x) // _BLOCK_PIXELS))
    size = -(-len(x) // count)
    return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, -1)
