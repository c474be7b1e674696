"""Zero-DCE and Zero-DCE++: brighten by curves that a small network estimates.

Source: Guo et al., Zero-Reference Deep Curve Estimation for Low-Light Image
Enhancement, CVPR 2020; Li et al., Learning to Enhance Low-Light Image via
Zero-Reference Deep Curve Estimation, TPAMI 2021.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.image.resize import resize_aligned, resize_bilinear
from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

_NUM_LAYERS = 7


class SeparableConv(Layer):
    """Depthwise 3x3 convolution, then a 1x1 convolution, both with biases.

    Source: Li et al., TPAMI 2021.

    Attributes:
        features: number of output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C]."""
        x = layers.DepthwiseConv(name="depthwise", **self.types)(x)
        return layers.Conv(self.features, (1, 1), name="pointwise", **self.types)(x)


def _output_channels(
    shapes: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Any],
    keys: Mapping[str, str],
) -> dict[str, int]:
    """Returns the output channels of the layer that a field is read from, by field."""
    found = {}
    for field, key in keys.items():
        if key in shapes:
            found[field] = shapes[key][0]
        elif field not in given:
            raise ValueError(
                f"The checkpoint has no {key!r}, so {field} cannot be inferred; give "
                f"it as {field!r}."
            )
    return found


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of Zero-DCE from an official checkpoint.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a field cannot be inferred.
    """
    keys = {"width": "e_conv1.weight", "num_iterations": "e_conv7.weight"}
    fields = _output_channels(shapes, given, keys)
    if "num_iterations" in fields:
        fields["num_iterations"] //= 3  # one map for each channel of RGB
    return fields


def infer_plus_plus(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the width of Zero-DCE++ from an official checkpoint.

    A checkpoint records neither the number of iterations nor the scale.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """
    return _output_channels(shapes, given, {"width": "e_conv1.point_conv.weight"})


def _published(
    model: str, repository: str, file: str, *, spec=None, **facts
) -> Pretrained:
    return Pretrained(
        spec={"name": model, **(spec or {})},
        file=file,
        origin=f"https://github.com/Li-Chongyi/{repository}",
        licence="CC-BY-NC-4.0",
        trained_on="SICE, part 1",
        **facts,
    )


CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 79_416,
            "inference_params": 79_416,
            "macs_256": 5_190_451_200,
        }
    },
    tiny={"width": 8, "num_iterations": 2},
    torch=TorchKeys(
        {f"e_conv{i + 1}": f"conv_{i}" for i in range(_NUM_LAYERS)},
        infer_spec,
    ),
    weights={
        "sice": _published(
            "zero_dce",
            "Zero-DCE",
            "Zero-DCE_code/snapshots/Epoch99.pth",
            score={"psnr": 14.86, "ssim": 0.56},
            protocol="LOL-v1, as other papers cite it",
            sha256="a4395acb874f320375d9704997cef874eaaaaa26a1777ceb29a92b70f74c3612",
            reference={"psnr": 14.861, "ssim": 0.5588},
        )
    },
    verified="official code, trained and random weights: 2e-6",
)


@register("zero_dce", CARD)
class ZeroDCE(Backbone, Layer):
    """Zero-DCE; the defaults match the published weights.

    Each iteration moves every value by a curve, x + A (x^2 - x), where A in [-1, 1] is
    a map of the iteration's own. The image is not clipped.

    `Outputs.aux["curves"]` [B, H, W, 3 * num_iterations] holds the maps, those of the
    first iteration first; `aux["half"]` is the image after half of the iterations.

    Source: Guo et al., CVPR 2020, Eq. (3) and Section 3.2; the sign of A, which
    brightens where it is negative, is that of the authors' code.
    Differs: the LFPV paper does not say where a wrapper splits the model; here it is
    after the sixth layer, whose features [B, H, W, width] the last layer turns into the
    maps.

    Attributes:
        width: channels of all layers but the last.
        num_iterations: how often a curve is applied.
    """

    width: int = 32
    num_iterations: int = 8

    pad_mode = "reflect"

    @property
    def multiple(self) -> int:
        """The required divisor of height and width."""
        return 1

    @property
    def num_maps(self) -> int:
        """The number of different maps; each serves equally many iterations."""
        return self.num_iterations

    @nn.nowrap
    def layer(self, features: int) -> nn.Module:
        """Returns a new 3x3 layer."""
        return layers.Conv(
            features, kernel_init=nn.initializers.normal(0.02), **self.types
        )

    def setup(self):
        """Builds the layers; raises ValueError if a field is below 1."""
        check_at_least_one(self, "width", "num_iterations")
        widths = [self.width] * (_NUM_LAYERS - 1) + [3 * self.num_maps]
        self.conv = [self.layer(features) for features in widths]

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns features of the sixth layer and what `decode` needs."""
        del target, train  # computes the same in training
        self.check_image(image)
        image = image.astype(jnp.float32)
        return self._features(image, image)

    def _features(self, image, estimated_on):
        """Returns the features of the image to estimate on, and the context."""
        conv = self.conv
        first = nn.relu(conv[0](estimated_on))
        second = nn.relu(conv[1](first))
        third = nn.relu(conv[2](second))
        x = nn.relu(conv[3](third))
        x = nn.relu(conv[4](jnp.concatenate([third, x], -1)))
        x = nn.relu(conv[5](jnp.concatenate([second, x], -1)))
        return x, (image, first)

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        image, skip = context
        curves = self.conv[-1](jnp.concatenate([skip, features], -1))
        curves = jnp.tanh(curves.astype(jnp.float32))
        curves = resize_aligned(curves, image.shape[1:3])  # smaller for `scale` above 1
        maps = jnp.split(curves, self.num_maps, -1)
        half = image
        for i in range(self.num_iterations):
            image = image + maps[i % self.num_maps] * (image * image - image)
            if i + 1 == self.num_iterations // 2:
                half = image
        return Outputs(image, aux={"curves": curves, "half": half})


def _published_plus_plus(score=None, protocol="", **facts) -> Pretrained:
    return _published(
        "zero_dce_pp",
        "Zero-DCE_extension",
        "Zero-DCE++/snapshots_Zero_DCE++/Epoch99.pth",
        score=score or {},
        protocol=protocol,
        sha256="ca8855b90df9a80fa4195a831f33d3476b1964f787eb70602797c773067f3b84",
        **facts,
    )


PLUS_PLUS = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {"params": 10_561, "inference_params": 10_561, "macs_256": 660_275_200}
    },
    tiny={"width": 8, "num_iterations": 2},
    torch=TorchKeys(
        {
            f"e_conv{i + 1}.{theirs}": f"conv_{i}/{ours}"
            for i in range(_NUM_LAYERS)
            for theirs, ours in (
                ("depth_conv", "depthwise"),
                ("point_conv", "pointwise"),
            )
        },
        infer_plus_plus,
    ),
    weights={
        "sice": _published_plus_plus(reference={"psnr": 15.142, "ssim": 0.5619}),
        "sice_scale12": _published_plus_plus(
            spec={"scale": 12},
            score={"psnr": 15.35},
            protocol="LOL-v1, as other papers cite it",
            reference={"psnr": 15.345},
            crop_multiple=12,
        ),
    },
    verified="official code, trained and random weights, scales 1, 4, 12: 2e-6",
)


@register("zero_dce_pp", PLUS_PLUS)
class ZeroDCEPlusPlus(ZeroDCE):
    """Zero-DCE++: separable layers, and one map for all iterations.

    Source: Li et al., TPAMI 2021.
    Differs: `scale` is 1 unless it is set; the authors' test script crops images to
    multiples of 12 and uses 12.

    Attributes:
        scale: at inference, the map is estimated on the image at 1 / scale of its size
            and then enlarged; a whole number that divides height and width. Training
            uses 1.
    """

    scale: int = 1

    test_options = ("scale",)

    @property
    def multiple(self) -> int:
        """The required divisor of height and width.

        Raises:
            ValueError: if `scale` is no whole number of at least 1.
        """
        if self.scale < 1 or self.scale != int(self.scale):
            raise ValueError(f"scale={self.scale}; use a whole number of at least 1.")
        return int(self.scale)

    @property
    def num_maps(self) -> int:
        """One map serves all iterations."""
        return 1

    @nn.nowrap
    def layer(self, features: int) -> nn.Module:
        """Returns a new separable layer."""
        return SeparableConv(features, **self.types)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the sixth layer's features, at 1 / scale, and what `decode` needs."""
        del target
        self.check_image(image)
        image = image.astype(jnp.float32)
        if train or self.multiple == 1:
            return self._features(image, image)
        height, width = (side // self.multiple for side in image.shape[1:3])
        return self._features(image, resize_bilinear(image, (height, width)))
