"""Dynamic convolution: for each image another mixture of a few kernels."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.nn.layers import Layer, uniform
from llie_jax.nn.pog import check_kernel_size
from llie_jax.registry import Card, register


@register("dynamic", Card("kernel", internal=("features", "zero_init")))
class DynamicConv(Layer):
    """Mixes candidate kernels with weights that the mean features decide.

    Source: Chen et al., Dynamic Convolution: Attention over Convolution Kernels, CVPR
    2020, Eqs. (3) and (4) and Section 3.3 for the temperature.

    Attributes:
        features: number of output channels.
        num_kernels: number of candidates.
        kernel_size: rows and columns of the kernels, odd.
        annealing_steps: training steps over which the softmax's temperature falls from
            `start_temperature` to 1, counted in the collection `counters`; they are a
            tenth of the training in the source. 0: it is 1 from the start.
        start_temperature: the temperature at the first step.
        zero_init: begin with all candidates 0.
    """

    features: int
    num_kernels: int = 4
    kernel_size: int = 1
    annealing_steps: int = 0
    start_temperature: float = 30.0
    zero_init: bool = False

    @nn.compact
    def kernel(self, pooled: jax.Array) -> jax.Array:
        """Returns the kernels [B, k, k, C, features] of images.

        Args:
            pooled: mean over the pixels of the convolution's input, [B, C].

        Raises:
            ValueError: if `kernel_size` is even or there is no candidate.
        """
        check_kernel_size(self.kernel_size)
        if self.num_kernels < 1:
            raise ValueError(f"num_kernels={self.num_kernels}; use at least 1.")
        inputs = pooled.shape[-1]
        types = dict(param_dtype=self.param_dtype)
        x = nn.Dense(_hidden(inputs), use_bias=False, name="mix_in", **types)(pooled)
        logits = nn.Dense(self.num_kernels, name="mix_out", **types)(nn.relu(x))
        shape = (self.num_kernels, *[self.kernel_size] * 2, inputs, self.features)
        kernels = self.param("kernels", _init(self.zero_init), shape, self.param_dtype)
        mixture = nn.softmax(logits / self._temperature())
        return jnp.einsum("bk,kyxio->byxio", mixture, kernels)

    def _temperature(self) -> jax.Array | float:
        """Returns the temperature, and counts a training step."""
        if not self.annealing_steps:
            return 1.0
        step = self.variable("counters", "steps", lambda: jnp.zeros((), jnp.int32))
        left = jnp.maximum(0.0, 1 - step.value / self.annealing_steps)
        if self.is_mutable_collection("counters") and not self.is_initializing():
            step.value = step.value + 1
        return 1 + (self.start_temperature - 1) * left

    def generator_macs(self, inputs: int, pixels: int) -> int:
        """Returns what fvcore counts besides the convolution itself, for one image."""
        return inputs * pixels + _hidden(inputs) * (inputs + self.num_kernels)


@register("static", Card("kernel", internal=("features", "zero_init")))
class StaticConv(Layer):
    """An ordinary convolution's kernel, the same for all images.

    Attributes:
        features: number of output channels.
        kernel_size: rows and columns of the kernel, odd.
        zero_init: begin with the kernel 0.
    """

    features: int
    kernel_size: int = 1
    zero_init: bool = False

    @nn.compact
    def kernel(self, pooled: jax.Array) -> jax.Array:
        """Returns the kernel [1, k, k, C, features]; of `pooled` [B, C] only C counts.

        Raises:
            ValueError: if `kernel_size` is even.
        """
        check_kernel_size(self.kernel_size)
        shape = (1, *[self.kernel_size] * 2, pooled.shape[-1], self.features)
        return self.param("kernel", _init(self.zero_init), shape, self.param_dtype)

    def generator_macs(self, inputs: int, pixels: int) -> int:
        """Returns 0: there is nothing to generate."""
        del inputs, pixels
        return 0


def _hidden(inputs: int) -> int:
    """Returns the width of the network that decides the mixture."""
    return inputs // 4 + 1


def _init(zero: bool):
    """Returns PyTorch's initialiser for kernels [K, k, k, C, features], or zeros."""
    if zero:
        return nn.initializers.zeros

    def init(rng, shape, dtype):
        bound = 1 / math.sqrt(math.prod(shape[1:4]))
        return uniform(bound)(rng, shape, dtype)

    return init
