"""The maximum with a gradient that is never NaN."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, axis: int) -> jax.Array:
    """Returns the largest values along an axis, which is kept with length 1.

    As in PyTorch, the gradient goes to the first of equal values. `jnp.max` divides it
    among all values that equal the maximum; if XLA computes them a second time and
    rounds differently, there is none, and the gradient is NaN.
    """
    return jnp.max(x, axis, keepdims=True)


@largest.defjvp
def _largest_tangent(axis, primals, tangents):
    (x,), (tangent,) = primals, tangents
    first = jnp.argmax(x, axis, keepdims=True)
    place = lax.broadcasted_iota(first.dtype, x.shape, axis % x.ndim)
    taken = jnp.where(place == first, tangent, 0)
    return largest(x, axis), jnp.sum(taken, axis, keepdims=True)
