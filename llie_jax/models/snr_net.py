"""SNR-Net: attention where noise prevails, convolutions where signal does.

Source: Xu et al., SNR-Aware Low-light Image Enhancement, CVPR 2022.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.image.resize import area_downsample
from llie_jax.image.snr import snr_map
from llie_jax.messages import listed
from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers, norms
from llie_jax.nn.layers import Layer, Repeat
from llie_jax.registry import register
from llie_jax.types import Outputs

_PATCH = 4
"""Side of the patches that are tokens of the transformer."""

_SLOPE = 0.1
_MASKED = -1e9  # finite: if all keys are masked, they have equal weights


class ResidualBlock(Layer):
    """Two convolutions with a ReLU between, added to their input.

    Source: the paper, Section 3.2; the small initialisation is from the authors' code.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        conv = functools.partial(
            layers.Conv,
            x.shape[-1],
            kernel_init=_small_he,
            bias_init=nn.initializers.zeros,
            **self.types,
        )
        return x + conv(name="conv2")(nn.relu(conv(name="conv1")(x)))


def _small_he(rng, shape, dtype):
    return 0.1 * nn.initializers.he_normal()(rng, shape, dtype)


class MaskedAttention(Layer):
    """Attention between tokens, only some of which are keys.

    Source: the paper, Eqs. (5) to (7).

    Attributes:
        num_heads: number of heads.
        head_width: channels of each head.
    """

    num_heads: int
    head_width: int

    @nn.compact
    def __call__(self, tokens: jax.Array, is_key: jax.Array) -> jax.Array:
        """Returns tokens of the same shape.

        Args:
            tokens: one per patch, [B, h, w, D].
            is_key: boolean [B, h, w]. If no token of an image is a key, all have equal
                weights.
        """
        types = self.types
        x = norms.CountedLayerNorm(name="norm", **types)(tokens)
        batch, height, width, channels = x.shape
        inner = self.num_heads * self.head_width

        def project(name):
            y = layers.Conv(inner, (1, 1), use_bias=False, name=name, **types)(x)
            return y.reshape(batch, -1, self.num_heads, self.head_width)

        query, key, value = (project(name) for name in ("query", "key", "value"))
        scores = jnp.einsum(
            "bnhc,bmhc->bhnm",
            query * self.head_width**-0.5,
            key,
            preferred_element_type=jnp.float32,
        )
        is_key = is_key.reshape(batch, 1, 1, -1)
        weights = nn.softmax(jnp.where(is_key, scores, _MASKED)).astype(value.dtype)
        y = jnp.einsum("bhnm,bmhc->bnhc", weights, value)
        y = y.reshape(batch, height, width, inner)
        return layers.Conv(channels, (1, 1), use_bias=False, name="project", **types)(y)


class FeedForward(Layer):
    """Feed-forward network of two linear layers with a ReLU between.

    Attributes:
        hidden: hidden channels.
    """

    hidden: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns tokens of the same shape, [B, h, w, D]."""
        types = self.types
        x = norms.CountedLayerNorm(name="norm", **types)(tokens)
        x = nn.relu(layers.Conv(self.hidden, (1, 1), name="expand", **types)(x))
        return layers.Conv(tokens.shape[-1], (1, 1), name="contract", **types)(x)


class TransformerLayer(Layer):
    """Masked attention and a feed-forward network, each added to its input.

    Attributes:
        num_heads: heads of the attention.
        head_width: channels of each head.
        hidden: hidden channels of the feed-forward network.
    """

    num_heads: int
    head_width: int
    hidden: int

    @nn.compact
    def __call__(self, tokens: jax.Array, is_key: jax.Array) -> jax.Array:
        """Returns tokens of the same shape [B, h, w, D]; see `MaskedAttention`."""
        types = self.types
        attention = MaskedAttention(
            self.num_heads, self.head_width, name="attention", **types
        )
        tokens = tokens + attention(tokens, is_key)
        return tokens + FeedForward(self.hidden, name="feed_forward", **types)(tokens)


class Transformer(Layer):
    """The long-range branch: a transformer on the patches of a feature map.

    There is no positional encoding, as in the authors' code.

    Source: the paper, Section 3.3.

    Attributes:
        num_layers: number of layers.
        num_heads: heads of each attention.
        head_width: channels of each head.
        hidden: hidden channels of the feed-forward networks.
    """

    num_layers: int
    num_heads: int
    head_width: int
    hidden: int

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns features of the same shape.

        Args:
            features: [B, H, W, C]; H and W are multiples of 4.
            mask: [B, H, W, 1]; patches with a mean above 0.5 are keys.
        """
        # A token's values are in the order channel, row, column.
        tokens = layers.pixel_unshuffle(features, _PATCH)
        is_key = area_downsample(mask, _PATCH)[..., 0] > 0.5
        for i in range(self.num_layers):
            layer = TransformerLayer(
                self.num_heads,
                self.head_width,
                self.hidden,
                **self.types,
                name=f"layer_{i}",
            )
            tokens = layer(tokens, is_key)
        return layers.pixel_shuffle(tokens, _PATCH)


_TORCH_PARTS = {
    "feature_extraction.{i}": "front/block_{i}",
    "recon_trunk_light.{i}": "light/block_{i}",
    "recon_trunk.{i}": "back/block_{i}",
}
_TORCH_LAYER_KEYS = {
    "slf_attn.layer_norm": "attention/norm",
    "slf_attn.w_qs": "attention/query",
    "slf_attn.w_ks": "attention/key",
    "slf_attn.w_vs": "attention/value",
    "slf_attn.fc": "attention/project",
    "pos_ffn.layer_norm": "feed_forward/norm",
    "pos_ffn.w_1": "feed_forward/expand",
    "pos_ffn.w_2": "feed_forward/contract",
}

TORCH_KEYS = (
    {
        "conv_first_{i}": "conv_{i}",
        "upconv{i}": "up_{i}",
        "HRconv": "fuse",
        "conv_last": "output",
    }
    | {
        f"{torch_part}.conv{n}": f"{part}/conv{n}"
        for torch_part, part in _TORCH_PARTS.items()
        for n in (1, 2)
    }
    | {
        f"transformer.layer_stack.{{i}}.{key}": f"transformer/layer_{{i}}/{name}"
        for key, name in _TORCH_LAYER_KEYS.items()
    }
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of SNR-Net from an official checkpoint.

    A checkpoint does not record the number of heads; the paper's eight are assumed.
    Branches without keys are assumed to have one block, so that a checkpoint with a
    missing branch fails to load.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a size cannot be inferred, or the heads do not divide the
            channels of the attention.
    """

    def count(pattern):
        found = (re.match(pattern + r"\.(\d+)\.", key) for key in shapes)
        return max([1, *(1 + int(match[1]) for match in found if match)])

    layer = "transformer.layer_stack.0"
    keys = {
        "width": "conv_first_1.weight",
        "head_width": f"{layer}.slf_attn.w_qs.weight",
        "hidden": f"{layer}.pos_ffn.w_1.weight",
    }
    unseen = [k for k, key in keys.items() if key not in shapes and k not in given]
    if unseen:
        raise ValueError(
            f"The checkpoint has no {listed(keys[k] for k in unseen)}, so SNR-Net's "
            f"{listed(unseen)} cannot be inferred; give them."
        )
    fields = {k: shapes[key][0] for k, key in keys.items() if key in shapes}
    heads = given.get("num_heads", SNRNet.num_heads)
    if "head_width" in fields:
        if heads < 1 or fields["head_width"] % heads:
            raise ValueError(
                f"The attention's {fields['head_width']} channels are not divisible by "
                f"{heads} heads; give the number of heads, for example "
                "{'num_heads': 4}."
            )
        fields["head_width"] //= heads
    return {
        **fields,
        "num_layers": count(r"transformer\.layer_stack"),
        "front_blocks": count("feature_extraction"),
        "light_blocks": count("recon_trunk_light"),
        "back_blocks": count("recon_trunk"),
    }


SIZES = {
    "paper": {},
    # Not from the paper: trains in minutes on two CPU cores.
    "small": {
        "width": 16,
        "light_blocks": 2,
        "num_layers": 2,
        "num_heads": 4,
        "head_width": 16,
        "hidden": 128,
    },
}


CARD = ModelCard(
    sizes=SIZES,
    costs={
        "paper": {
            "params": 39_124_099,
            "inference_params": 39_124_099,
            "macs_256": 24_335_351_808,
        },
        "small": {
            "params": 330_659,
            "inference_params": 330_659,
            "macs_256": 942_669_824,
        },
    },
    tiny={
        "width": 4,
        "num_layers": 1,
        "num_heads": 2,
        "head_width": 4,
        "hidden": 8,
        "light_blocks": 1,
    },
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    verified="official code, random weights: 1e-5",
    attention_layers=("transformer/*/attention",),
    feed_forward_layers=("transformer/*/feed_forward",),
    # On most photographs no token is a key, and these have no effect.
    unused_parameters=tuple(
        f"transformer/*/attention/{part}/*" for part in ("query", "key")
    ),
)


@register("snr_net", CARD)
class SNRNet(Backbone, Layer):
    """SNR-Net; the defaults match all published results.

    The features at a quarter of the image's size enter two branches: residual blocks,
    and a transformer on patches. A map of the signal-to-noise ratio, estimated from the
    image, blends the two pixel by pixel.

    Wrappers split the model before the two branches: the features are
    [B, H / 4, W / 4, width].

    Source: Xu et al., SNR-Aware Low-light Image Enhancement, CVPR 2022, Fig. 4.
    Differs: the model resizes nothing. The authors compute the map at the image's
    original size and then resize both; the protocol `snr` passes such a map as
    `snr_map`.

    Attributes:
        width: channels.
        front_blocks: residual blocks before the split.
        light_blocks: residual blocks of the short-range branch.
        back_blocks: residual blocks after the blend.
        num_layers: layers of the transformer.
        num_heads: heads of its attention.
        head_width: channels of each head.
        hidden: hidden channels of its feed-forward networks.
        dtype: computation dtype. The map, norms, scores and the final sum always use
            float32.
    """

    width: int = 64
    front_blocks: int = 1
    light_blocks: int = 6
    back_blocks: int = 1
    num_layers: int = 6
    num_heads: int = 8
    head_width: int = 64
    hidden: int = 2048

    multiple = 16
    feature_stride = 4
    pad_mode = "reflect"

    def setup(self):
        """Builds the submodules; raises ValueError if a field is below 1."""
        check_at_least_one(
            self,
            "width",
            "front_blocks",
            "light_blocks",
            "back_blocks",
            "num_layers",
            "num_heads",
            "head_width",
            "hidden",
        )
        types = self.types
        conv = functools.partial(layers.Conv, **types)
        block = functools.partial(ResidualBlock, **types)
        self.conv_1 = conv(self.width)
        self.conv_2 = conv(self.width, strides=2)
        self.conv_3 = conv(self.width, strides=2)
        self.front = Repeat(block, self.front_blocks)
        self.light = Repeat(block, self.light_blocks)
        self.transformer = Transformer(
            self.num_layers, self.num_heads, self.head_width, self.hidden, **types
        )
        self.back = Repeat(block, self.back_blocks)
        self.up_1 = conv(4 * self.width)
        self.up_2 = conv(4 * self.width)
        self.fuse = conv(self.width)
        self.output = conv(3)

    @nn.nowrap
    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the map of an image [B, H, W, 3] in [0, 1], as `snr_map`."""
        return {"snr_map": snr_map(image)}

    def encode(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        snr_map: jax.Array | None = None,
    ):
        """Returns features at a quarter of the size, and whatever else `decode` needs.

        Args:
            image: [B, H, W, 3] in [0, 1].
            target: ignored.
            train: ignored; SNR-Net computes the same in training.
            snr_map: [B, H, W, 1] in [0, 1]; computed from the image if None.

        Raises:
            ValueError: if `image` or `snr_map` has the wrong shape, or `multiple` does
                not divide their height and width.
        """
        del target, train
        self.check_image(image)
        if snr_map is None:
            snr_map = self.native_inputs(image)["snr_map"]
        elif snr_map.shape != (*image.shape[:3], 1):
            raise ValueError(
                f"snr_map is {snr_map.shape}, the image {image.shape}; give a map "
                "[B, H, W, 1] of the same size."
            )
        full = nn.leaky_relu(self.conv_1(image.astype(self.dtype)), _SLOPE)
        half = nn.leaky_relu(self.conv_2(full), _SLOPE)
        quarter = nn.leaky_relu(self.conv_3(half), _SLOPE)
        stride = self.feature_stride
        context = {
            "image": image,
            "skips": (full, half, quarter),
            # The upper left pixel of each cell, as PyTorch's nearest-neighbour resize.
            "mask": snr_map[:, ::stride, ::stride].astype(jnp.float32),
        }
        return self.front(quarter), context

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        full, half, quarter = context["skips"]
        mask = context["mask"]
        far = self.transformer(features, mask)
        near = self.light(features)
        share = mask.astype(features.dtype)
        x = self.back(far * (1 - share) + near * share)

        def up(conv, x, skip):
            x = conv(jnp.concatenate([x, skip], axis=-1))
            return nn.leaky_relu(layers.pixel_shuffle(x, 2), _SLOPE)

        x = up(self.up_2, up(self.up_1, x, quarter), half)
        x = self.fuse(jnp.concatenate([x, full], axis=-1))
        x = self.output(nn.leaky_relu(x, _SLOPE)).astype(jnp.float32)
        return Outputs(x + context["image"].astype(jnp.float32))
