"""PairLIE: Retinex decomposition learned from pairs of dark exposures.

Source: Fu et al., Learning a Simple Low-light Image Enhancer from Paired Low-light
Instances, CVPR 2023.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

_HIDDEN = 4
"""Convolutions before the head of each network."""


class ReflectedConv(Layer):
    """3x3 convolution that reflects the image at its borders.

    Attributes:
        features: number of output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C]."""
        for axis in (1, 2):
            # The starts are clamped, so a side of one pixel is replicated. They are
            # arrays, since a symbolic size cannot be compared.
            before, after = (
                jax.lax.dynamic_slice_in_dim(x, jnp.asarray(start), 1, axis)
                for start in (1, x.shape[axis] - 2)
            )
            x = jnp.concatenate([before, x, after], axis)
        conv = layers.Conv(self.features, padding=0, name="conv", **self.types)
        return conv(x)


class Branch(Layer):
    """One of the three networks: five convolutions with ReLUs between.

    Source: the paper, Fig. 3; the reflected borders are from the authors' code.

    Attributes:
        features: number of output channels.
        width: channels inside.
    """

    features: int
    width: int

    def setup(self):
        """Builds the convolutions."""
        self.layer = [ReflectedConv(self.width, **self.types) for _ in range(_HIDDEN)]
        self.head = ReflectedConv(self.features, **self.types)

    def encode(self, image: jax.Array) -> jax.Array:
        """Returns the features before the head, [B, H, W, width]."""
        x = image
        for layer in self.layer:
            x = nn.relu(layer(x))
        return x

    def decode(self, features: jax.Array) -> jax.Array:
        """Returns logits, float32 [B, H, W, features], for features from `encode`."""
        return self.head(features).astype(jnp.float32)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns logits, float32 [B, H, W, features], for an image [B, H, W, 3]."""
        return self.decode(self.encode(image))


TORCH_KEYS = {
    f"{letter}_net.{letter}_net.{3 * i + 1}": f"{name}/{layer}/conv"
    for letter, name in (
        ("N", "denoise"),
        ("L", "illumination"),
        ("R", "reflectance"),
    )
    for i, layer in enumerate((*(f"layer_{i}" for i in range(_HIDDEN)), "head"))
}


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the width of PairLIE from an official checkpoint.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """
    key = "N_net.N_net.1.weight"
    if key in shapes:
        return {"width": shapes[key][0]}
    if "width" not in given:
        raise ValueError(
            f"The checkpoint has no {key!r}, so PairLIE's width cannot be inferred; "
            "give it as 'width'."
        )
    return {}


WEIGHTS = {
    "sice_lol": Pretrained(
        # The authors score LOL with this exponent, and use 0.2 for other photos.
        spec={"name": "pairlie", "exponent": 0.14},
        file="PairLIE.pth",
        origin="https://github.com/zhenqifu/PairLIE",
        licence="none stated",
        trained_on="SICE and LOL, pairs of dark exposures",
        score={"psnr": 19.51, "ssim": 0.736},
        protocol="8-bit truncated",
        sha256="e223ec9e66504550e69f65b631ce520be9b5c4e8e0aba882768d06af355b0631",
        reference={"psnr": 19.521, "ssim": 0.7357},
    )
}

CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 341_767,
            "inference_params": 341_767,
            "macs_256": 22_347_251_712,
        }
    },
    tiny={"width": 8},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, random weights: 2e-6; its weights on LOL-v1: same score",
)


@register("pairlie", CARD)
class PairLIE(Backbone, Layer):
    """PairLIE; the defaults match the published weights.

    A first network removes from the image what the decomposition cannot explain, such
    as noise; of its output, one network estimates the illumination and one the
    reflectance. A power of the illumination, times the reflectance, is the result.

    Training takes a second dark exposure of the same scene, `second` of the records:
    both have one reflectance.

    Wrappers split the model before the head of the reflectance: the features are
    [B, H, W, width].

    Source: Fu et al., PairLIE, CVPR 2023, Section 3 and Fig. 3.
    Differs: the paper on LFPV does not say where a bank goes in PairLIE; it is in the
    branch that the content of the image passes through.

    Attributes:
        width: channels of each network.
        exponent: of the illumination, smaller for brighter images. The authors use 0.2,
            and 0.14 for their results on LOL.
        dtype: computation dtype. Sigmoids and the product always use float32.
    """

    width: int = 64
    exponent: float = 0.2

    multiple = 1
    pad_mode = "reflect"
    test_options = ("exponent",)
    record_inputs = ("second",)

    def setup(self):
        """Builds the three networks; raises ValueError if a field is invalid."""
        check_at_least_one(self, "width")
        if not self.exponent >= 0:
            raise ValueError(
                f"exponent={self.exponent}; give 0 or more: 0 is the reflectance "
                "alone, 1 leaves the image dark."
            )
        types = self.types
        self.denoise = Branch(3, self.width, **types)
        self.illumination = Branch(1, self.width, **types)
        self.reflectance = Branch(3, self.width, **types)

    def encode(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        second: jax.Array | None = None,
    ):
        """Returns features of the reflectance, and whatever else `decode` needs.

        Args:
            image: [B, H, W, 3] in [0, 1].
            target: ignored.
            train: ignored; PairLIE computes the same in training.
            second: another exposure of the scenes, in training, like `image`.

        Raises:
            ValueError: if `image` is not [B, H, W, 3], or `second` has another shape.
        """
        del target, train
        self.check_image(image)
        denoised = nn.sigmoid(self.denoise(image))
        context = {
            "image": image.astype(jnp.float32),
            "denoised": denoised,
            "illumination": self.illumination(denoised),
        }
        if second is not None:
            if second.shape != image.shape:
                raise ValueError(
                    f"second is {second.shape}, the image {image.shape}; give another "
                    "exposure of the same size."
                )
            other = self.reflectance(nn.sigmoid(self.denoise(second)))
            context["second_reflectance"] = nn.sigmoid(other)
        return self.reflectance.encode(denoised), context

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`.

        `aux` has the parts of the decomposition, `reflectance` R, `illumination` L and
        `denoised` X, and what the losses compare them with: `recomposed` L * R,
        `brightened` X / L without gradient to L, `brightest`, the largest channel of
        the image, and, in training on pairs, `second_reflectance`.
        """
        del train
        reflectance = nn.sigmoid(self.reflectance.decode(features))
        logit, denoised = context["illumination"], context["denoised"]
        illumination = nn.sigmoid(logit)
        # A power of the sigmoid; its gradient stays finite where the sigmoid is 0.
        gain = jnp.exp(self.exponent * nn.log_sigmoid(logit))
        aux = {
            "reflectance": reflectance,
            "illumination": illumination,
            "denoised": denoised,
            "recomposed": illumination * reflectance,
            "brightened": denoised / jax.lax.stop_gradient(illumination),
            "brightest": jnp.max(context["image"], axis=-1, keepdims=True),
        }
        if "second_reflectance" in context:
            aux["second_reflectance"] = context["second_reflectance"]
        return Outputs(gain * reflectance, aux)
