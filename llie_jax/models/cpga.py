"""CPGA-Net+, its form BDSF, and CPGA-Net++: channel priors and an estimated exponent.

Source: Weng et al., Rethinking Theoretical Illumination for Efficient Low-Light Image
Enhancement, arXiv 2409.05274; the official code. Its layers are in `cpga_layers`.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.models.cpga_layers import (
    ChannelPriorBlock,
    ConvNeXtBlock,
    Fusion,
    GammaEstimator,
    MaskedFusion,
    ResidualBlock,
    power,
)
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import ModuleFactory, Outputs, Pretrained

_TORCH_PRIORS = {
    "cpblks_pre": "first",
    "cpblks.{i}": "blocks_{i}",
    "cpblk_post": "last",
}
_TORCH_FUSIONS = {"iaaf": "fusion", "iaafblks.{i}": "fusions_{i}"}
_TORCH_RESIDUAL = {"body.0": "conv_0", "body.2": "conv_1"}
_TORCH_CONVNEXT = {
    "gamma": "scale",
    "dwconv": "depthwise",
    "norm": "norm",
    "pwconv1": "expand",
    "pwconv2": "contract",
    "downsample.0": "skip",
}
_TORCH_LIGHT = {
    "a_module.conv2_A.0": "light/down",
    "a_module.conv3_A": "light/deep",
    "a_module.conv4_A.2": "light/up",
}
_TORCH_GAMMA = {
    "ga_est.conv2_g.0": "gamma/down",
    "ga_est.conv3_g.{i}": "gamma/block_{i}",
}


def _under(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    """Returns the names of layers inside modules: official name -> ours."""
    return {
        f"{torch}.{torch_part}": f"{ours}/{part}"
        for torch, ours in outer.items()
        for torch_part, part in inner.items()
    }


_TORCH_SHARED = (
    _under(
        _TORCH_PRIORS,
        {
            "prep_module.0": "project",
            "t_module.prep.0": "transmission/prior",
            "t_module.postp": "transmission/output",
            "a_module.conv1_A": "light/input",
            "a_module.conv4_A.0": "light/merge",
            "a_module.conv5_A": "light/output",
        }
        | _under({"t_module.conv": "transmission/block"}, _TORCH_RESIDUAL),
    )
    | _under(
        _TORCH_GAMMA,
        {
            "conv1": "conv_0",
            "bn1": "norm_0",
            "conv2": "conv_1",
            "bn2": "norm_1",
            "ca.fc.0": "squeeze",
            "ca.fc.2": "expand",
            "sa.conv1": "spatial",
            "downsample": "skip",
        },
    )
    | {"ga_est.conv1_g": "gamma/input", "ga_est.conv4_g": "gamma/output"}
    | _under(_TORCH_FUSIONS, {"conv1_post_g": "input", "conv3_post_g": "output"})
)
_TORCH_FUSION_BLOCKS = _under(_TORCH_FUSIONS, {"conv2_post_g": "block"})

PLUS_KEYS = (
    _TORCH_SHARED
    | _under(_under(_TORCH_PRIORS, _TORCH_LIGHT), _TORCH_RESIDUAL)
    | _under(_TORCH_FUSION_BLOCKS, _TORCH_RESIDUAL)
)
"""Names of CPGA-Net+'s layers: official name -> ours."""

PLUSPLUS_KEYS = (
    _TORCH_SHARED
    | _under(_under(_TORCH_PRIORS, _TORCH_LIGHT), _TORCH_CONVNEXT)
    | _under(_TORCH_FUSION_BLOCKS, _TORCH_CONVNEXT)
    | _under(
        _TORCH_FUSIONS,
        {"conv_scoring.0": "score/input", "conv_scoring.3": "score/output"},
    )
    | _under(
        _under(
            _TORCH_FUSIONS,
            {f"conv_scoring.{i + 1}": f"score/block_{i}" for i in range(2)},
        ),
        _TORCH_CONVNEXT,
    )
    | {
        "iaaf_masking_rate": "masking_rate",
        "iaafblks_masking_rate": "masking_rates",
    }
)
"""Names of CPGA-Net++'s layers: official name -> ours."""


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of either network from an official checkpoint.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a width cannot be inferred.
    """
    keys = {
        "width": "cpblks_pre.a_module.conv1_A.weight",
        "gamma_width": "ga_est.conv1_g.weight",
        "fusion_width": "iaaf.conv1_post_g.weight",
    }
    unseen = [name for name, key in keys.items() if not {name, key} & {*shapes, *given}]
    if unseen:
        raise ValueError(
            f"The checkpoint has no {keys[unseen[0]]!r}, so {unseen[0]!r} cannot be "
            "inferred; give a checkpoint of CPGA-Net+ or CPGA-Net++, or the field."
        )
    fields = {name: shapes[key][0] for name, key in keys.items() if key in shapes}
    blocks = (re.match(r"cpblks\.(\d+)\.", key) for key in shapes)
    return fields | {
        "num_blocks": max((1 + int(each[1]) for each in blocks if each), default=0)
    }


def _published(
    name: str,
    file: str,
    sha256: str,
    trained_on: str,
    score: tuple[float, float],
    reference: tuple[float, float] | None = None,
    **fields: Any,
) -> Pretrained:
    def named(values):
        return dict(zip(("psnr", "ssim"), values or (), strict=False))

    return Pretrained(
        spec={"name": name, **fields},
        file=file,
        origin="https://github.com/Shyandram/CPGA-Net_Plus",
        licence="MIT",
        trained_on=trained_on,
        score=named(score),
        protocol="8-bit images, skimage's PSNR and SSIM (7x7 uniform window)",
        sha256=sha256,
        reference=named(reference),
    )


_plus = functools.partial(_published, "cpga_plus")
_plusplus = functools.partial(_published, "cpga_plusplus")

PLUS_WEIGHTS = {
    "lol_v1": _plus(
        "enhance_lolv1.pkl",
        "9f6d02122deabbb5b75162016180da1c118d44ce4fdd1702366c4f9684ff0efb",
        "LOL-v1",
        (22.53, 0.812),
        (22.545, 0.8146),
    ),
    "lol_v1_bdsf": _plus(
        "enhance_lolv1.pkl",
        "9f6d02122deabbb5b75162016180da1c118d44ce4fdd1702366c4f9684ff0efb",
        "LOL-v1",
        (22.53, 0.812),
        (22.520, 0.8139),
        efficient=True,
    ),
    "lol_v2_real": _plus(
        "enhance_lolv2real.pkl",
        "460b9f83ab77991e0d6b4c09e7f9b420cb7c536afc63fa0ace1e3bdf783110e7",
        "LOL-v2 real",
        (20.90, 0.800),
    ),
    "lol_v2_syn": _plus(
        "enhance_lolv2syn.pkl",
        "c02dc60f4f3f22998beaad4023f201b56a45b05c2857a1658e952b48bb7e92f9",
        "LOL-v2 synthetic",
        (23.07, 0.907),
    ),
}

PLUSPLUS_WEIGHTS = {
    "lol_v1": _plusplus(
        "CPGANet++_lolv1.pkl",
        "c09edb1149703aaeccdca589234b0e7bf9928b489aa88ddadaa654e8ff1e970b",
        "LOL-v1",
        (22.24, 0.835),
        (22.237, 0.8364),
    ),
    "lol_v2_real": _plusplus(
        "CPGANet++_lolv2-real.pkl",
        "b21befb2b2906346966f6fa47fd75841a2ce00971488c56ab3f92fee9af7d8e0",
        "LOL-v2 real",
        (21.29, 0.850),
    ),
    "lol_v2_syn": _plusplus(
        "CPGANet++_lolv2-syn.pkl",
        "f803060634612e379cef2c853f2003128ccd7a1f5baabad5dfffe8861a2465cc",
        "LOL-v2 synthetic",
        (24.31, 0.920),
    ),
}

TINY = {"width": 4, "gamma_width": 4, "fusion_width": 4, "num_blocks": 1}

# One channel in 16 attends to the others, and its ReLU may be off for every image.
_IDLE_ATTENTION = ("gamma/*/squeeze/*", "gamma/*/expand/*")

PLUS_CARD = ModelCard(
    internal=("axis_name",),
    sizes={"paper": {}, "bdsf": {"efficient": True}},
    costs={
        "paper": {
            "params": 60_378,
            "inference_params": 60_378,
            "macs_256": 2_504_884_416,
        },
        "bdsf": {"params": 20_042, "inference_params": 20_042, "macs_256": 575_504_576},
    },
    tiny=TINY,
    torch=TorchKeys(
        PLUS_KEYS,
        infer_spec,
        unused=("cpblk*", "iaafblks.*"),  # BDSF leaves them out
    ),
    weights=PLUS_WEIGHTS,
    verified="official code, published weights: 2e-6; its LOL-v1 scores: 0.01 dB",
    unused_parameters=_IDLE_ATTENTION,
)

PLUSPLUS_CARD = ModelCard(
    internal=("axis_name",),
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 62_304,
            "inference_params": 62_304,
            "macs_256": 3_614_277_824,
        }
    },
    tiny=TINY,
    torch=TorchKeys(PLUSPLUS_KEYS, infer_spec),
    weights=PLUSPLUS_WEIGHTS,
    verified="official code, published weights: 2e-6; its LOL-v1 scores: 0.01 dB",
    # Rates have no gradient where they are clipped.
    unused_parameters=(*_IDLE_ATTENTION, "masking_rate*"),
)


class _CPGANet(Backbone, Layer):
    """What both networks share; see `CPGANetPlus` for the fields."""

    width: int = 8
    gamma_width: int = 16
    fusion_width: int = 16
    num_blocks: int = 2
    axis_name: str | None = None

    multiple = 2
    feature_stride = 1
    pad_mode = "reflect"

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "_CPGANet":
        """Returns the model for a step that is mapped over a mesh axis."""
        return self.clone(axis_name=axis_name)

    def _build(self, block: ModuleFactory, fusion: ModuleFactory, **last: Any) -> None:
        """Builds the submodules.

        Args:
            block: makes the blocks of the channel-prior blocks.
            fusion: makes the fusions.
            **last: further fields of the last fusion.

        Raises:
            ValueError: if a field is too small.
        """
        leasts = {"width": 1, "gamma_width": 1, "fusion_width": 1, "num_blocks": 0}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; use at least {least}.")
        prior = functools.partial(
            ChannelPriorBlock, width=self.width, block=block, **self.types
        )
        # Always float32, as in the authors' code.
        fusion = functools.partial(
            fusion, width=self.fusion_width, param_dtype=self.param_dtype
        )
        self.gamma = GammaEstimator(self.gamma_width, self.axis_name, **self.types)
        self.first = prior(self.width)
        self.blocks = [prior(self.width) for _ in range(self.num_blocks)]
        self.fusions = [fusion(self.width) for _ in range(self.num_blocks)]
        self.last = prior(3)
        self.fusion = fusion(3, **last)

    def _restore(
        self, image: jax.Array, gamma: jax.Array, *rates: jax.Array
    ) -> jax.Array:
        """Returns what the channel-prior blocks make of the image, [B, H, W, 3].

        Args:
            image: [B, H, W, 3].
            gamma: the exponents [B, 1, 1, 1].
            *rates: further arguments of the fusions, one value for each.
        """
        x = self.first(image)
        for block, fusion, *rate in zip(self.blocks, self.fusions, *rates, strict=True):
            y = block(x) + x
            corrected = power(y, gamma)
            features = fusion.encode(corrected, y)
            x = fusion.decode(features, corrected, y, *rate) + y
        return self.last(x) + image

    def _split(self, corrected: jax.Array, restored: jax.Array, gamma: jax.Array):
        """Returns what `encode` returns."""
        context = {"values": (corrected, restored), "gamma": gamma}
        return self.fusion.encode(corrected, restored), context

    def _join(self, features: jax.Array, context, *rate: jax.Array) -> Outputs:
        """Returns what `decode` returns."""
        image = self.fusion.decode(features, *context["values"], *rate)
        return Outputs(image, aux={"gamma": context["gamma"][:, 0, 0, 0]})


@register("cpga_plus", PLUS_CARD)
class CPGANetPlus(_CPGANet):
    """CPGA-Net+, and its form BDSF; the defaults match the published weights.

    Channel-prior blocks restore the image locally; an estimated exponent, the same for
    all pixels, brightens it globally. The fusion adds both and subtracts what it finds
    in both, the intersection. `Outputs.aux["gamma"]` [B] is the exponent.

    BDSF (block design simplification) leaves out the channel-prior blocks of a trained
    network: the image itself takes their place. It has a third of the parameters, a
    quarter of the MACs and practically the same scores.

    Wrappers split the model before the convolution that predicts the intersection: the
    features are [B, H, W, fusion_width].

    Source: Weng et al., arXiv 2409.05274; the official code.
    Differs: the gradient of a power of 0 is 0; the authors' is not finite, which only
    BDSF and CPGA-Net++ could meet. The paper does not say where LFPV splits the model;
    this is the last feature map before the head. The authors drop the last row or
    column of images with an odd size, which the padding of `llie_jax.enhance` keeps.

    Attributes:
        width: channels inside the channel-prior blocks.
        gamma_width: channels of the gamma estimator.
        fusion_width: channels inside the fusions.
        num_blocks: channel-prior blocks between the first and the last.
        axis_name: mesh axis over which a training step is mapped; its devices share the
            statistics of batch norms.
        efficient: whether this is BDSF, which does not have the channel-prior blocks.
            As a test option, it runs a full network as BDSF.
        dtype: computation dtype. Images, exponents, norms and fusions always use
            float32.
    """

    efficient: bool = False

    test_options = ("efficient",)

    def setup(self):
        """Builds the submodules; raises ValueError if a field is too small."""
        self._build(ResidualBlock, Fusion, activation=nn.relu)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns features of the intersection and what `decode` needs."""
        del target
        self.check_image(image)
        image = image.astype(jnp.float32)
        gamma = self.gamma(image, train=train)
        restored = image if self.efficient else self._restore(image, gamma)
        return self._split(power(restored, gamma), restored, gamma)

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        return self._join(features, context)


@register("cpga_plusplus", PLUSPLUS_CARD)
class CPGANetPlusPlus(_CPGANet):
    """CPGA-Net++; the defaults match the published weights.

    Differs from CPGA-Net+ by ConvNeXt blocks, by fusions that score what they fuse and
    mix it at a learned rate, and by the last fusion, which brightens the image as it
    came. `Outputs.aux["gamma"]` [B] is the exponent.

    Wrappers split the model as CPGA-Net+.

    Source: the official code of Weng et al., arXiv 2409.05274.
    Differs: see `CPGANetPlus`.

    Attributes:
        width: channels inside the channel-prior blocks.
        gamma_width: channels of the gamma estimator.
        fusion_width: channels inside the fusions.
        num_blocks: channel-prior blocks between the first and the last.
        axis_name: mesh axis over which a training step is mapped; its devices share the
            statistics of batch norms.
        dtype: computation dtype. Images, exponents, norms and fusions always use
            float32.
    """

    def setup(self):
        """Builds the submodules; raises ValueError if a field is too small."""
        self._build(ConvNeXtBlock, MaskedFusion)
        half, dtype = nn.initializers.constant(0.5), self.param_dtype
        self.masking_rate = self.param("masking_rate", half, (1,), dtype)
        self.masking_rates = self.param(
            "masking_rates", half, (self.num_blocks,), dtype
        )

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns features of the intersection and what `decode` needs."""
        del target
        self.check_image(image)
        image = image.astype(jnp.float32)
        gamma = self.gamma(image, train=train)
        restored = self._restore(image, gamma, self.masking_rates)
        return self._split(power(image, gamma), restored, gamma)

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        return self._join(features, context, self.masking_rate)
