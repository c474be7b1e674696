"""Retinexformer: brightens by an estimated illumination, which also guides attention.

Source: Cai et al., Retinexformer: One-stage Retinex-based Transformer for Low-light
Image Enhancement, ICCV 2023.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.nn import attention, layers, norms
from llie_jax.nn.layers import Layer, Repeat
from llie_jax.registry import register
from llie_jax.types import ModuleFactory, Outputs, Pretrained


class IlluminationEstimator(Layer):
    """Estimates illumination features, and the map that brightens an image.

    There is no activation: the map is linear in the image.

    Source: Retinexformer, Section 3.1 and Fig. 2. As in the official code, the
    "depthwise" convolution has four groups of channels.

    Attributes:
        width: number of illumination features.
    """

    width: int

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns features [B, H, W, width] and map [B, H, W, 3] of [B, H, W, 3]."""
        types = self.types
        x = jnp.concatenate([image, jnp.mean(image, -1, keepdims=True)], -1)
        x = layers.Conv(self.width, (1, 1), name="expand", **types)(x)
        features = layers.GroupedConv(
            self.width, groups=4, kernel_size=(5, 5), name="spatial", **types
        )(x)
        return features, layers.Conv(3, (1, 1), name="project", **types)(features)


class PositionalBranch(Layer):
    """Positional embedding: two depthwise convolutions with a GELU between."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        types = dict(use_bias=False, **self.types)
        x = layers.DepthwiseConv(name="depthwise1", **types)(x)
        x = layers.gelu(x)
        return layers.DepthwiseConv(name="depthwise2", **types)(x)


class IlluminationGuidedAttention(Layer):
    """Attention between channels whose values are multiplied by illumination (IG-MSA).

    Unlike in other attentions, the rows of the scores are keys, and the softmax runs
    over queries.

    Source: Retinexformer, Section 3.2; the official code for the order of the softmax.

    Attributes:
        num_heads: number of heads.
        reallocate: slot that rewrites query, key and value, [B, H, W, 3C], before the
            illumination; the positional branch reads the rewritten value too.
    """

    num_heads: int
    reallocate: ModuleFactory = attention.Identity

    @nn.compact
    def __call__(self, x: jax.Array, illumination: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C].

        Args:
            x: features [B, H, W, C].
            illumination: illumination features [B, H, W, C].
        """
        shape, channels = x.shape, x.shape[-1]
        types = self.types

        def linear(x, name, use_bias):
            # The authors truncate at 100 standard deviations, which has no effect.
            layer = nn.Dense(
                channels,
                use_bias=use_bias,
                kernel_init=nn.initializers.normal(0.02),
                name=name,
                **types,
            )
            # As a matrix: with more axes, XLA's kernel gradient takes twice as long.
            return layer(x.reshape(-1, channels)).reshape(shape)

        query, key, value = (
            linear(x, name, use_bias=False) for name in ("query", "key", "value")
        )
        features = jnp.concatenate([query, key, value], -1)
        features = self.reallocate(name="reallocate", **types)(features)
        query, key, value = jnp.split(features, 3, -1)
        scale = self.param(
            "scale", nn.initializers.ones, (self.num_heads, 1, 1), self.param_dtype
        )
        y = attention.channel_attention(
            key, query, value * illumination, scale, num_heads=self.num_heads
        )
        position = PositionalBranch(name="position", **types)(value)
        return linear(y, "project", use_bias=True) + position


class FeedForward(Layer):
    """Feed-forward network: expansion, depthwise convolution, contraction.

    Source: Retinexformer, Fig. 2; the official code for its layers.

    Attributes:
        expansion: hidden channels over input channels.
    """

    expansion: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        types = dict(use_bias=False, **self.types)
        y = layers.Conv(self.expansion * channels, (1, 1), name="expand", **types)(x)
        y = layers.gelu(y)
        y = layers.DepthwiseConv(name="depthwise", **types)(y)
        y = layers.gelu(y)
        return layers.Conv(channels, (1, 1), name="contract", **types)(y)


class Block(Layer):
    """Attention, then a feed-forward network; a norm precedes only the latter.

    Source: Retinexformer, Fig. 2 and the official code, which has no norm before
    the attention.

    Attributes:
        num_heads: number of heads.
        reallocate: see `IlluminationGuidedAttention`.
    """

    num_heads: int
    reallocate: ModuleFactory = attention.Identity

    @nn.compact
    def __call__(self, x: jax.Array, illumination: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        types = self.types
        x = x + IlluminationGuidedAttention(
            self.num_heads, self.reallocate, name="attention", **types
        )(x, illumination)
        y = norms.CountedLayerNorm(epsilon=1e-5, name="norm", **types)(x)
        return x + FeedForward(name="feed_forward", **types)(y)


class Denoiser(Layer):
    """U-shaped network that removes the noise that brightening amplifies (IGT).

    Source: Retinexformer, Section 3.2 and Fig. 2.

    Attributes:
        width: channels at full resolution; each level doubles them, in heads of `width`
            channels.
        num_blocks: blocks per level, fine to coarse; the last is the bottleneck.
        reallocate: slot in each attention of the decoder.
    """

    width: int
    num_blocks: tuple[int, ...]
    reallocate: ModuleFactory = attention.Identity

    def setup(self):
        """Builds the submodules."""
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=False, **types)
        down = functools.partial(conv, kernel_size=(4, 4), strides=2, padding=1)
        *blocks, bottleneck_blocks = self.num_blocks
        heads = [2**i for i in range(len(blocks))]

        def level(num_blocks, num_heads, **options):
            # All blocks of a level are guided by the same illumination features (IGAB).
            return Repeat(
                functools.partial(Block, num_heads, **options, **types), num_blocks
            )

        self.embedding = conv(self.width)
        self.encoder = [level(n, h) for n, h in zip(blocks, heads, strict=True)]
        self.down = [down(2 * h * self.width) for h in heads]
        self.illumination_down = [down(2 * h * self.width) for h in heads]
        self.bottleneck = level(bottleneck_blocks, 2 ** len(blocks))
        # Coarse to fine, the order of execution.
        self.up = [
            layers.ConvTranspose(h * self.width, **types) for h in reversed(heads)
        ]
        self.fuse = [conv(h * self.width, (1, 1)) for h in reversed(heads)]
        self.decoder = [
            level(n, h, reallocate=self.reallocate)
            for n, h in zip(reversed(blocks), reversed(heads), strict=True)
        ]
        self.mapping = conv(3)

    def encode(self, image: jax.Array, illumination: jax.Array):
        """Returns the bottleneck's features, and a list of skips, fine to coarse.

        Args:
            image: brightened image [B, H, W, 3].
            illumination: illumination features [B, H, W, width].
        """
        x = self.embedding(image)
        skips = []
        for level, down, illumination_down in zip(
            self.encoder, self.down, self.illumination_down, strict=True
        ):
            x = level(x, illumination)
            skips.append((x, illumination))
            x, illumination = down(x), illumination_down(illumination)
        return self.bottleneck(x, illumination), skips

    def decode(self, x: jax.Array, skips) -> jax.Array:
        """Returns what to add to the brightened image, [B, H, W, 3]."""
        for up, fuse, level, (skip, illumination) in zip(
            self.up, self.fuse, self.decoder, reversed(skips), strict=True
        ):
            x = fuse(jnp.concatenate([up(x), skip], -1))
            x = level(x, illumination)
        return self.mapping(x)


class Stage(Layer):
    """One stage: estimates the illumination, brightens and denoises.

    Source: Retinexformer, Section 3.1.

    Attributes:
        width: channels at full resolution.
        num_blocks: blocks per level of the denoiser.
        reallocate: slot in each attention of the decoder.
    """

    width: int
    num_blocks: tuple[int, ...]
    reallocate: ModuleFactory = attention.Identity

    def setup(self):
        """Builds the submodules."""
        types = self.types
        self.estimator = IlluminationEstimator(self.width, **types)
        self.denoiser = Denoiser(self.width, self.num_blocks, self.reallocate, **types)

    def encode(self, image: jax.Array):
        """Returns the bottleneck's features and whatever else `decode` needs."""
        illumination, factor = self.estimator(image)
        brightened = image * factor.astype(jnp.float32) + image
        features, skips = self.denoiser.encode(brightened, illumination)
        return features, {"brightened": brightened, "skips": skips}

    def decode(self, features: jax.Array, context) -> jax.Array:
        """Returns the image [B, H, W, 3] for the features and context from `encode`."""
        noise = self.denoiser.decode(features, context["skips"])
        return noise.astype(jnp.float32) + context["brightened"]

    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns the enhanced form of an image [B, H, W, 3]."""
        return self.decode(*self.encode(image))


_TORCH_LEVELS = {
    "encoder_layers.{l}.0": "encoder_{l}",
    "bottleneck": "bottleneck",
    "decoder_layers.{l}.2": "decoder_{l}",
}
TORCH_BLOCK_KEYS = {
    "0.to_q": "attention/query",
    "0.to_k": "attention/key",
    "0.to_v": "attention/value",
    "0.rescale": "attention/scale",
    "0.proj": "attention/project",
    "0.pos_emb.0": "attention/position/depthwise1",
    "0.pos_emb.2": "attention/position/depthwise2",
    "1.norm": "norm",
    "1.fn.net.0": "feed_forward/expand",
    "1.fn.net.2": "feed_forward/depthwise",
    "1.fn.net.4": "feed_forward/contract",
}
"""Parameter names of one block: official name -> ours."""

TORCH_KEYS = {
    f"body.{{s}}.{torch_part}": f"stage_{{s}}/{part}"
    for torch_part, part in (
        {
            "estimator.conv1": "estimator/expand",
            "estimator.depth_conv": "estimator/spatial",
            "estimator.conv2": "estimator/project",
            "denoiser.embedding": "denoiser/embedding",
            "denoiser.encoder_layers.{l}.1": "denoiser/down_{l}",
            "denoiser.encoder_layers.{l}.2": "denoiser/illumination_down_{l}",
            "denoiser.decoder_layers.{l}.0": "denoiser/up_{l}",
            "denoiser.decoder_layers.{l}.1": "denoiser/fuse_{l}",
            "denoiser.mapping": "denoiser/mapping",
        }
        | {
            f"denoiser.{torch_level}.blocks.{{b}}.{key}": (
                f"denoiser/{level}/block_{{b}}/{name}"
            )
            for torch_level, level in _TORCH_LEVELS.items()
            for key, name in TORCH_BLOCK_KEYS.items()
        }
    ).items()
}


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of Retinexformer from an official checkpoint.

    Levels without keys are assumed to have one block, so that a checkpoint with a
    missing level fails to load.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """

    def count(pattern):
        found = (re.match(pattern + r"\.(\d+)\.", key) for key in shapes)
        return max([1, *(1 + int(match[1]) for match in found if match)])

    denoiser = r"body\.\d+\.denoiser\."
    levels = count(denoiser + "encoder_layers")
    encoder = [denoiser + rf"encoder_layers\.{i}\.0" for i in range(levels)]
    fields = {
        "num_stages": count("body"),
        "num_blocks": tuple(
            count(level + r"\.blocks") for level in (*encoder, denoiser + "bottleneck")
        ),
    }
    embeddings = [
        shape[0]
        for key, shape in shapes.items()
        if re.fullmatch(denoiser + r"embedding\.weight", key)
    ]
    if embeddings:
        fields["width"] = embeddings[0]
    elif "width" not in given:
        raise ValueError(
            "The checkpoint has no 'denoiser.embedding', so Retinexformer's width "
            "cannot be inferred; give it as 'width'."
        )
    return fields


def _published(file: str, trained_on: str, psnr: float, ssim: float) -> Pretrained:
    return Pretrained(
        spec={"name": "retinexformer"},
        file=file,
        origin="https://github.com/caiyuanhao1998/Retinexformer",
        licence="MIT",
        trained_on=trained_on,
        score={"psnr": psnr, "ssim": ssim},
        protocol="retinexformer",
    )


WEIGHTS = {
    "lol_v1": _published("LOL_v1.pth", "LOL-v1", 25.16, 0.845),
    "lol_v2_real": _published("LOL_v2_real.pth", "LOL-v2 real", 22.80, 0.840),
    "lol_v2_syn": _published("LOL_v2_synthetic.pth", "LOL-v2 synthetic", 25.67, 0.930),
}

SIZES = {
    "paper": {},
    # The ADR paper's settings for this backbone.
    "adr": {
        "reallocate": {
            "name": "adr",
            "width": 32,
            "conv": {"name": "orthogonal", "embedding_dim": 64},
        }
    },
    # Not from the paper: trains in minutes on two CPU cores.
    "small": {"width": 8, "num_blocks": (1, 1, 1)},
}


CARD = ModelCard(
    sizes=SIZES,
    costs={
        "paper": {
            "params": 1_605_701,
            "inference_params": 1_605_701,
            "macs_256": 16_656_629_760,
        },
        "adr": {
            "params": 4_145_867,
            "inference_params": 4_145_867,
            "macs_256": 17_667_049_728,
        },
        "small": {
            "params": 49_149,
            "inference_params": 49_149,
            "macs_256": 596_901_888,
        },
    },
    tiny={"width": 4, "num_blocks": (1, 1, 1), "num_stages": 2},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, random weights: 2e-5",
    attention_layers=("*/attention",),
    feed_forward_layers=("*/feed_forward",),
)


@register("retinexformer", CARD)
class Retinexformer(Backbone, Layer):
    """Retinexformer; the defaults match all published LOL weights.

    Wrappers split the model after the bottleneck of the last stage: the features are
    [B, H / 4, W / 4, 4 * width]. Earlier stages run in `encode`.

    Source: Cai et al., Retinexformer, ICCV 2023, Fig. 2 and Section 3.
    Differs: the model never pads or crops its input, see `llie_jax.inference`.

    Attributes:
        width: channels at full resolution; each level doubles them.
        num_stages: number of stages, each with its own parameters.
        num_blocks: blocks per level, fine to coarse; the last is the bottleneck. The
            decoder mirrors the encoder.
        reallocate: slot in each attention of the decoders; it receives the concatenated
            query, key and value features.
        dtype: computation dtype. Images, lengths, scores and norms always use float32.
    """

    width: int = 40
    num_stages: int = 1
    num_blocks: tuple[int, ...] = (1, 2, 2)
    reallocate: ModuleFactory = attention.Identity

    pad_mode = "reflect"

    @property
    def multiple(self) -> int:
        """The required divisor of height and width."""
        return 2 ** (len(self.num_blocks) - 1)

    def setup(self):
        """Builds the stages; raises ValueError if a field is invalid."""
        if self.width < 4 or self.width % 4:
            raise ValueError(
                f"width={self.width}; the illumination estimator works on four groups "
                "of channels, use a multiple of 4."
            )
        if self.num_stages < 1:
            raise ValueError(f"num_stages={self.num_stages}; use at least 1.")
        if not self.num_blocks or min(self.num_blocks) < 1:
            raise ValueError(
                f"num_blocks={self.num_blocks}; use at least one level, and at least "
                "one block per level."
            )
        self.stage = [
            Stage(self.width, self.num_blocks, self.reallocate, **self.types)
            for _ in range(self.num_stages)
        ]

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the bottleneck's features and what `decode` needs; see `Backbone`."""
        del target, train  # Retinexformer computes the same in training
        self.check_image(image)
        image = image.astype(jnp.float32)
        for stage in self.stage[:-1]:
            image = stage(image)
        return self.stage[-1].encode(image)

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        return Outputs(self.stage[-1].decode(features, context))
