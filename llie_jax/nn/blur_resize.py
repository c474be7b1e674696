"""Residual halving and doubling of features, with blurring against aliasing.

Source: Zamir et al., Learning Enriched Features for Real Image Restoration and
Enhancement (MIRNet), ECCV 2020, Section 3, the residual resizing modules; LEDNet (Zhou
et al., ECCV 2022) uses the same. The blur is that of Zhang, Making Convolutional
Networks Shift-Invariant Again, ICML 2019.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from llie_jax.nn import layers
from llie_jax.nn.conv_kernels import doubling_conv_transpose, halving_blur
from llie_jax.nn.layers import FvcoreCounted, Layer


class Double(nn.Module, FvcoreCounted):
    """Doubles the size by bilinear interpolation between pixel centres."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, 2H, 2W, C] of `x` [B, H, W, C]."""
        for axis in (1, 2):
            cut = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
            size = x.shape[axis]
            before = jnp.concatenate([cut(0, 1), cut(0, size - 1)], axis)
            after = jnp.concatenate([cut(1, size), cut(size - 1, size)], axis)
            halves = (3 * x + before) / 4, (3 * x + after) / 4
            shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
            x = jnp.stack(halves, axis + 1).reshape(shape)
        return x

    def fvcore_macs(self, x: jax.Array) -> int:
        """Returns fvcore's count for one call: four per element of the result."""
        return 4 * 4 * x.size


class DoublingConv(Layer):
    """Transposed 3x3 convolution that doubles the size; see `doubling_conv_transpose`.

    The kernel [3, 3, features, C] is that of the convolution whose transpose this is,
    and is initialised as such, as in PyTorch.

    Attributes:
        features: number of output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, 2H, 2W, features] of `x` [B, H, W, C]."""
        kernel = self.param(
            "kernel",
            layers.uniform((9 * self.features) ** -0.5),
            (3, 3, self.features, x.shape[-1]),
            self.param_dtype,
        )
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return doubling_conv_transpose(x, kernel)


class Down(Layer):
    """Halves the size: two convolutions and a blur, and a short branch beside them.

    Attributes:
        features: number of output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, H / 2, W / 2, features] of `x` [B, H, W, C], H and W even."""
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=False, **types)
        y = conv(x.shape[-1], (1, 1), name="mix")(x)
        y = layers.PReLU(name="prelu1", **types)(y)
        y = conv(x.shape[-1], (3, 3), name="spatial")(y)
        y = halving_blur(layers.PReLU(name="prelu2", **types)(y))
        y = conv(self.features, (1, 1), name="project")(y)
        return y + conv(self.features, (1, 1), name="short")(halving_blur(x))


class Up(Layer):
    """Doubles the size: two convolutions, and a short branch beside them.

    Attributes:
        features: number of output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, 2H, 2W, features] of `x` [B, H, W, C]."""
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=False, **types)
        y = conv(x.shape[-1], (1, 1), name="mix")(x)
        y = layers.PReLU(name="prelu1", **types)(y)
        y = DoublingConv(x.shape[-1], name="spatial", **types)(y)
        y = layers.PReLU(name="prelu2", **types)(y)
        y = conv(self.features, (1, 1), name="project")(y)
        short = Double(name="double")(x)
        return y + conv(self.features, (1, 1), name="short")(short)


_TORCH_KEYS = {
    "top.0": "mix",
    "top.1": "prelu1",
    "top.2": "spatial",
    "top.3": "prelu2",
    "bot.1": "short",
}

TORCH_DOWN_KEYS = _TORCH_KEYS | {"top.5": "project"}
"""Parameter names of `Down`: official name -> ours."""

TORCH_UP_KEYS = _TORCH_KEYS | {"top.4": "project"}
"""Parameter names of `Up`: official name -> ours."""

TORCH_UNUSED = ("*.filt",)
"""Official keys of the blur's fixed weights."""
