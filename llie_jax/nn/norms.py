"""Layer norms over channels, and batch norm."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from llie_jax.nn.layers import FvcoreCounted, Initializer, Layer
from llie_jax.registry import Card, register


def _moments(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Returns mean and 1 / standard deviation of each pixel's channels."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return mean, lax.rsqrt(variance + epsilon)


def _weighted_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the weighted sum over the channels: [..., C] -> [..., 1]."""
    # On CPU a product is several times faster than a sum along the last axis.
    return lax.platform_dependent(
        x,
        weights,
        cpu=lambda x, weights: x @ weights[:, None],
        default=lambda x, weights: jnp.sum(x * weights, axis=-1, keepdims=True),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, scale, bias, epsilon):
    x = x.astype(jnp.float32)
    mean, inverse = _moments(x, epsilon)
    return (x - mean) * inverse * scale + bias


def _layer_norm_forward(x, scale, bias, epsilon):
    # Without the barrier, XLA recomputes the sums inside each loop that reads them.
    moments = lax.optimization_barrier(_moments(x.astype(jnp.float32), epsilon))
    mean, inverse = moments
    y = (x.astype(jnp.float32) - mean) * inverse * scale + bias
    return y, (x, scale, bias, *moments)


def _layer_norm_backward(epsilon, residuals, g):
    del epsilon
    x, scale, bias, mean, inverse = residuals
    weights = scale.astype(jnp.float32) / x.shape[-1]
    normal = (x.astype(jnp.float32) - mean) * inverse
    product = g * normal
    x_gradient = inverse * (
        g * scale - _weighted_sum(g, weights) - normal * _weighted_sum(product, weights)
    )
    pixels = tuple(range(x.ndim - 1))
    return (
        x_gradient.astype(x.dtype),
        jnp.sum(product, pixels).astype(scale.dtype),
        jnp.sum(g, pixels).astype(bias.dtype),
    )


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@register("with_bias", Card("norm", internal=("epsilon",)))
class LayerNorm(Layer):
    """Layer norm over the channels of each pixel, computed in float32.

    The variance is biased and computed from centred values: E[x^2] - E[x]^2 would
    cancel where the mean is large.

    Attributes:
        epsilon: added to the variance under the square root.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [..., C]."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        return _layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


class CountedLayerNorm(LayerNorm, FvcoreCounted):
    """A layer norm that is PyTorch's in the authors' code, so that fvcore counts it."""

    def fvcore_macs(self, x: jax.Array) -> int:
        """Returns fvcore's count for one call."""
        return 5 * x.size


STATISTICS = "batch_stats"
"""The name of the collection of running statistics."""


class BatchNorm(Layer):
    """Batch norm as in PyTorch: epsilon 1e-5, unbiased running variance.

    Running statistics are in the collection `batch_stats`; training updates them if it
    is mutable. A module that is called several times in a step updates them each time,
    in order. Statistics are computed in float32.

    Source: Ioffe and Szegedy, Batch Normalization, ICML 2015.

    Attributes:
        axis_name: mesh axis whose devices share their statistics; all must hold the
            same number of values.
        momentum: weight of a batch in the running statistics.
        running: whether there are running statistics; without, every call uses those of
            its batch.
        scale_init: initializer of the scale.
    """

    axis_name: str | None = None
    momentum: float = 0.1
    running: bool = True
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = True) -> jax.Array:
        """Returns an array of the same shape as `x`, [..., C].

        Args:
            x: features.
            train: whether to use the statistics of this batch and update the running
                ones, rather than use those.
        """
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        if self.running:
            running = [
                self.variable(STATISTICS, name, jnp.full, shape, value, jnp.float32)
                for name, value in (("mean", 0.0), ("var", 1.0))
            ]
        rows = tuple(range(x.ndim - 1))
        y = x.astype(jnp.float32)
        if self.running and not train:
            mean, variance = (each.value for each in running)
        else:
            mean = self._over_devices(jnp.mean(y, rows))
            variance = self._over_devices(jnp.mean(jnp.square(y - mean), rows))
        stored = not self.is_initializing() and self.is_mutable_collection(STATISTICS)
        if self.running and train and stored:
            count = math.prod(x.shape[:-1])
            if self.axis_name is not None:
                count *= lax.axis_size(self.axis_name)
            unbiased = variance * (count / max(count - 1, 1))
            for each, now in zip(running, (mean, unbiased), strict=True):
                now = lax.stop_gradient(now)
                each.value = (1 - self.momentum) * each.value + self.momentum * now
        y = (y - mean) * lax.rsqrt(variance + 1e-5) * scale + bias
        return y.astype(self.dtype)

    def _over_devices(self, x: jax.Array) -> jax.Array:
        return x if self.axis_name is None else lax.pmean(x, self.axis_name)
