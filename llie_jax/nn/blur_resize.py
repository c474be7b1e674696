"""Residual halving and doubling of features, with blurring against aliasing.

Source: Zamir et al., Learning Enriched Features for Real Image Restoration and
Enhancement (MIRNet), ECCV 2020, Section 3, the residual resizing modules; LEDNet (Zhou
et al., ECCV 2022) uses the same. The blur is that of Zhang, Making Convolutional
Networks Shift-Invariant Again, ICML 2019.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from llie_jax.nn import layers
from llie_jax.nn.conv_kernels import (
    by_backend,
    forced_implementation,
    plain_conv,
    transposed,
)
from llie_jax.nn.layers import FvcoreCounted, Layer


class Double(nn.Module, FvcoreCounted):
    """Doubles the size by bilinear interpolation between pixel centres."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, 2H, 2W, C] of `x` [B, H, W, C]."""
        for axis in (1, 2):
            cut = functools.partial(lax.slice_in_dim, x, axis=axis)
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


def doubling_conv_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 3x3 convolution of stride 2 that doubles the size.

    PyTorch calls this `stride=2, padding=1, output_padding=1`. On CPU, where the native
    form multiplies the zeros of the dilated input too, each of the four output pixels
    per input pixel is a convolution by the taps that reach it: a quarter of the
    products.

    Args:
        x: features [B, H, W, C].
        kernel: [3, 3, features, C], of the convolution whose transpose this is.

    Returns:
        Features [B, 2H, 2W, features] in the dtype of `x`.
    """
    return _doubling(x, kernel, forced_implementation())


@functools.partial(jax.jit, static_argnums=2)
def _doubling(x, kernel, implementation):
    if implementation == "lax":
        return _plain_doubling(x, (kernel,))
    return by_backend(
        x, (kernel,), transposed(_doubling_by_pixel), transposed(_plain_doubling)
    )


def _plain_doubling(x, kernels):
    return lax.conv_transpose(
        x,
        kernels[0],
        (2, 2),
        ((1, 2), (1, 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        transpose_kernel=True,
    )


def _doubling_by_pixel(x, kernels):
    """Even rows see the middle row of the kernel, odd ones the others; so do columns.

    An odd row lies between two rows of the input; below the last one are zeros.
    """
    batch, height, width, _ = x.shape
    kernel = kernels[0].swapaxes(2, 3)
    taps = slice(1, 2), slice(2, None, -2)
    rows = [
        jnp.stack(
            [
                plain_conv(x, kernel[row, column], padding=((0, i), (0, j)))
                for j, column in enumerate(taps)
            ],
            axis=3,
        )
        for i, row in enumerate(taps)
    ]
    y = jnp.stack(rows, axis=2)  # [B, H, i, W, j, features]
    return y.reshape(batch, 2 * height, 2 * width, -1)


def halving_blur(x: jax.Array) -> jax.Array:
    """Blurs by the weights 1, 2, 1 along both axes, and keeps every second pixel.

    Borders are reflected. The native form is a depthwise convolution, and the other one
    a sum of slices.

    Args:
        x: features [B, H, W, C], H and W even.

    Returns:
        Features [B, H / 2, W / 2, C] in the dtype of `x`.
    """
    return _halving_blur(x, forced_implementation())


@functools.partial(jax.jit, static_argnums=1)
def _halving_blur(x, implementation):
    # Only the first row and column are reflected: the last ones have both neighbours.
    if implementation == "lax":
        x = jnp.concatenate([x[:, 1:2], x], axis=1)
        x = jnp.concatenate([x[:, :, 1:2], x], axis=2)
        weights = np.outer([1, 2, 1], [1, 2, 1])[..., None, None] / 16
        kernel = jnp.asarray(np.repeat(weights, x.shape[-1], -1), x.dtype)
        return plain_conv(x, kernel, strides=2, padding="VALID", groups=x.shape[-1])
    for axis in (1, 2):
        here, after = (
            lax.slice_in_dim(x, start, x.shape[axis], 2, axis) for start in (0, 1)
        )
        first = lax.slice_in_dim(after, 0, 1, axis=axis)
        others = lax.slice_in_dim(after, 0, -1, axis=axis)
        before = jnp.concatenate([first, others], axis)
        x = (before + 2 * here + after) / 4
    return x
