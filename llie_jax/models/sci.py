"""SCI: brightens by an illumination map that a network of 258 parameters estimates.

Source: Ma et al., Toward Fast, Flexible, and Robust Low-Light Image Enhancement,
CVPR 2022.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers, norms
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained


def _scale_init(rng, shape, dtype):
    return 1 + nn.initializers.normal(0.02)(rng, shape, dtype)


_conv = functools.partial(
    layers.Conv,
    kernel_init=nn.initializers.normal(0.02),
    bias_init=nn.initializers.zeros,
)
_norm = functools.partial(norms.BatchNorm, scale_init=_scale_init)


class Estimator(Layer):
    """Estimates the illumination of an image as the image plus a correction.

    Source: SCI, Section 3.1.

    Attributes:
        width: channels of the features.
        axis_name: mesh axis whose devices share batch statistics.
    """

    width: int = 3
    axis_name: str | None = None

    def setup(self):
        """Builds the layers."""
        self.embedding = _conv(self.width, **self.types)
        self.conv = _conv(self.width, **self.types)
        self.norm = _norm(axis_name=self.axis_name, **self.types)
        self.head = _conv(3, **self.types)

    def encode(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns features [B, H, W, width] of an image [B, H, W, 3]."""
        x = nn.relu(self.embedding(image))
        return x + nn.relu(self.norm(self.conv(x), train=train))

    def decode(self, features: jax.Array, image: jax.Array) -> jax.Array:
        """Returns the illumination [B, H, W, 3] in [1e-4, 1]."""
        correction = nn.sigmoid(self.head(features).astype(jnp.float32))
        return jnp.clip(image + correction, 1e-4, 1.0)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the illumination [B, H, W, 3] of an image of that shape."""
        return self.decode(self.encode(image, train=train), image)


class CalibratorBlock(Layer):
    """Two convolutions with batch norms, and a residual sum.

    Attributes:
        axis_name: mesh axis whose devices share batch statistics.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        y = x
        for i in range(2):
            y = _conv(x.shape[-1], name=f"conv_{i}", **self.types)(y)
            norm = _norm(axis_name=self.axis_name, name=f"norm_{i}", **self.types)
            y = nn.relu(norm(y, train=train))
        return x + y


class Calibrator(Layer):
    """Turns the reflectance of a stage into what the next stage's input adds.

    One block is applied three times, so its batch norms update their running
    statistics three times.

    Source: SCI, Section 3.2, self-calibrated module.

    Attributes:
        width: channels of the features.
        axis_name: mesh axis whose devices share batch statistics.
    """

    width: int = 16
    axis_name: str | None = None

    @nn.compact
    def __call__(self, reflectance: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns an array of the same shape as `reflectance`, [B, H, W, 3]."""
        x = _conv(self.width, name="embedding", **self.types)(reflectance)
        norm = _norm(axis_name=self.axis_name, name="norm", **self.types)
        x = nn.relu(norm(x, train=train))
        block = CalibratorBlock(axis_name=self.axis_name, name="block", **self.types)
        for _ in range(3):
            x = block(x, train=train)
        x = _conv(3, name="head", **self.types)(x)
        return reflectance - nn.sigmoid(x.astype(jnp.float32))


def _divide(image, illumination):
    return jnp.clip(image / illumination, 0.0, 1.0)


# The authors list the shared layers once alone and once per repetition.
_TORCH_SHARED = {
    "enhance.{}.0": "estimator/conv",
    "enhance.{}.1": "estimator/norm",
    "calibrate.{}.0": "calibrator/block/conv_0",
    "calibrate.{}.1": "calibrator/block/norm_0",
    "calibrate.{}.3": "calibrator/block/conv_1",
    "calibrate.{}.4": "calibrator/block/norm_1",
}
TORCH_KEYS = (
    {
        "enhance.in_conv.0": "estimator/embedding",
        "enhance.out_conv.0": "estimator/head",
        "calibrate.in_conv.0": "calibrator/embedding",
        "calibrate.in_conv.1": "calibrator/norm",
        "calibrate.out_conv.0": "calibrator/head",
    }
    | {
        key.format("conv" if key.startswith("enhance") else "convs"): name
        for key, name in _TORCH_SHARED.items()
    }
    | {key.format("blocks.{i}"): name for key, name in _TORCH_SHARED.items()}
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of SCI from an official checkpoint.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a width cannot be inferred.
    """
    fields = {}
    for field, key in (
        ("width", "enhance.in_conv.0.weight"),
        ("calibrator_width", "calibrate.in_conv.0.weight"),
    ):
        if key in shapes:
            fields[field] = shapes[key][0]
        elif field not in given:
            raise ValueError(
                f"The checkpoint has no {key!r}, so SCI's {field} cannot be inferred; "
                f"give it as {field!r}."
            )
    return fields


def _published(file: str, trained_on: str, sha256: str, reference, score=None):
    return Pretrained(
        spec={"name": "sci"},
        file=f"weights/{file}.pt",
        origin="https://github.com/vis-opt-group/SCI",
        licence="MIT",
        trained_on=trained_on,
        score=score or {},
        protocol="LOL-v1, as other papers cite it" if score else "",
        sha256=sha256,
        reference=reference,
    )


WEIGHTS = {
    "easy": _published(
        "easy",
        "MIT-Adobe FiveK",
        "b17326a26a93bf187ecbab217f9d3c57467a8b56020d4d9ff600ba257bbffb36",
        {"psnr": 9.627, "ssim": 0.3741},
    ),
    "medium": _published(
        "medium",
        "LOL and LSRW",
        "4ff1e7e66e8f18114f790e5085ca4c936f0858e329e7ad1cb65b8aa09a9c6916",
        {"psnr": 14.854, "ssim": 0.5239},
        {"psnr": 14.78, "ssim": 0.525},
    ),
    "difficult": _published(
        "difficult",
        "DarkFace",
        "657fa1f280cae1035df0d5cbe628e91f2d0f28660df608a3fa3f7e9a71da5a13",
        {"psnr": 13.869, "ssim": 0.5290},
    ),
}

CARD = ModelCard(
    internal=("axis_name",),
    sizes={"paper": {}},
    costs={"paper": {"params": 5_877, "inference_params": 258, "macs_256": 15_925_248}},
    tiny={"calibrator_width": 4},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, trained weights: 2e-6; losses 1e-4",
    training_only=("calibrator/*",),
)


@register("sci", CARD)
class SCI(Backbone, Layer):
    """SCI; the defaults match the published weights.

    The enhanced image is the image over its illumination. `Outputs.aux` has the
    `illumination`. In training, later stages estimate the illumination of calibrated
    inputs with the same parameters: `aux["input_1"]`, `aux["illumination_1"]` and so
    on. The running statistics of the estimator's batch norm are updated once per stage,
    those of the calibrator's block three times per stage.

    Source: Ma et al., CVPR 2022, Sections 3.1 and 3.2.
    Differs: the LFPV paper does not say where a wrapper splits the model; here it is
    before the estimator's last convolution, at features [B, H, W, width] of the first
    stage, the only one at inference. Later stages never see the bank.

    Attributes:
        width: channels of the estimator.
        calibrator_width: channels of the calibrator.
        num_stages: number of stages in training.
        axis_name: mesh axis whose devices share batch statistics.
    """

    width: int = 3
    calibrator_width: int = 16
    num_stages: int = 3
    axis_name: str | None = None

    multiple = 1
    pad_mode = "reflect"

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "SCI":
        """Returns the model for a step that is mapped over a mesh axis."""
        return self.clone(axis_name=axis_name)

    def setup(self):
        """Builds both networks; raises ValueError if a field is below 1."""
        check_at_least_one(self, "width", "calibrator_width", "num_stages")
        shared = dict(axis_name=self.axis_name, **self.types)
        self.estimator = Estimator(self.width, **shared)
        self.calibrator = Calibrator(self.calibrator_width, **shared)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the first stage's features and what `decode` needs."""
        del target
        self.check_image(image)
        image = image.astype(jnp.float32)
        features = self.estimator.encode(image, train=train)
        aux = {}
        if train or self.is_initializing():
            first = self.estimator.decode(features, image)
            for i, stage in enumerate(self.later_stages(image, first, train=train), 1):
                aux[f"input_{i}"], aux[f"illumination_{i}"] = stage
        return features, (image, aux)

    def later_stages(
        self, image: jax.Array, illumination: jax.Array, *, train: bool = False
    ) -> list[tuple[jax.Array, jax.Array]]:
        """Returns input and illumination, [B, H, W, 3], of the stages after the first.

        Args:
            image: the images.
            illumination: the illumination of the first stage.
            train: whether batch norms use and update the statistics of the batch.
        """
        found = []
        for _ in range(self.num_stages - 1):
            calibration = self.calibrator(_divide(image, illumination), train=train)
            x = image + calibration
            illumination = self.estimator(x, train=train)
            found.append((x, illumination))
        # The authors calibrate the last stage too, only for the running statistics.
        self.calibrator(_divide(image, illumination), train=train)
        return found

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        image, aux = context
        illumination = self.estimator.decode(features, image)
        aux = {"illumination": illumination, **aux}
        return Outputs(_divide(image, illumination), aux=aux)
