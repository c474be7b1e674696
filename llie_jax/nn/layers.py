"""Building blocks of most models: convolutions, activations and pixel shuffle.

Layers keep PyTorch's conventions (explicit zero padding, uniform initialisation), so
that published weights load without change and training starts from the same
distribution.
"""

import abc
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from llie_jax.nn.conv_kernels import dense_conv, grouped_conv, summed_depthwise
from llie_jax.types import Dtype, ModuleFactory

Initializer = Callable[..., jax.Array]
"""`(rng, shape, dtype) -> array`, as in `flax.linen.initializers`."""


class Layer(nn.Module, kw_only=True):
    """A module that computes in one dtype and keeps its parameters in another.

    Attributes:
        dtype: computation dtype; what needs float32 always uses it.
        param_dtype: storage dtype of the parameters.
    """

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def types(self) -> dict[str, Dtype]:
        """Both dtypes, as keyword arguments for submodules."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class FvcoreCounted(abc.ABC):
    """A module whose MACs the tool fvcore counts by a rule of its own."""

    @abc.abstractmethod
    def fvcore_macs(self, *args: jax.Array) -> int:
        """Returns fvcore's count for one call of the whole module.

        Args:
            *args: the arguments of `__call__`.
        """


class Identity(Layer):
    """Returns its input: the default part of a slot."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x`."""
        return x


class Repeat(nn.Module):
    """A sequence of blocks of one kind, named `block_0`, `block_1` and so on.

    Attributes:
        block: builds a block, given its name.
        num_blocks: number of blocks; 0 returns the features unchanged.
    """

    block: ModuleFactory
    num_blocks: int

    @nn.compact
    def __call__(self, x: jax.Array, *guides: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C].

        Args:
            x: features [B, H, W, C].
            *guides: further inputs of every block.
        """
        for i in range(self.num_blocks):
            x = self.block(name=f"block_{i}")(x, *guides)
        return x


def uniform(bound: float) -> Initializer:
    """Returns an initialiser: uniform from -bound to bound."""

    def init(rng, shape, dtype):
        # Drawn in one dimension, with the same values: XLA takes four times as long to
        # compile a draw in four dimensions.
        values = jax.random.uniform(rng, (math.prod(shape),), dtype, -bound, bound)
        return values.reshape(shape)

    return init


def _uniform(shape: tuple[int, int, int, int]) -> Initializer:
    """Returns PyTorch's initialiser for a kernel: uniform in +-1 / sqrt(fan_in)."""
    return uniform(1 / math.sqrt(math.prod(shape[:3])))


def _kernel_and_bias(
    module: nn.Module,
    shape: tuple[int, int, int, int],
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
):
    """Makes a module's parameters, initialised as in PyTorch by default."""
    init, dtype = _uniform(shape), module.param_dtype
    kernel = module.param("kernel", kernel_init or init, shape, dtype)
    if not module.use_bias:
        return kernel, None
    return kernel, module.param("bias", bias_init or init, shape[-1:], dtype)


class Conv(Layer):
    """Convolution with explicit zero padding and PyTorch's initialisation.

    Attributes:
        features: number of output channels.
        kernel_size: (rows, columns).
        strides: stride in pixels, the same for rows and columns.
        padding: zeros on each side; None is half the kernel size, rounded down.
        use_bias: whether a bias is added.
        kernel_init: initialiser of the kernel; None is PyTorch's.
        bias_init: initialiser of the bias; None is PyTorch's.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int = 1
    padding: int | None = None
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H', W', features] of `x` [B, H, W, C]."""
        kh, kw = self.kernel_size
        kernel, bias = _kernel_and_bias(
            self,
            (kh, kw, x.shape[-1], self.features),
            self.kernel_init,
            self.bias_init,
        )
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.padding is None:
            padding = (kh // 2,) * 2, (kw // 2,) * 2
        else:
            padding = ((self.padding,) * 2,) * 2
        y = dense_conv(x, kernel, self.strides, padding)
        return y if bias is None else y + bias


class JointConv(Layer):
    """Convolution of several arrays as if concatenated along their channels.

    Since it is linear, each array is convolved separately and the results are added. An
    array that many rows share is convolved once, and nothing is concatenated.

    Attributes:
        features: number of output channels.
        kernel_size: (rows, columns), odd.
        use_bias: whether a bias is added.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    use_bias: bool = True

    @nn.compact
    def __call__(self, *operands: jax.Array) -> jax.Array:
        """Returns [..., H, W, features] of arrays [..., H, W, C].

        Leading axes are broadcast; channels may differ.
        """
        kh, kw = self.kernel_size
        channels = [x.shape[-1] for x in operands]
        kernel, bias = _kernel_and_bias(self, (kh, kw, sum(channels), self.features))
        *operands, kernel, bias = promote_dtype(
            *operands, kernel, bias, dtype=self.dtype
        )
        kernels = jnp.split(kernel, np.cumsum(channels)[:-1], axis=2)
        padding = (kh // 2,) * 2, (kw // 2,) * 2
        total = 0 if bias is None else bias
        for x, part in zip(operands, kernels, strict=True):
            y = dense_conv(x.reshape(-1, *x.shape[-3:]), part, 1, padding)
            total = total + y.reshape(*x.shape[:-1], self.features)
        return total


class ConvTranspose(Layer):
    """Transposed convolution whose kernel size equals its stride: nothing overlaps.

    The kernel [factor, factor, features, C] is that of the convolution whose transpose
    this is, and is initialised as such, as in PyTorch.

    Attributes:
        features: number of output channels.
        factor: upsampling factor, and size of the kernel.
    """

    features: int
    factor: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, factor * H, factor * W, features] of `x` [B, H, W, C]."""
        batch, height, width, channels = x.shape
        factor, features = self.factor, self.features
        shape = (factor, factor, features, channels)
        init = _uniform(shape)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = self.param("bias", init, (features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x.reshape(-1, channels) @ kernel.reshape(-1, channels).T
        y = y.reshape(batch, height, width, factor, factor, features)
        y = y.transpose(0, 1, 3, 2, 4, 5)  # [B, H, i, W, j, features]
        return y.reshape(batch, factor * height, factor * width, features) + bias


class GroupedConv(Layer):
    """Grouped convolution of stride 1 that keeps the size; see `grouped_conv`.

    Attributes:
        features: number of output channels.
        groups: number of groups.
        kernel_size: (rows, columns), odd.
        dilation: spacing of the kernel's taps, in pixels.
        use_bias: whether a bias is added.
    """

    features: int
    groups: int
    kernel_size: Sequence[int] = (3, 3)
    dilation: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C].

        Raises:
            ValueError: if `groups` does not divide C and `features`.
        """
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{channels} input channels and features={self.features} do not divide "
                f"into groups={self.groups}; both must be multiples of it."
            )
        shape = (*self.kernel_size, channels // self.groups, self.features)
        kernel, bias = _kernel_and_bias(self, shape)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = grouped_conv(x, kernel, groups=self.groups, dilation=self.dilation)
        return y if bias is None else y + bias


class DepthwiseConv(Layer):
    """Depthwise convolution of stride 1 that keeps the size.

    Attributes:
        kernel_size: (rows, columns), odd.
        dilation: spacing of the kernel's taps, in pixels.
        use_bias: whether a bias is added.
        kernel_init: initialiser of the kernel; None is PyTorch's.
        bias_init: initialiser of the bias; None is PyTorch's.
    """

    kernel_size: Sequence[int] = (3, 3)
    dilation: int = 1
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        kernel, bias = _kernel_and_bias(
            self, (*self.kernel_size, 1, channels), self.kernel_init, self.bias_init
        )
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = grouped_conv(x, kernel, groups=channels, dilation=self.dilation)
        return y if bias is None else y + bias


class PairedConv(Layer):
    """3x3 convolution in groups of two channels, with as many channels out as in.

    Attributes:
        use_bias: whether a bias is added.
    """

    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C], C even."""
        channels = x.shape[-1]
        kernel, bias = _kernel_and_bias(self, (3, 3, 2, channels))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = grouped_conv(x, kernel, groups=channels // 2)
        return y if bias is None else y + bias


class _Branch(nn.Module):
    """The parameters of one branch of `DepthwiseSum`."""

    shape: tuple[int, int, int, int]
    use_bias: bool
    param_dtype: Dtype

    @nn.compact
    def __call__(self):
        return _kernel_and_bias(self, self.shape)


class DepthwiseSum(Layer):
    """Sum of depthwise convolutions of the same input; see `summed_depthwise`.

    The parameters of the branches are named `branch_0`, `branch_1` and so on; each
    branch has its own bias.

    Attributes:
        dilations: spacing of the taps of each branch, in pixels.
        kernel_size: (rows, columns), odd.
        use_bias: whether each branch adds a bias.
    """

    dilations: Sequence[int]
    kernel_size: Sequence[int] = (3, 3)
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        shape = (*self.kernel_size, 1, x.shape[-1])
        branches = [
            _Branch(shape, self.use_bias, self.param_dtype, name=f"branch_{i}")()
            for i in range(len(self.dilations))
        ]
        kernels, biases = zip(*branches, strict=True)
        bias = sum(biases) if self.use_bias else None
        x, bias, *kernels = promote_dtype(x, bias, *kernels, dtype=self.dtype)
        y = summed_depthwise(x, kernels, dilations=self.dilations)
        return y if bias is None else y + bias


class PReLU(Layer):
    """ReLU with a learned slope below zero.

    Source: He et al., Delving Deep into Rectifiers, ICCV 2015.

    Attributes:
        per_channel: whether each channel has a slope of its own.
    """

    per_channel: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the same shape as `x`, [..., C]."""
        shape = x.shape[-1:] if self.per_channel else (1,)
        slope = self.param(
            "slope", nn.initializers.constant(0.25), shape, self.param_dtype
        )
        return jnp.where(x >= 0, x, x * slope.astype(x.dtype))


def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact GELU, x times the normal distribution function, of any shape.

    Flax's default is the tanh approximation, and its exact form uses erfc, which takes
    two to three times as long on CPU. Like PyTorch's, this one uses erf, in float32.
    """
    y = x.astype(jnp.float32)
    return (0.5 * y * (1.0 + lax.erf(y * math.sqrt(0.5)))).astype(x.dtype)


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Moves channels into space, as PyTorch's `PixelShuffle` does.

    Input channel `factor**2 * o + factor * i + j` becomes output channel `o` at row `i`
    and column `j` of each block.

    Args:
        x: features [B, H, W, C].
        factor: upsampling factor of both sides.

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


def pixel_unshuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Moves space into channels, as PyTorch's `PixelUnshuffle` does.

    The inverse of `pixel_shuffle`, with the same order of channels.

    Args:
        x: features [B, H, W, C].
        factor: downsampling factor of both sides.

    Returns:
        Features [B, H / factor, W / factor, factor**2 * C].

    Raises:
        ValueError: if H or W is not a multiple of `factor`.
    """
    batch, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ValueError(
            f"pixel_unshuffle by {factor} needs a height and width divisible by it; "
            f"got {height} x {width}."
        )
    y = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    y = y.transpose(0, 1, 3, 5, 2, 4)  # [B, H', W', C, i, j]
    return y.reshape(batch, height // factor, width // factor, channels * factor**2)
