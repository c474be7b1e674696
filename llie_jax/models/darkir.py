"""DarkIR: a frequency-domain encoder and a decoder with dilated attention.

Source: Feijoo et al., DarkIR: Robust Low-Light Image Restoration, CVPR 2025.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.models.base import Backbone, ModelCard, TorchKeys, Trained
from llie_jax.nn import fourier, layers, norms
from llie_jax.nn.layers import Identity, Layer, Repeat
from llie_jax.registry import register
from llie_jax.types import Dtype, ModuleFactory, Outputs, Pretrained


def simple_gate(x: jax.Array) -> jax.Array:
    """Returns the product of the two channel halves: [..., 2C] -> [..., C]."""
    first, second = jnp.split(x, 2, axis=-1)
    return first * second


class SimplifiedChannelAttention(Layer):
    """One factor per channel from the spatial mean, without any activation (SCA).

    Source: Chen et al., Simple Baselines for Image Restoration, ECCV 2022, Eq. (4).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the factors [B, 1, 1, C] of features [B, H, W, C]."""
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        mean = mean.astype(self.dtype)
        return layers.Conv(x.shape[-1], (1, 1), name="project", **self.types)(mean)


class FrequencyMLP(nn.Module):
    """Changes the amplitude spectrum of the features and keeps their phase (FreMLP).

    Always computed in float32, since the amplitudes are not normalised: the constant
    term grows with H * W and reaches 1e5, beyond what bfloat16 resolves.

    Source: DarkIR, Section 3.1; the official code where the paper is silent.
    Differs: the phase is kept as a unit phasor and never as an angle. The values are
    equal; the gradient is finite where an amplitude is zero.
    """

    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, C] in float32."""
        channels = x.shape[-1]
        types = dict(dtype=jnp.float32, param_dtype=self.param_dtype)
        spectrum = fourier.rfft2(x.astype(jnp.float32))
        amplitude = jnp.abs(spectrum)

        y = layers.Conv(2 * channels, (1, 1), name="expand", **types)(amplitude)
        y = nn.leaky_relu(y, 0.1)
        y = layers.Conv(channels, (1, 1), name="contract", **types)(y)

        # Below the threshold the phase is rounding noise, and the square of the
        # amplitude in the gradient would underflow; it counts as zero, phase 0.
        visible = amplitude > 1e-18
        divisor = jnp.where(visible, amplitude, 1.0)
        cosine = jnp.where(visible, spectrum.real / divisor, 1.0)
        sine = jnp.where(visible, spectrum.imag / divisor, 0.0)
        spectrum = jax.lax.complex(y * cosine, y * sine)
        return fourier.irfft2(spectrum, x.shape[1:3])


class SpatialAttention(Layer):
    """The spatial half of both blocks: depthwise branches, gate, channel attention.

    One branch of dilation 1 is SpAM; several dilations summed before the gate are
    Di-SpAM.

    Source: DarkIR, Sections 3.1 and 3.2.

    Attributes:
        dilations: one 3x3 depthwise branch per dilation.
        before: slot for a convolution before the expansion.
        after: slot for a convolution after the expansion.
    """

    dilations: tuple[int, ...] = (1,)
    before: ModuleFactory = Identity
    after: ModuleFactory = Identity

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        types = self.types
        x = self.before(name="before", **types)(x)
        x = layers.Conv(2 * channels, (1, 1), name="expand", **types)(x)
        x = self.after(name="after", **types)(x)
        x = layers.DepthwiseSum(self.dilations, name="branches", **types)(x)
        x = simple_gate(x)
        x = x * SimplifiedChannelAttention(name="channel_attention", **types)(x)
        return layers.Conv(channels, (1, 1), name="project", **types)(x)


class EncoderBlock(Layer):
    """SpAM, then a gate from the frequency MLP (EBlock).

    Source: DarkIR, Fig. 3 and Section 3.1.

    Attributes:
        extra_depthwise: whether to add a depthwise convolution before the expansion.
        frequency_gate: False omits the gate (ablation).
    """

    extra_depthwise: bool = True
    frequency_gate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        types = self.types
        beta = self.param("beta", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        spatial = SpatialAttention(
            before=layers.DepthwiseConv if self.extra_depthwise else Identity,
            name="spatial",
            **types,
        )
        x = x + beta.astype(x.dtype) * spatial(
            norms.LayerNorm(name="norm1", **types)(x)
        )
        if not self.frequency_gate:
            return x
        gamma = self.param(
            "gamma", nn.initializers.zeros, x.shape[-1:], self.param_dtype
        )
        gate = FrequencyMLP(name="frequency", param_dtype=self.param_dtype)(
            norms.LayerNorm(name="norm2", **types)(x)
        )
        return x + gamma.astype(x.dtype) * (x * gate.astype(x.dtype))


class DecoderBlock(Layer):
    """Di-SpAM, then a gated feed-forward network (DBlock).

    Source: DarkIR, Fig. 3 and Section 3.2.

    Attributes:
        dilations: dilations of the depthwise branches.
        extra_depthwise: whether to add a 3x3 convolution after the expansion, in groups
            of two channels as in the official code.
    """

    dilations: tuple[int, ...] = (1, 4, 9)
    extra_depthwise: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        types = self.types
        beta, gamma = (
            self.param(name, nn.initializers.zeros, (channels,), self.param_dtype)
            for name in ("beta", "gamma")
        )
        spatial = SpatialAttention(
            dilations=self.dilations,
            after=layers.PairedConv if self.extra_depthwise else Identity,
            name="spatial",
            **types,
        )
        x = x + beta.astype(x.dtype) * spatial(
            norms.LayerNorm(name="norm1", **types)(x)
        )
        y = norms.LayerNorm(name="norm2", **types)(x)
        y = layers.Conv(2 * channels, (1, 1), name="expand", **types)(y)
        y = layers.Conv(channels, (1, 1), name="contract", **types)(simple_gate(y))
        return x + gamma.astype(x.dtype) * y


class Upsample(Layer):
    """Doubles the size, halves the channels: 1x1 convolution, then pixel shuffle."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, 2H, 2W, C / 2] of features [B, H, W, C]."""
        features = 2 * x.shape[-1]
        conv = layers.Conv(
            features, (1, 1), use_bias=False, name="expand", **self.types
        )
        x = conv(x)
        return layers.pixel_shuffle(x, 2)


TORCH_BLOCK_KEYS = {
    "norm1": "norm1",
    "conv1": "spatial/expand",
    "branches.{k}.branch.0": "spatial/branches/branch_{k}",
    "sca.1": "spatial/channel_attention/project",
    "conv3": "spatial/project",
    "beta": "beta",
    "norm2": "norm2",
    "gamma": "gamma",
}
"""Parameter names that all blocks share: official name -> ours."""

TORCH_ENCODER_KEYS = TORCH_BLOCK_KEYS | {
    "extra_conv": "spatial/before",
    "freq.process1.0": "frequency/expand",
    "freq.process1.2": "frequency/contract",
}
TORCH_DECODER_KEYS = TORCH_BLOCK_KEYS | {
    "extra_conv": "spatial/after",
    "conv4": "expand",
    "conv5": "contract",
}
_TORCH_STAGES = {
    "encoders.{i}": ("encoders_{i}", TORCH_ENCODER_KEYS),
    "middle_blks_enc": ("middle_encoder", TORCH_ENCODER_KEYS),
    "middle_blks_dec": ("middle_decoder", TORCH_DECODER_KEYS),
    "decoders.{i}": ("decoders_{i}", TORCH_DECODER_KEYS),
}
TORCH_KEYS = {
    "intro": "intro",
    "downs.{i}": "downs_{i}",
    "ups.{i}.0": "ups_{i}/expand",
    "ending": "ending",
    "side_out": "guide_head",
} | {
    f"{torch_stage}.modules_list.{{j}}.{torch_part}": f"{stage}/block_{{j}}/{part}"
    for torch_stage, (stage, keys) in _TORCH_STAGES.items()
    for torch_part, part in keys.items()
}

_PAPER_DILATIONS = {1: (1,), 3: (1, 4, 9)}


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of DarkIR from an official checkpoint.

    A checkpoint records only the number of dilations: one is assumed to be 1, three to
    be the paper's 1, 4, 9. Stages without keys are assumed to have one block, so that a
    checkpoint with a missing stage fails to load; give a stage without blocks yourself.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred, or the dilations are neither given
            nor the paper's.
    """

    def count(pattern):
        found = (re.match(pattern + r"\.(\d+)\.", key) for key in shapes)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def blocks(stage):
        return max(1, count(re.escape(stage) + r"\.modules_list"))

    widths = [
        shapes[key][axis]
        for key, axis in (("intro.weight", 0), ("intro.bias", 0), ("ending.weight", 1))
        if key in shapes
    ]
    if not widths and "width" not in given:
        raise ValueError(
            "The checkpoint has neither 'intro' nor 'ending', so DarkIR's width cannot "
            "be inferred; give it as 'width'."
        )
    levels = max(1, *map(count, ("encoders", "downs", "ups", "decoders")))
    fields = {
        "encoder_blocks": tuple(blocks(f"encoders.{i}") for i in range(levels)),
        "middle_encoder_blocks": blocks("middle_blks_enc"),
        "middle_decoder_blocks": blocks("middle_blks_dec"),
        "decoder_blocks": tuple(blocks(f"decoders.{i}") for i in range(levels)),
        "extra_depthwise": any(".extra_conv." in key for key in shapes),
        "frequency_gate": any(".freq." in key for key in shapes),
    }
    if widths:
        fields["width"] = widths[0]
    decoder = r"(?:decoders\.\d+|middle_blks_dec)\.modules_list\.\d+"
    branches = count(decoder + r"\.branches")
    if branches in _PAPER_DILATIONS:
        fields["dilations"] = _PAPER_DILATIONS[branches]
    elif branches and "dilations" not in given:
        raise ValueError(
            f"The decoder has {branches} branches, but a checkpoint does not record "
            f"their dilations; give them, such as {{'dilations': {[1] * branches}}}."
        )
    return fields


_ORIGIN = "https://github.com/cidautai/DarkIR"
_PROTOCOL = "official test script: rgb_float and gauss11 of the unclipped output"

WEIGHTS = {
    "lol_blur": Pretrained(
        spec={"name": "darkir", "width": 32},
        file="DarkIR_384.pt",
        origin=_ORIGIN,
        licence="MIT",
        trained_on="LOL-Blur",
        score={"psnr": 27.00, "ssim": 0.883},
        protocol=_PROTOCOL,
    ),
    "lol_blur_l": Pretrained(
        spec={"name": "darkir", "width": 64},
        file="DarkIR_64width.pt",
        origin=_ORIGIN,
        licence="MIT",
        trained_on="LOL-Blur",
        score={"psnr": 27.30, "ssim": 0.898},
        protocol=_PROTOCOL,
    ),
    "multi_task": Pretrained(
        spec={"name": "darkir", "width": 32},
        file="DarkIR_1k_cr_mt.pt",
        origin=_ORIGIN,
        licence="MIT",
        trained_on="LOL-Blur, LOL-v2 real and synthetic, LSRW",
        score={"psnr": 23.87, "ssim": 0.880},
        protocol=_PROTOCOL + ", LOL-v2 real",
    ),
}


SIZES = {
    "m": {},
    "l": {"width": 64},
    # Not from the paper: trains in minutes on two CPU cores.
    "small": {
        "width": 8,
        "encoder_blocks": (1, 1, 1),
        "middle_encoder_blocks": 1,
        "middle_decoder_blocks": 1,
        "decoder_blocks": (1, 1, 1),
    },
}

CARD = ModelCard(
    sizes=SIZES,
    costs={
        "m": {
            "params": 3_321_638,
            "inference_params": 3_314_723,
            "macs_256": 7_098_185_728,
        },
        "l": {
            "params": 12_957_254,
            "inference_params": 12_943_427,
            "macs_256": 26_882_793_472,
        },
        "small": {
            "params": 123_870,
            "inference_params": 122_139,
            "macs_256": 379_202_176,
        },
    },
    tiny={
        "width": 4,
        "encoder_blocks": (1, 1),
        "middle_encoder_blocks": 1,
        "middle_decoder_blocks": 1,
        "decoder_blocks": (1, 1),
    },
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, random weights: 1e-5",
    trained={
        "small": Trained(
            config="darkir_small",
            data="20 pairs of LOL-v1",
            protocol="default, eval15",
            score={"psnr": 18.30, "ssim": 0.660},
        ),
    },
    attention_layers=("*/spatial",),
    feed_forward_layers=("*/frequency",),
    training_only=("guide_head/*",),
)


@register("darkir", CARD)
class DarkIR(Backbone, Layer):
    """DarkIR, a U-shaped network; the defaults are DarkIR-m, `width=64` is DarkIR-l.

    Wrappers split the model after the encoder of the bottleneck: the features are the
    paper's `x_light`, [B, H / 8, W / 8, 8 * width].

    `Outputs.aux["guide"]` [B, H / 8, W / 8, 3] is the side output for the
    low-resolution loss. Its head is used in training only.

    Source: Feijoo et al., DarkIR, CVPR 2025, Fig. 2 and Section 3.
    Differs: the model never pads or crops its input, see `llie_jax.inference`.

    Attributes:
        width: channels at full resolution; each level doubles them.
        encoder_blocks: blocks per encoder level, fine to coarse.
        middle_encoder_blocks: encoder blocks of the bottleneck.
        middle_decoder_blocks: decoder blocks of the bottleneck.
        decoder_blocks: blocks per decoder level, coarse to fine.
        dilations: branches of the decoder's attention.
        extra_depthwise: whether each block has its additional 3x3 convolution.
        frequency_gate: False omits the frequency MLP (ablation).
        dtype: computation dtype. The frequency MLP, means, norms and the final sum
            always use float32.
    """

    width: int = 32
    encoder_blocks: tuple[int, ...] = (1, 2, 3)
    middle_encoder_blocks: int = 2
    middle_decoder_blocks: int = 2
    decoder_blocks: tuple[int, ...] = (3, 1, 1)
    dilations: tuple[int, ...] = (1, 4, 9)
    extra_depthwise: bool = True
    frequency_gate: bool = True

    pad_mode = "constant"

    @property
    def multiple(self) -> int:
        """The required divisor of height and width."""
        return 2 ** len(self.encoder_blocks)

    def setup(self):
        """Builds the submodules; raises ValueError if the fields are inconsistent."""
        levels = len(self.encoder_blocks)
        if levels < 1 or len(self.decoder_blocks) != levels:
            raise ValueError(
                f"encoder_blocks {self.encoder_blocks} and decoder_blocks "
                f"{self.decoder_blocks} need one number per level, the same in both."
            )
        if self.width < 1 or not self.dilations or min(self.dilations) < 1:
            raise ValueError(
                f"width={self.width} and dilations={self.dilations}: the width and "
                "every dilation must be at least 1, with at least one dilation."
            )
        types = self.types
        encoder = functools.partial(
            EncoderBlock,
            extra_depthwise=self.extra_depthwise,
            frequency_gate=self.frequency_gate,
            **types,
        )
        decoder = functools.partial(
            DecoderBlock,
            dilations=self.dilations,
            extra_depthwise=self.extra_depthwise,
            **types,
        )
        self.intro = layers.Conv(self.width, (3, 3), **types)
        self.encoders = [Repeat(encoder, n) for n in self.encoder_blocks]
        self.downs = [
            layers.Conv(
                self.width * 2 ** (i + 1), (2, 2), strides=2, padding=0, **types
            )
            for i in range(levels)
        ]
        self.middle_encoder = Repeat(encoder, self.middle_encoder_blocks)
        self.guide_head = layers.Conv(3, (3, 3), **types)
        self.middle_decoder = Repeat(decoder, self.middle_decoder_blocks)
        self.ups = [Upsample(**types) for _ in range(levels)]
        self.decoders = [Repeat(decoder, n) for n in self.decoder_blocks]
        self.ending = layers.Conv(3, (3, 3), **types)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the bottleneck features and what `decode` needs; see `Backbone`."""
        del target, train  # DarkIR computes the same in training
        self.check_image(image)
        x = self.intro(image.astype(self.dtype))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_encoder(x)
        return x, {"image": image, "skips": skips}

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        guide = self.guide_head(features).astype(jnp.float32)
        x = self.middle_decoder(features) + features
        skips = reversed(context["skips"])
        for up, skip, decoder in zip(self.ups, skips, self.decoders, strict=True):
            x = decoder(up(x) + skip)
        image = context["image"].astype(jnp.float32)
        return Outputs(self.ending(x).astype(jnp.float32) + image, {"guide": guide})
