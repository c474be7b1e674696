"""Convolutions, layer norm and pixel shuffle, the parts that most models are made of.

Layers keep PyTorch's conventions (explicit zero padding, uniform initialisation), so
that published weights load without change and training starts alike.
`grouped_conv` is the one place that chooses an implementation by backend.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from llie_jax.types import Dtype

IMPLEMENTATIONS = ("lax", "shifts")
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def grouped_conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    groups: int,
    dilation: int = 1,
    implementation: str | None = None,
) -> jax.Array:
    """Grouped convolution of stride 1 with zero padding that keeps the size.

    Args:
        x: features [B, H, W, C].
        kernel: [kh, kw, C / groups, features], kh and kw odd.
        groups: number of groups; `groups == C == features` is a depthwise convolution.
        dilation: distance of the kernel's taps in pixels.
        implementation: None chooses by backend; "lax" or "shifts" forces one.

    Returns:
        Features [B, H, W, features] in the dtype of `x`.

    Raises:
        ValueError: if the shapes do not fit, or the implementation is unknown.
    """
    _check_grouped(x, kernel, groups, implementation)
    return _grouped_conv(x, kernel, groups, dilation, implementation)


def _check_grouped(x, kernel, groups, implementation):
    kh, kw, group_inputs, features = kernel.shape
    if x.ndim != 4 or x.shape[-1] != group_inputs * groups or features % groups:
        raise ValueError(
            f"`x` {x.shape} and `kernel` {kernel.shape} do not fit {groups} groups; "
            "give [B, H, W, C] and [kh, kw, C / groups, features], features a "
            "multiple of groups."
        )
    if not (kh % 2 and kw % 2):
        raise ValueError(f"the kernel is {kh} x {kw}; use odd sizes.")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(
            f"unknown implementation {implementation!r}; use one of {IMPLEMENTATIONS}."
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _grouped_conv(x, kernel, groups, dilation, implementation):
    return _choose(
        implementation,
        functools.partial(_conv_shifts, dilation=dilation),
        functools.partial(_conv_lax, groups=groups, dilation=dilation),
        x,
        kernel,
        groups=groups,
    )


def _grouped_conv_forward(x, kernel, groups, dilation, implementation):
    return _grouped_conv(x, kernel, groups, dilation, implementation), (x, kernel)


def _grouped_conv_backward(groups, dilation, implementation, residuals, cotangent):
    x, kernel = residuals
    conv = functools.partial(_conv_lax, groups=groups, dilation=dilation)
    choose = functools.partial(_choose, implementation, groups=groups)

    def input_shifts(g, kernel):
        return _conv_shifts(g, _transpose_kernel(kernel, groups), dilation=dilation)

    def input_lax(g, kernel):
        return jax.linear_transpose(lambda x: conv(x, kernel), x)(g)[0]

    def kernel_shifts(g, x):
        return _kernel_gradient_shifts(g, x, kernel, dilation=dilation)

    def kernel_lax(g, x):
        return jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(g)[0]

    # Two separate choices, so that an unused gradient is dropped.
    return (
        choose(input_shifts, input_lax, cotangent, kernel),
        choose(kernel_shifts, kernel_lax, cotangent, x, kernel_shape=kernel.shape),
    )


_grouped_conv.defvjp(_grouped_conv_forward, _grouped_conv_backward)


def _choose(implementation, shifts, plain, *args, groups, kernel_shape=None):
    """Runs `shifts` on CPU and `plain` elsewhere, decided when XLA code is made."""
    _, _, group_inputs, features = kernel_shape or args[1].shape
    supported = features == group_inputs * groups and group_inputs <= 2
    if implementation == "lax" or not supported:
        return plain(*args)
    if implementation == "shifts":
        return shifts(*args)
    return lax.platform_dependent(*args, cpu=shifts, default=plain)


def _conv_lax(x, kernel, *, groups, dilation):
    kh, kw, _, _ = kernel.shape
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=[(dilation * (k // 2),) * 2 for k in (kh, kw)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def _pad(x, kernel_shape, dilation):
    kh, kw = kernel_shape[:2]
    rows, columns = dilation * (kh // 2), dilation * (kw // 2)
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def _taps(x, kernel_shape, dilation):
    """Yields (row, column, shifted view [B, H, W, C] in float32) of padded `x`."""
    kh, kw = kernel_shape[:2]
    height = x.shape[1] - dilation * (kh - 1)
    width = x.shape[2] - dilation * (kw - 1)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation, j * dilation
            view = x[:, top : top + height, left : left + width]
            yield i, j, view.astype(jnp.float32)


def _swap_pairs(x):
    """Exchanges channels 2g and 2g + 1."""
    return x.reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)


def _own_and_other(kernel):
    """Splits a 2-in/2-out kernel into the taps on the same and on the other channel."""
    first, second = kernel[..., 0, :], kernel[..., 1, :]
    even = jnp.arange(kernel.shape[-1]) % 2 == 0
    return jnp.where(even, first, second), jnp.where(even, second, first)


def _conv_shifts(x, kernel, *, dilation):
    padded = _pad(x, kernel.shape, dilation)
    kernel32 = kernel.astype(jnp.float32)
    if kernel.shape[2] == 1:
        parts = [(padded, kernel32[:, :, 0])]
    else:
        own, other = _own_and_other(kernel32)
        parts = [(padded, own), (_swap_pairs(padded), other)]
    total = sum(
        view * weights[i, j]
        for source, weights in parts
        for i, j, view in _taps(source, kernel.shape, dilation)
    )
    return total.astype(x.dtype)


def _transpose_kernel(kernel, groups):
    """The kernel whose convolution is the input gradient."""
    kh, kw, inputs, features = kernel.shape
    flipped = kernel[::-1, ::-1].reshape(kh, kw, inputs, groups, features // groups)
    return flipped.transpose(0, 1, 4, 3, 2).reshape(kh, kw, features // groups, -1)


def _kernel_gradient_shifts(g, x, kernel, *, dilation):
    padded = _pad(x, kernel.shape, dilation)
    g = g.astype(jnp.float32)
    kh, kw, inputs, features = kernel.shape

    def products(source):
        sums = [
            jnp.sum(v * g, (0, 1, 2)) for _, _, v in _taps(source, (kh, kw), dilation)
        ]
        return jnp.stack(sums).reshape(kh, kw, features)

    if inputs == 1:
        gradient = products(padded)[:, :, None]
    else:
        own, other = products(padded), products(_swap_pairs(padded))
        even = jnp.arange(features) % 2 == 0
        gradient = jnp.stack(
            [jnp.where(even, own, other), jnp.where(even, other, own)], axis=2
        )
    return gradient.astype(kernel.dtype)


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1 / sqrt(fan_in), for kernels and biases as PyTorch has it."""
    bound = 1 / math.sqrt(fan_in)

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Convolution with explicit zero padding and PyTorch's initialisation.

    Attributes:
        features: number of output channels.
        kernel_size: (rows, columns).
        strides: step in pixels, the same for rows and columns.
        padding: zeros on each side; None is half of the kernel, rounded down.
        use_bias: whether a bias is added.
        dtype: computation dtype.
        param_dtype: storage dtype of the parameters.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int = 1
    padding: int | None = None
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H', W', features] of `x` [B, H, W, C]."""
        kh, kw = self.kernel_size
        init = _uniform(kh * kw * x.shape[-1])
        shape = (kh, kw, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)

        rows, columns = (
            (kh // 2, kw // 2) if self.padding is None else (self.padding,) * 2
        )
        if (kh, kw, self.strides, rows, columns) == (1, 1, 1, 0, 0):
            y = x @ kernel[0, 0]
        else:
            y = lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.strides, self.strides),
                padding=((rows, rows), (columns, columns)),
                dimension_numbers=_DIMENSIONS,
            )
        return y if bias is None else y + bias


class GroupedConv(nn.Module):
    """Grouped convolution of stride 1 that keeps the size; see `grouped_conv`.

    Attributes:
        features: number of output channels.
        groups: number of groups.
        kernel_size: (rows, columns), odd.
        dilation: distance of the kernel's taps in pixels.
        use_bias: whether a bias is added.
        dtype: computation dtype.
        param_dtype: storage dtype of the parameters.
    """

    features: int
    groups: int
    kernel_size: Sequence[int] = (3, 3)
    dilation: int = 1
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C].

        Raises:
            ValueError: if C or `features` does not divide into `groups`.
        """
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{channels} input channels and features={self.features} do not divide "
                f"into groups={self.groups}; both must be multiples of it."
            )
        kh, kw = self.kernel_size
        init = _uniform(kh * kw * channels // self.groups)
        shape = (kh, kw, channels // self.groups, self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = grouped_conv(x, kernel, groups=self.groups, dilation=self.dilation)
        return y if bias is None else y + bias


class DepthwiseConv(nn.Module):
    """Depthwise convolution of stride 1 that keeps the size.

    Attributes:
        kernel_size: (rows, columns), odd.
        dilation: distance of the kernel's taps in pixels.
        use_bias: whether a bias is added.
        dtype: computation dtype.
        param_dtype: storage dtype of the parameters.
    """

    kernel_size: Sequence[int] = (3, 3)
    dilation: int = 1
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        kh, kw = self.kernel_size
        init = _uniform(kh * kw)
        shape = (kh, kw, 1, channels)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", init, (channels,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = grouped_conv(x, kernel, groups=channels, dilation=self.dilation)
        return y if bias is None else y + bias


class LayerNorm(nn.Module):
    """Layer norm over the channels of each pixel, computed in float32.

    The variance is the biased one, of centred values: E[x^2] - E[x]^2 would cancel
    where the mean is large.

    Attributes:
        epsilon: added to the variance under the square root.
        dtype: dtype of the result.
        param_dtype: storage dtype of the parameters.
    """

    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [..., C]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * lax.rsqrt(variance + self.epsilon)
        return (y * scale + bias).astype(self.dtype)


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Moves channels into space, as PyTorch's `PixelShuffle` does.

    Input channel `factor**2 * o + factor * i + j` becomes output channel `o` at row `i`
    and column `j` of each block.

    Args:
        x: features [B, H, W, C].
        factor: enlargement of both sides.

    Returns:
        Features [B, factor * H, factor * W, C / factor**2].

    Raises:
        ValueError: if C is not a multiple of `factor**2`.
    """
    batch, height, width, channels = x.shape
    if channels % factor**2:
        raise ValueError(
            f"pixel_shuffle by {factor} needs a multiple of {factor**2} channels, got "
            f"{channels}."
        )
    features = channels // factor**2
    y = x.reshape(batch, height, width, features, factor, factor)
    y = y.transpose(0, 1, 4, 2, 5, 3)  # [B, H, i, W, j, features]
    return y.reshape(batch, factor * height, factor * width, features)
