"""CIDNet: one branch for intensity and one for colour, in the HVI colour space.

Source: Yan, Feng et al., HVI: A New Color Space for Low-light Image Enhancement, CVPR
2025 (the branches and blocks also: 2402.05809).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.image.hvi import hvi_to_rgb, rgb_to_hvi
from llie_jax.image.resize import resize_aligned
from llie_jax.messages import listed
from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.nn import layers, norms
from llie_jax.nn.attention import channel_attention
from llie_jax.nn.layers import FvcoreCounted, Identity, Layer
from llie_jax.registry import register
from llie_jax.types import ModuleFactory, Outputs, Pretrained

_EXPANSION = 2.66
_LCA_LEVELS = (1, 2, 3, 3, 2, 1)

Branches = tuple[jax.Array, jax.Array]
"""Features of the intensity branch and of the colour branch."""


class CrossAttention(Layer):
    """Channel attention, queries from one branch, keys and values from the other (CAB).

    Source: HVI-CIDNet, Section 4.2; the attention is Restormer's.

    Attributes:
        num_heads: number of heads, which divides the channels.
        reallocate: slot that rewrites the concatenated queries, keys and values,
            [B, H, W, 3C] -> [B, H, W, 3C].
    """

    num_heads: int
    reallocate: ModuleFactory = Identity

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns what `x` attends to in `y`; all arrays are [B, H, W, C]."""
        channels = x.shape[-1]
        types = self.types
        options = dict(use_bias=False, **types)
        temperature = self.param(
            "temperature",
            nn.initializers.ones,
            (self.num_heads, 1, 1),
            self.param_dtype,
        )
        query = layers.Conv(channels, (1, 1), name="query", **options)(x)
        query = layers.DepthwiseConv(name="query_depthwise", **options)(query)
        pair = layers.Conv(2 * channels, (1, 1), name="key_value", **options)(y)
        pair = layers.DepthwiseConv(name="key_value_depthwise", **options)(pair)
        key, value = jnp.split(pair, 2, axis=-1)
        features = jnp.concatenate([query, key, value], axis=-1)
        features = self.reallocate(name="reallocate", **types)(features)
        query, key, value = jnp.split(features, 3, axis=-1)
        output = channel_attention(
            query, key, value, temperature, num_heads=self.num_heads
        )
        return layers.Conv(channels, (1, 1), name="project", **options)(output)


class IntensityEnhancement(Layer):
    """Feed-forward network of two gated halves with a convolution each (IEL).

    Source: HVI-CIDNet, Section 4.2.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        hidden = int(_EXPANSION * channels)
        options = dict(use_bias=False, **self.types)
        x = layers.Conv(2 * hidden, (1, 1), name="expand", **options)(x)
        x = layers.DepthwiseConv(name="depthwise", **options)(x)
        first, second = (
            jnp.tanh(layers.DepthwiseConv(name=name, **options)(half)) + half
            for name, half in zip(
                ("first", "second"), jnp.split(x, 2, axis=-1), strict=True
            )
        )
        return layers.Conv(channels, (1, 1), name="contract", **options)(first * second)


class LightenCrossAttention(Layer):
    """Cross attention and feed-forward network of one branch (LCA).

    One layer norm serves both inputs of the attention and the feed-forward network.

    Source: HVI-CIDNet, Section 4.2; the authors' code for the two variants.

    Attributes:
        num_heads: heads of the attention.
        residual: whether the feed-forward network adds to its input, as in the
            intensity branch, or replaces it, as in the colour branch.
        reallocate: see `CrossAttention`.
    """

    num_heads: int
    residual: bool
    reallocate: ModuleFactory = Identity

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the updated features of this branch, [B, H, W, C].

        Args:
            x: features of this branch [B, H, W, C].
            y: features of the other branch, of the same shape.
        """
        types = self.types
        norm = norms.LayerNorm(name="norm", **types)
        x = x + CrossAttention(
            self.num_heads, self.reallocate, name="attention", **types
        )(norm(x), norm(y))
        update = IntensityEnhancement(name="feed_forward", **types)(norm(x))
        return x + update if self.residual else update


class Resize(nn.Module, FvcoreCounted):
    """Bilinear resize by a factor, with aligned corners."""

    factor: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, factor * H, factor * W, C] of `x` [B, H, W, C]."""
        height, width = x.shape[1:3]
        if self.factor < 1:  # integer division: sizes may be symbolic
            divisor = round(1 / self.factor)
            return resize_aligned(x, (height // divisor, width // divisor))
        factor = round(self.factor)
        return resize_aligned(x, (factor * height, factor * width))

    def fvcore_macs(self, x: jax.Array) -> int:
        """Returns fvcore's count for one call: four per element of the result."""
        return int(4 * self.factor**2 * x.size)


class Downsample(Layer):
    """Halves the size: 3x3 convolution, bilinear resize, PReLU, optional layer norm.

    Attributes:
        features: number of output channels.
        norm: whether to end with a layer norm.
    """

    features: int
    norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H / 2, W / 2, features] of `x` [B, H, W, C]."""
        types = self.types
        x = layers.Conv(self.features, use_bias=False, name="conv", **types)(x)
        return _finish(Resize(0.5, name="resize")(x), self.norm, types)


class Upsample(Layer):
    """Doubles the size and merges a skip: 3x3 convolution, resize, 1x1, PReLU.

    Attributes:
        features: number of output channels.
        norm: whether to end with a layer norm.
    """

    features: int
    norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        """Returns features [B, 2H, 2W, features].

        Args:
            x: features [B, H, W, C].
            skip: features [B, 2H, 2W, features].
        """
        types = self.types
        options = dict(use_bias=False, **types)
        x = layers.Conv(self.features, name="conv", **options)(x)
        x = jnp.concatenate([Resize(2, name="resize")(x), skip], axis=-1)
        x = layers.Conv(self.features, (1, 1), name="merge", **options)(x)
        return _finish(x, self.norm, types)


def _finish(x, norm, types):
    """Applies the PReLU and the optional norm that end both resamplers."""
    x = nn.PReLU(types["param_dtype"], negative_slope_init=0.25, name="prelu")(x)
    return norms.LayerNorm(name="norm", **types)(x) if norm else x


class EdgeConv(Layer):
    """3x3 convolution without bias and with replicate padding."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C]."""
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        return layers.Conv(
            self.features,
            padding=0,
            use_bias=False,
            name="conv",
            **self.types,
        )(x)


class Branch(Layer):
    """One of the two branches: embedding, three levels down and up, six LCAs, output.

    Submodules are numbered from 1, as in the paper and the authors' code.

    Attributes:
        features: number of output channels, 1 for intensity and 2 for colour.
        widths: see `CIDNet`.
        num_heads: see `CIDNet`.
        residual: see `LightenCrossAttention`.
        norm: see `CIDNet`.
        reallocate: slot in the attentions from the fourth LCA on.
    """

    features: int
    widths: tuple[int, ...]
    num_heads: tuple[int, ...]
    residual: bool
    norm: bool = False
    reallocate: ModuleFactory = Identity

    def setup(self):
        """Builds the submodules."""
        types, levels = self.types, (1, 2, 3)
        self.embedding = EdgeConv(self.widths[0], **types)
        self.down = {
            str(i): Downsample(self.widths[i], self.norm, **types) for i in levels
        }
        self.lca = {
            str(i): LightenCrossAttention(
                self.num_heads[level],
                residual=self.residual,
                reallocate=self.reallocate if i > 3 else Identity,
                **types,
            )
            for i, level in enumerate(_LCA_LEVELS, start=1)
        }
        self.up = {
            str(i): Upsample(self.widths[i - 1], self.norm, **types) for i in levels
        }
        self.output = EdgeConv(self.features, **types)


TORCH_LCA_KEYS = {
    "norm": "norm",
    "ffn.temperature": "attention/temperature",
    "ffn.q": "attention/query",
    "ffn.q_dwconv": "attention/query_depthwise",
    "ffn.kv": "attention/key_value",
    "ffn.kv_dwconv": "attention/key_value_depthwise",
    "ffn.project_out": "attention/project",
    "gdfn.project_in": "feed_forward/expand",
    "gdfn.dwconv": "feed_forward/depthwise",
    "gdfn.dwconv1": "feed_forward/first",
    "gdfn.dwconv2": "feed_forward/second",
    "gdfn.project_out": "feed_forward/contract",
}
"""Parameter names of one LCA: official name -> ours.

The authors' `ffn` is the attention, and their `gdfn` the feed-forward network.
"""

_TORCH_END_KEYS = {"prelu.weight": "prelu/negative_slope", "norm": "norm"}
TORCH_DOWN_KEYS = {"down.0": "conv"} | _TORCH_END_KEYS
TORCH_UP_KEYS = {"up_scale.0": "conv", "up": "merge"} | _TORCH_END_KEYS


def _torch_keys() -> dict[str, str]:
    keys = {"trans.density_k": "density_k"}
    for official, branch in (("HV", "colour"), ("I", "intensity")):
        keys[f"{official}E_block0.1"] = f"{branch}/embedding/conv"
        keys[f"{official}D_block0.1"] = f"{branch}/output/conv"
        for block, name, parts in (
            (f"{official}E_block", "down", TORCH_DOWN_KEYS),
            (f"{official}D_block", "up", TORCH_UP_KEYS),
            (f"{official}_LCA", "lca", TORCH_LCA_KEYS),
        ):
            for part, path in parts.items():
                keys[f"{block}{{i}}.{part}"] = f"{branch}/{name}_{{i}}/{path}"
    return keys


TORCH_KEYS = _torch_keys()


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of CIDNet from an official checkpoint.

    A checkpoint does not record the test options; they are assumed to be 1.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a width or a number of heads is neither given nor inferable.
    """

    def read(field, keys):
        found = [shapes[key][0] for key in keys if key in shapes]
        if len(found) < len(keys) and field not in given:
            missing = [key for key in keys if key not in shapes]
            raise ValueError(
                f"The checkpoint has no {listed(missing)}, so CIDNet's {field} cannot "
                f"be inferred; give them as {field!r}."
            )
        return tuple(found)

    fields = {"norm": "HVE_block1.norm.weight" in shapes}
    if "widths" not in given:
        keys = [f"HVE_block{i}.down.0.weight" for i in (1, 2, 3)]
        fields["widths"] = read("widths", ["HVE_block0.1.weight", *keys])
    if "num_heads" not in given:
        keys = [f"HV_LCA{i}.ffn.temperature" for i in (1, 2, 3)]
        fields["num_heads"] = (1, *read("num_heads", keys))
    return fields


def _published(
    file: str, trained_on: str, psnr: float, ssim: float, selected_on=(), **options
) -> Pretrained:
    return Pretrained(
        spec={"name": "cidnet", **options},
        file=file,
        origin="https://github.com/Fediory/HVI-CIDNet",
        licence="MIT",
        trained_on=trained_on,
        score={"psnr": psnr, "ssim": ssim},
        protocol="cidnet" + ", alpha chosen on the test set" * bool(selected_on),
        selected_on=selected_on,
    )


WEIGHTS = {
    "lol_v1": _published("LOLv1/w_perc.pth", "LOL-v1", 23.8091, 0.8574, saturation=1.3),
    "lol_v2_real": _published(
        "LOLv2_real/best_PSNR.pth",
        "LOL-v2 real",
        23.9040,
        0.8656,
        selected_on=("lol_v2_real",),
        alpha=0.8,
    ),
    "lol_v2_syn": _published(
        "LOLv2_syn/wo_perc.pth", "LOL-v2 synthetic", 25.7048, 0.9419
    ),
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
    "small": {"widths": (12, 12, 24, 48)},
}


CARD = ModelCard(
    sizes=SIZES,
    costs={
        "paper": {
            "params": 1_975_569,
            "inference_params": 1_904_609,
            "macs_256": 7_878_279_168,
        },
        "adr": {
            "params": 8_353_821,
            "inference_params": 7_369_579,
            "macs_256": 8_226_176_512,
        },
        "small": {
            "params": 247_017,
            "inference_params": 237_209,
            "macs_256": 1_008_009_216,
        },
    },
    tiny={"widths": (4, 4, 8, 8), "num_heads": (1, 2, 2, 4)},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, random weights: 2e-5",
    attention_layers=("*/attention",),
    feed_forward_layers=("*/feed_forward",),
    unused_layers=("intensity/lca_5/*",),
    unused_parameters=("intensity/lca_5/*",),
)


@register("cidnet", CARD)
class CIDNet(Backbone, Layer):
    """CIDNet; the defaults match all published weights.

    The image is split into intensity and colour, each processed by its own branch. Six
    pairs of LCAs exchange features between the branches. As in the authors' code, the
    second pair feeds only the skips, and the output of the fifth intensity LCA is never
    used: its parameters exist, but it is not computed.

    Wrappers split the model after the fourth pair, at the bottleneck. The features are
    those of the intensity branch, [B, H / 8, W / 8, widths[3]]; the context holds those
    of the colour branch.

    `Outputs.aux["density_k"]`, a scalar, is the exponent of the colour space, for
    losses in that space.

    Source: Yan, Feng et al., HVI: A New Color Space for Low-light Image Enhancement,
    CVPR 2025, Fig. 4; the authors' code where it differs from the figure (the second
    and fifth pair).
    Differs: the model never pads or crops its input, see `llie_jax.inference`. Hues
    just below red keep their colour, see `llie_jax.image.hvi`.

    Attributes:
        widths: channels at full, 1/2, 1/4 and 1/8 resolution.
        num_heads: attention heads at each level. The first has no effect, since there
            is no attention at full resolution.
        norm: whether a layer norm follows each change of resolution.
        saturation: factor on the saturation of the output, at inference only. The
            authors use 1.3 on LOL-v1.
        alpha: factor on the output, at inference only. The authors use 0.8 to 0.84 on
            LOL-v2 real, chosen on its test set.
        gamma: exponent applied to the input, at inference only.
        reallocate: slot in each attention from the fourth pair on; it receives the
            concatenated query, key and value features.
        dtype: computation dtype. The colour space, norms and scores always use float32.
    """

    widths: tuple[int, ...] = (36, 36, 72, 144)
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    norm: bool = False
    saturation: float = 1.0
    alpha: float = 1.0
    gamma: float = 1.0
    reallocate: ModuleFactory = Identity

    multiple = 8
    pad_mode = "reflect"
    test_options = ("saturation", "alpha", "gamma")

    def setup(self):
        """Builds the submodules; raises ValueError if the fields are inconsistent."""
        widths, heads = self.widths, self.num_heads
        if len(widths) != 4 or len(heads) != 4:
            raise ValueError(
                f"widths {widths} and num_heads {heads} need one number for each of "
                "CIDNet's four levels."
            )
        if min(*widths, *heads) < 1 or any(
            width % n for width, n in zip(widths[1:], heads[1:], strict=True)
        ):
            raise ValueError(
                f"widths {widths} and num_heads {heads} must be at least 1, and heads "
                "must divide the width of their level."
            )
        self.density_k = self.param(
            "density_k", nn.initializers.constant(0.2), (1,), self.param_dtype
        )
        options = dict(
            widths=widths,
            num_heads=heads,
            norm=self.norm,
            reallocate=self.reallocate,
            **self.types,
        )
        self.intensity = Branch(1, residual=True, **options)
        self.colour = Branch(2, residual=False, **options)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the bottleneck features and what `decode` needs; see `Backbone`.

        `gamma` applies at inference only.
        """
        del target
        self.check_image(image)
        if self.gamma != 1.0 and not train:
            image = image.astype(jnp.float32) ** self.gamma
        hvi = rgb_to_hvi(image, self.density_k)
        x = hvi.astype(self.dtype)
        full = self.intensity.embedding(x[..., 2:]), self.colour.embedding(x)
        half = self._exchange(1, self._down(1, full))
        x = self._down(2, half)
        quarter = self._exchange(2, x)  # for the skips only; the next level reads x
        x = self._exchange(3, self._down(3, x))
        features, colour = self._exchange(4, x)
        skips = {"full": full, "half": half, "quarter": quarter}
        return features, {"hvi": hvi, "colour": colour, "skips": skips}

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`.

        Args:
            features: of the intensity branch.
            context: from `encode`.
            train: True ignores `saturation` and `alpha`.
        """
        skips = context["skips"]
        x = self._up(3, (features, context["colour"]), skips["quarter"])
        intensity, colour = x
        # The authors' code computes this LCA and never reads the result. Here only its
        # parameters are created, because published checkpoints contain them.
        if self.is_initializing():
            self.intensity.lca["5"](intensity, colour)
        x = intensity, self.colour.lca["5"](colour, intensity)
        x = self._exchange(6, self._up(2, x, skips["half"]))
        intensity, colour = self._up(1, x, skips["full"])
        change = jnp.concatenate(
            [self.colour.output(colour), self.intensity.output(intensity)], axis=-1
        )
        image = hvi_to_rgb(
            change.astype(jnp.float32) + context["hvi"],
            self.density_k,
            saturation=1.0 if train else self.saturation,
            alpha=1.0 if train else self.alpha,
        )
        return Outputs(image, {"density_k": self.density_k[0].astype(jnp.float32)})

    def _exchange(self, i: int, x: Branches) -> Branches:
        """Runs the i-th pair of LCAs, both on the same features."""
        intensity, colour = x
        return (
            self.intensity.lca[str(i)](intensity, colour),
            self.colour.lca[str(i)](colour, intensity),
        )

    def _down(self, i: int, x: Branches) -> Branches:
        intensity, colour = x
        return self.intensity.down[str(i)](intensity), self.colour.down[str(i)](colour)

    def _up(self, i: int, x: Branches, skip: Branches) -> Branches:
        (intensity, colour), (intensity_skip, colour_skip) = x, skip
        return (
            self.intensity.up[str(i)](intensity, intensity_skip),
            self.colour.up[str(i)](colour, colour_skip),
        )
