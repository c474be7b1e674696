"""Layers of CPGA-Net+ and CPGA-Net++: channel priors, exponents and their fusion.

Source: Weng et al., Rethinking Theoretical Illumination for Efficient Low-Light Image
Enhancement, arXiv 2409.05274; the official code for the layers.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.image import maximum
from llie_jax.image.resize import area_downsample, resize_aligned
from llie_jax.nn import layers, norms
from llie_jax.nn.layers import Layer
from llie_jax.types import ModuleFactory

_XAVIER = {
    "kernel_init": nn.initializers.xavier_uniform(),
    "bias_init": nn.initializers.zeros,
}

Conv = functools.partial(layers.Conv, **_XAVIER)
"""A convolution with the authors' initialisation."""

_VALUES = (1e-4, 1.0)
"""The range to which channel-prior blocks and fusions clip their outputs."""

_EXPONENTS = (1e-2, 4.0)
_RATES = (0.1, 1.0)


def power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """Returns `base ** exponent`, and 0 where the base is 0 or less.

    At 0 a power below 1 has an infinite slope, and multiplying it by 0 gives NaN. Here
    all gradients at 0 are 0.
    """
    positive = base > 0
    # The inner `where` keeps the infinite slope out of the backward pass.
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, 0.0)


def _mean(x: jax.Array) -> jax.Array:
    """Returns the mean of each pixel's channels, [B, H, W, 1]."""
    return jnp.mean(x, -1, keepdims=True)


class ResidualBlock(Layer):
    """Two 3x3 convolutions with an activation between, and a skip connection.

    Attributes:
        strides: 2 halves the size; the skip is then the mean of each 2x2 cell, which
            equals the authors' bilinear resizing.
        activation: follows the first convolution.
    """

    strides: int = 1
    activation: Callable[[jax.Array], jax.Array] = layers.gelu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H / strides, W / strides, C] of `x` [B, H, W, C]."""
        channels, types = x.shape[-1], self.types
        y = Conv(channels, strides=self.strides, name="conv_0", **types)(x)
        y = Conv(channels, name="conv_1", **types)(self.activation(y))
        return y + area_downsample(x, self.strides)


class ConvNeXtBlock(Layer):
    """ConvNeXt block with a 3x3 depthwise convolution.

    Source: Liu et al., A ConvNet for the 2020s, CVPR 2022, Fig. 4.

    Attributes:
        strides: 2 halves the size; the skip is then a 1x1 convolution.
    """

    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H / strides, W / strides, C] of `x` [B, H, W, C]."""
        channels, types = x.shape[-1], self.types
        if self.strides == 1:
            y = layers.DepthwiseConv(name="depthwise", **_XAVIER, **types)(x)
        else:
            y = nn.Conv(
                channels,
                (3, 3),
                self.strides,
                padding=1,
                feature_group_count=channels,
                name="depthwise",
                **_XAVIER,
                **types,
            )(x)
            x = Conv(channels, (1, 1), strides=self.strides, name="skip", **types)(x)
        y = norms.LayerNorm(epsilon=1e-6, name="norm", **types)(y)
        y = layers.gelu(Conv(4 * channels, (1, 1), name="expand", **types)(y))
        y = Conv(channels, (1, 1), name="contract", **types)(y)
        scale = self.param(
            "scale", nn.initializers.constant(1e-6), (channels,), self.param_dtype
        )
        return x + y * scale.astype(y.dtype)


class Transmission(Layer):
    """Estimates the transmission from channel priors: the maximum, minimum and mean."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns one value per pixel, [B, H, W, 1], of `x` [B, H, W, C]."""
        types = self.types
        priors = [maximum.largest(x, -1), -maximum.largest(-x, -1), _mean(x)]
        y = Conv(4, name="prior", **types)(jnp.concatenate(priors, -1))
        y = layers.gelu(y)
        y = ResidualBlock(name="block", **types)(jnp.concatenate([y, x], -1))
        y = layers.gelu(jnp.concatenate([y, x], -1))
        return Conv(1, (1, 1), name="output", **types)(y)


class AtmosphericLight(Layer):
    """Estimates the atmospheric light at full and half resolution.

    Attributes:
        features: number of output channels.
        width: number of inner channels.
        block: makes the blocks.
    """

    features: int
    width: int
    block: ModuleFactory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C]."""
        types, size = self.types, x.shape[1:3]
        full = Conv(self.width, (1, 1), name="input", **types)(x)
        half = self.block(strides=2, name="down", **types)(full)
        deep = self.block(name="deep", **types)(half)
        y = layers.gelu(jnp.concatenate([deep, half], -1))
        y = resize_aligned(Conv(self.width, name="merge", **types)(y), size)
        y = self.block(name="up", **types)(y)
        y = jnp.concatenate([y, full], -1)
        return Conv(self.features, (1, 1), name="output", **types)(y)


class ChannelPriorBlock(Layer):
    """Restores an image, or features, with the model of atmospheric scattering.

    Source: CPGA-Net+, the CP block.

    Attributes:
        features: number of output channels.
        width: see `AtmosphericLight`.
        block: see `AtmosphericLight`.
    """

    features: int
    width: int
    block: ModuleFactory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, H, W, features] in [1e-4, 1], float32, of `x` [B, H, W, C]."""
        types = self.types
        transmission = Transmission(name="transmission", **types)(x)
        light = AtmosphericLight(
            self.features, self.width, self.block, name="light", **types
        )(x)
        y = layers.gelu(Conv(self.features, name="project", **types)(x))
        y, light, transmission = (
            each.astype(jnp.float32) for each in (y, light, transmission)
        )
        return jnp.clip((y - light) * transmission + light, *_VALUES)


class AttentionBlock(Layer):
    """Residual block with batch norms, channel attention and spatial attention.

    Source: Woo et al., CBAM, ECCV 2018, Fig. 3; the official code for the activations.

    Attributes:
        strides: 2 halves the size; the skip is then a 1x1 convolution.
        axis_name: see `norms.BatchNorm`.
    """

    strides: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns features [B, H / strides, W / strides, C] of `x` [B, H, W, C]."""
        channels, types = x.shape[-1], self.types
        norm = functools.partial(norms.BatchNorm, self.axis_name, **types)
        y = Conv(channels, strides=self.strides, name="conv_0", **types)(x)
        y = layers.gelu(norm(name="norm_0")(y, train=train))
        y = Conv(channels, name="conv_1", **types)(y)
        y = norm(name="norm_1")(y, train=train)
        y = y * self._channel_attention(y)
        y = y * self._spatial_attention(y)
        if self.strides > 1:
            x = Conv(channels, (1, 1), strides=self.strides, name="skip", **types)(x)
        return layers.gelu(y + x)

    def _channel_attention(self, x):
        """Returns weights [B, 1, 1, C] in [0, 1]."""
        channels = x.shape[-1]
        options = dict(kernel_size=(1, 1), use_bias=False, **self.types)
        squeeze = Conv(max(1, channels // 16), name="squeeze", **options)
        expand = Conv(channels, name="expand", **options)
        pooled = (
            jnp.mean(x, (1, 2), keepdims=True),
            maximum.largest(maximum.largest(x, 1), 2),
        )
        return nn.sigmoid(sum(expand(nn.relu(squeeze(each))) for each in pooled))

    def _spatial_attention(self, x):
        """Returns weights [B, H, W, 1] in [0, 1]."""
        x = jnp.concatenate([_mean(x), maximum.largest(x, -1)], -1)
        conv = Conv(1, (7, 7), use_bias=False, name="spatial", **self.types)
        return nn.sigmoid(conv(x))


class GammaEstimator(Layer):
    """Estimates one exponent per image, in [0.01, 4].

    Where the exponent is clipped, no gradient reaches the estimator.

    Source: CPGA-Net+, the gamma estimation.

    Attributes:
        width: number of channels.
        axis_name: see `norms.BatchNorm`.
    """

    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Returns exponents [B, 1, 1, 1], float32, of images [B, H, W, 3]."""
        types = self.types
        block = functools.partial(AttentionBlock, axis_name=self.axis_name, **types)
        full = Conv(self.width, name="input", **types)(image)
        y = block(strides=2, name="down")(full, train=train)
        for i in range(2):
            y = block(name=f"block_{i}")(y, train=train)
        # The mean of 2x2 cells equals the authors' bilinear resizing.
        y = y + area_downsample(full, 2)
        y = Conv(1, (1, 1), name="output", **types)(y).astype(jnp.float32)
        return jnp.clip(jnp.mean(y, (1, 2), keepdims=True), *_EXPONENTS)


class Fusion(Layer):
    """Adds corrected and restored values and subtracts their intersection (IAAF).

    Source: CPGA-Net+, the intersection-aware adaptive fusion.

    Attributes:
        channels: number of channels of the values.
        width: number of inner channels.
        activation: activation of the residual block.
    """

    channels: int
    width: int
    activation: Callable[[jax.Array], jax.Array] = layers.gelu

    def setup(self):
        """Builds the submodules."""
        types = self.types
        self.input = Conv(self.width, (1, 1), **types)
        self.block = ResidualBlock(activation=self.activation, **types)
        self.output = Conv(self.channels, (1, 1), **types)

    def encode(self, corrected: jax.Array, restored: jax.Array) -> jax.Array:
        """Returns features [B, H, W, width] of the intersection.

        Args:
            corrected: gamma-corrected values [B, H, W, channels].
            restored: values of the channel-prior blocks, of the same shape.
        """
        return self.block(self.input(jnp.concatenate([corrected, restored], -1)))

    def decode(
        self, features: jax.Array, corrected: jax.Array, restored: jax.Array
    ) -> jax.Array:
        """Returns [B, H, W, channels] in [1e-4, 1] for the features from `encode`."""
        return jnp.clip(corrected + restored - self.output(features), *_VALUES)


class Score(Layer):
    """Scores each value by how much it contributes to the intersection.

    Attributes:
        width: number of inner channels.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns scores in [0, 1], of the shape of `x` [B, H, W, C]."""
        types = self.types
        y = Conv(self.width, (1, 1), name="input", **types)(x)
        for i in range(2):
            y = ConvNeXtBlock(name=f"block_{i}", **types)(y)
        return nn.sigmoid(Conv(x.shape[-1], (1, 1), name="output", **types)(y))


class MaskedFusion(Layer):
    """Mixes corrected and restored values and subtracts their intersection.

    Source: CPGA-Net++, the official code.

    Attributes:
        channels: number of channels of the values.
        width: number of inner channels.
    """

    channels: int
    width: int

    def setup(self):
        """Builds the submodules."""
        types = self.types
        self.score = Score(self.width, **types)  # of both kinds of values
        self.input = Conv(self.width, (1, 1), **types)
        self.block = ConvNeXtBlock(**types)
        self.output = Conv(self.channels, (1, 1), **types)

    def encode(self, corrected: jax.Array, restored: jax.Array) -> jax.Array:
        """Returns features [B, H, W, width] of the intersection; see `Fusion`."""
        scored = [values * self.score(values) for values in (corrected, restored)]
        return self.block(self.input(jnp.concatenate(scored, -1)))

    def decode(
        self,
        features: jax.Array,
        corrected: jax.Array,
        restored: jax.Array,
        rate: jax.Array,
    ) -> jax.Array:
        """Returns [B, H, W, channels] in [1e-4, 1] for the features from `encode`.

        Args:
            features: from `encode`.
            corrected: see `Fusion.encode`.
            restored: see `Fusion.encode`.
            rate: the share of the restored values, clipped to [0.1, 1].
        """
        rate = jnp.clip(rate.astype(jnp.float32), *_RATES)
        mixture = (1 - rate) * corrected + rate * restored
        return jnp.clip(mixture - self.output(features), *_VALUES)
