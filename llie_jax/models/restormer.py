"""Restormer: a U-shaped transformer whose attention is between channels.

Source: Zamir et al., Restormer: Efficient Transformer for High-Resolution Image
Restoration, CVPR 2022.
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
from llie_jax.registry import Card, register
from llie_jax.types import ModuleFactory, Outputs


@register("bias_free", Card("norm", internal=("epsilon",)))
class BiasFreeNorm(Layer):
    """Divides by the standard deviation of each pixel's channels, in float32.

    Source: the official code, which computes the deviation about the mean but does not
    subtract the mean.

    Attributes:
        epsilon: added to the variance under the square root.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [..., C]."""
        scale = self.param(
            "scale", nn.initializers.ones, x.shape[-1:], self.param_dtype
        )
        y = x.astype(jnp.float32)
        variance = jnp.var(y, axis=-1, keepdims=True)
        return (y * jax.lax.rsqrt(variance + self.epsilon) * scale).astype(self.dtype)


class ChannelAttention(Layer):
    """Attention between channels, after a depthwise convolution (MDTA).

    Source: Restormer, Eq. (1) and Fig. 2 (a).

    Attributes:
        num_heads: number of heads.
        use_bias: whether the convolutions add a bias.
        reallocate: slot that rewrites query, key and value, [B, H, W, 3C].
    """

    num_heads: int
    use_bias: bool = False
    reallocate: ModuleFactory = attention.Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=self.use_bias, **types)
        features = conv(3 * channels, (1, 1), name="expand")(x)
        features = layers.DepthwiseConv(
            use_bias=self.use_bias, name="depthwise", **types
        )(features)
        features = self.reallocate(name="reallocate", **types)(features)
        query, key, value = jnp.split(features, 3, -1)
        scale = self.param(
            "scale", nn.initializers.ones, (self.num_heads, 1, 1), self.param_dtype
        )
        y = attention.channel_attention(
            query, key, value, scale, num_heads=self.num_heads
        )
        return conv(channels, (1, 1), name="project")(y)


class GatedFeedForward(Layer):
    """Feed-forward block in which one half gates the other (GDFN).

    Source: Restormer, Eq. (2) and Fig. 2 (b).

    Attributes:
        expansion: hidden channels over input channels; the product is rounded down.
        use_bias: whether the convolutions add a bias.
    """

    expansion: float = 2.66
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C].

        Raises:
            ValueError: if `expansion` leaves no hidden channel.
        """
        channels = x.shape[-1]
        hidden = int(channels * self.expansion)
        if hidden < 1:
            raise ValueError(
                f"expansion={self.expansion} leaves no hidden channel for {channels} "
                f"input channels; use at least {1 / channels:.3g}."
            )
        types = dict(use_bias=self.use_bias, **self.types)
        y = layers.Conv(2 * hidden, (1, 1), name="expand", **types)(x)
        y = layers.DepthwiseConv(name="depthwise", **types)(y)
        gate, value = jnp.split(y, 2, axis=-1)
        y = layers.gelu(gate) * value
        return layers.Conv(channels, (1, 1), name="contract", **types)(y)


class Block(Layer):
    """Attention, then a feed-forward network, each preceded by a norm.

    Source: Restormer, Fig. 2.

    Attributes:
        num_heads: heads of the attention.
        expansion: see `GatedFeedForward`.
        norm: slot for both norms.
        use_bias: whether the convolutions add a bias.
        reallocate: see `ChannelAttention`.
    """

    num_heads: int
    expansion: float = 2.66
    norm: ModuleFactory = norms.LayerNorm
    use_bias: bool = False
    reallocate: ModuleFactory = attention.Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        types = self.types
        norm = functools.partial(self.norm, epsilon=1e-5, **types)
        x = x + ChannelAttention(
            self.num_heads, self.use_bias, self.reallocate, name="attention", **types
        )(norm(name="norm1")(x))
        return x + GatedFeedForward(
            self.expansion, self.use_bias, name="feed_forward", **types
        )(norm(name="norm2")(x))


class Downsample(Layer):
    """Halves the size, doubles the channels: convolution, then pixel unshuffle."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H / 2, W / 2, 2C] of features [B, H, W, C]."""
        types = self.types
        features = x.shape[-1] // 2
        x = layers.Conv(features, use_bias=False, name="contract", **types)(x)
        return layers.pixel_unshuffle(x, 2)


class Upsample(Layer):
    """Doubles the size, halves the channels: convolution, then pixel shuffle."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, 2H, 2W, C / 2] of features [B, H, W, C]."""
        types = self.types
        features = 2 * x.shape[-1]
        x = layers.Conv(features, use_bias=False, name="expand", **types)(x)
        return layers.pixel_shuffle(x, 2)


_TORCH_LEVELS = {
    "encoder_level1": "encoder_0",
    "encoder_level2": "encoder_1",
    "encoder_level3": "encoder_2",
    "latent": "latent",
    "decoder_level3": "decoder_0",
    "decoder_level2": "decoder_1",
    "decoder_level1": "decoder_2",
    "refinement": "refinement",
}
TORCH_BLOCK_KEYS = {
    "norm1.body": "norm1",
    "attn.temperature": "attention/scale",
    "attn.qkv": "attention/expand",
    "attn.qkv_dwconv": "attention/depthwise",
    "attn.project_out": "attention/project",
    "norm2.body": "norm2",
    "ffn.project_in": "feed_forward/expand",
    "ffn.dwconv": "feed_forward/depthwise",
    "ffn.project_out": "feed_forward/contract",
}
"""Parameter names of one block: official name -> ours."""

TORCH_KEYS = {
    "patch_embed.proj": "embedding",
    "down1_2.body.0": "downs_0/contract",
    "down2_3.body.0": "downs_1/contract",
    "down3_4.body.0": "downs_2/contract",
    "up4_3.body.0": "ups_0/expand",
    "up3_2.body.0": "ups_1/expand",
    "up2_1.body.0": "ups_2/expand",
    "reduce_chan_level3": "fuse_0",
    "reduce_chan_level2": "fuse_1",
    "output": "output",
} | {
    f"{torch_level}.{{b}}.{torch_part}": f"{level}/block_{{b}}/{part}"
    for torch_level, level in _TORCH_LEVELS.items()
    for torch_part, part in TORCH_BLOCK_KEYS.items()
}


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of Restormer from an official checkpoint.

    Levels without keys are assumed to have one block, so that a checkpoint with a
    missing level fails to load.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """

    def blocks(level):
        found = (re.match(rf"{level}\.(\d+)\.", key) for key in shapes)
        return max([1, *(1 + int(match[1]) for match in found if match)])

    def heads(level, default):
        return shapes.get(f"{level}.0.attn.temperature", (default,))[0]

    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    fields = {
        "num_blocks": tuple(map(blocks, levels)),
        "num_refinement_blocks": blocks("refinement"),
        "num_heads": tuple(map(heads, levels, Restormer.num_heads)),
        "use_bias": any(key.endswith(".attn.qkv.bias") for key in shapes),
    }
    if any(key.endswith(".norm1.body.weight") for key in shapes):
        biased = any(key.endswith(".norm1.body.bias") for key in shapes)
        fields["norm"] = "with_bias" if biased else "bias_free"
    if "patch_embed.proj.weight" in shapes:
        fields["width"] = shapes["patch_embed.proj.weight"][0]
    elif "width" not in given:
        raise ValueError(
            "The checkpoint has no 'patch_embed.proj', so Restormer's width cannot be "
            "inferred; give it as 'width'."
        )
    hidden = shapes.get("encoder_level1.0.ffn.project_out.weight")
    width = fields.get("width", given.get("width"))
    if hidden and int(width * Restormer.expansion) != hidden[1]:
        # Rounded down, this gives the same number of channels at this level.
        fields["expansion"] = hidden[1] / width
    return fields


SIZES = {
    "paper": {},
    # The ADR paper's settings for this backbone.
    "adr": {
        "reallocate": {
            "name": "adr",
            "width": 4,
            "conv": {"name": "orthogonal", "embedding_dim": 64},
        }
    },
    # Not from the paper: trains in minutes on two CPU cores.
    "small": {
        "width": 8,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "num_heads": (1, 1, 2, 4),
    },
}


CARD = ModelCard(
    sizes=SIZES,
    costs={
        "paper": {
            "params": 26_126_644,
            "inference_params": 26_126_644,
            "macs_256": 154_882_031_616,
        },
        "adr": {
            "params": 30_698_332,
            "inference_params": 30_698_332,
            "macs_256": 156_436_240_640,
        },
        "small": {
            "params": 208_215,
            "inference_params": 208_215,
            "macs_256": 1_401_688_064,
        },
    },
    tiny={
        "width": 4,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "num_heads": (1, 1, 2, 4),
    },
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    verified="official code, random weights: 2e-5",
    attention_layers=("*/attention",),
    feed_forward_layers=("*/feed_forward",),
)


@register("restormer", CARD)
class Restormer(Backbone, Layer):
    """Restormer; the defaults are the paper's configuration.

    Wrappers split the model after the latent level: the features are
    [B, H / 8, W / 8, 8 * width].

    Source: Zamir et al., Restormer, CVPR 2022, Fig. 2 and Section 3.
    Differs: the model never pads or crops its input, see `llie_jax.inference`.

    Attributes:
        width: channels at full resolution; each level doubles them. The finest level
            of the decoder and the refinement have 2 * width.
        num_blocks: blocks of the four levels, fine to coarse; the last is the latent
            level. The decoder mirrors the encoder.
        num_refinement_blocks: blocks after the decoder, at full resolution.
        num_heads: heads of the four levels.
        expansion: hidden channels over input channels of the feed-forward networks.
        norm: slot for the norms: "with_bias", a layer norm, or "bias_free", without
            mean and bias.
        use_bias: whether the convolutions add a bias; the first one and those
            that resize never do.
        reallocate: slot in each attention of the decoder and the refinement.
        dtype: computation dtype. Lengths, scores, norms and the final sum always use
            float32.
        param_dtype: storage dtype of the parameters.
    """

    width: int = 48
    num_blocks: tuple[int, ...] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    expansion: float = 2.66
    norm: ModuleFactory = norms.LayerNorm
    use_bias: bool = False
    reallocate: ModuleFactory = attention.Identity

    multiple = 8
    pad_mode = "reflect"

    def setup(self):
        """Builds the submodules; raises ValueError if the fields are inconsistent."""
        self._check()
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=self.use_bias, **types)

        def level(num_blocks, num_heads, **options):
            block = functools.partial(
                Block,
                num_heads,
                expansion=self.expansion,
                norm=self.norm,
                use_bias=self.use_bias,
                **options,
                **types,
            )
            return Repeat(block, num_blocks)

        widths = [self.width * 2**i for i in range(3)]
        fine_to_coarse = list(zip(self.num_blocks, self.num_heads, strict=True))
        *outer, latent = fine_to_coarse
        slot = {"reallocate": self.reallocate}
        self.embedding = layers.Conv(self.width, use_bias=False, **types)
        self.encoder = [level(*numbers) for numbers in outer]
        self.downs = [Downsample(**types) for _ in outer]
        self.latent = level(*latent)
        # Coarse to fine, the order of execution.
        self.ups = [Upsample(**types) for _ in outer]
        # The finest level keeps all channels of its concatenated inputs.
        self.fuse = [conv(width, (1, 1)) for width in reversed(widths[1:])]
        self.decoder = [level(*numbers, **slot) for numbers in reversed(outer)]
        self.refinement = level(self.num_refinement_blocks, self.num_heads[0], **slot)
        self.output = conv(3)

    def _check(self):
        if len(self.num_blocks) != 4 or len(self.num_heads) != 4:
            raise ValueError(
                f"num_blocks {self.num_blocks} and num_heads {self.num_heads} need "
                "four numbers each, fine to coarse."
            )
        if min(*self.num_blocks, self.num_refinement_blocks) < 1:
            raise ValueError(
                f"num_blocks {self.num_blocks} and num_refinement_blocks="
                f"{self.num_refinement_blocks} must be at least 1."
            )
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width={self.width}; use an even number.")
        for i, heads in enumerate(self.num_heads):
            if heads < 1 or self.width * 2**i % heads:
                raise ValueError(
                    f"num_heads {self.num_heads}: the {self.width * 2**i} channels of "
                    f"level {i + 1} do not divide into {heads} heads."
                )

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the latent features and what `decode` needs; see `Backbone`."""
        del target, train  # Restormer computes the same in training
        self.check_image(image)
        x = self.embedding(image.astype(self.dtype))
        skips = []
        for level, down in zip(self.encoder, self.downs, strict=True):
            x = level(x)
            skips.append(x)
            x = down(x)
        return self.latent(x), {"image": image, "skips": skips}

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        x = features
        skips = reversed(context["skips"])
        for i, (up, skip, level) in enumerate(
            zip(self.ups, skips, self.decoder, strict=True)
        ):
            x = jnp.concatenate([up(x), skip], axis=-1)
            x = level(self.fuse[i](x) if i < len(self.fuse) else x)
        x = self.output(self.refinement(x))
        image = context["image"].astype(jnp.float32)
        return Outputs(x.astype(jnp.float32) + image)
