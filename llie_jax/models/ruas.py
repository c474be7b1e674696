"""RUAS: unrolled illumination estimation and denoising with searched cells.

Source: Liu et al., Retinex-inspired Unrolling with Cooperative Prior Architecture
Search for Low-light Image Enhancement, CVPR 2021.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.nn import layers
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

_PLACES = (
    "distil_0",
    "refine_0",
    "distil_1",
    "refine_1",
    "distil_2",
    "refine_2",
    "distil_3",
)
ILLUMINATION_CELL = ("skip", "res1", "resdil3", "conv3", "conv3", "skip", "conv3")
NOISE_CELL = ("res1", "res1", "resdil3", "skip", "res1", "res1", "skip")


class Operation(Layer):
    """One operation of the search space.

    Attributes:
        kind: "skip", "conv3" (3x3), "res1" (1x1 with a residual sum) or "resdil3" (3x3
            of dilation 2 with a residual sum).
    """

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels, options = x.shape[-1], dict(name="conv", **self.types)
        match self.kind:
            case "skip":
                return x
            case "conv3":
                return layers.Conv(channels, **options)(x)
            case "res1":
                return x + layers.Conv(channels, (1, 1), **options)(x)
            case "resdil3":
                conv = layers.GroupedConv(channels, groups=1, dilation=2, **options)
                return x + conv(x)
        raise ValueError(f"Unknown operation {self.kind!r}.")


class Cell(Layer):
    """Three steps that each distil features and refine the rest; then a fusion.

    Source: RUAS, Section 3.2 and Fig. 3; the genotypes are those of the authors' code.

    Attributes:
        channels: channels of input and output.
        operations: kinds of the operations: distillation and refinement of each step,
            and the last distillation.
    """

    channels: int
    operations: tuple[str, ...]

    def setup(self):
        """Builds the operations and the fusion."""
        for place, kind in zip(_PLACES, self.operations, strict=True):
            setattr(self, place, Operation(kind, **self.types))
        self.fuse = layers.Conv(self.channels, (1, 1), **self.types)

    def encode(self, x: jax.Array) -> jax.Array:
        """Returns the distilled features [B, H, W, 4 * channels] of `x`."""
        activate = functools.partial(nn.leaky_relu, negative_slope=0.05)
        distilled = []
        for i in range(3):
            distilled.append(activate(getattr(self, f"distil_{i}")(x)))
            x = activate(getattr(self, f"refine_{i}")(x) + x)
        distilled.append(activate(self.distil_3(x)))
        return jnp.concatenate(distilled, -1)

    def decode(self, features: jax.Array) -> jax.Array:
        """Returns the fused features [B, H, W, channels]."""
        return self.fuse(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, channels]."""
        return self.decode(self.encode(x))


class IlluminationStage(Layer):
    """Estimates the illumination of an image, from what the stage before enhanced.

    Source: RUAS, Section 3.1.
    """

    def setup(self):
        """Builds the cell."""
        self.cell = Cell(3, ILLUMINATION_CELL, **self.types)

    def encode(self, image: jax.Array, previous: jax.Array | None) -> jax.Array:
        """Returns features [B, H, W, 12].

        Args:
            image: images [B, H, W, 3].
            previous: the enhanced images of the stage before; None for the first.
        """
        if previous is None:
            return self.cell.encode(_local_maximum(image))
        warm = _local_maximum(previous) - 0.5 * (previous - image)
        return self.cell.encode(warm)

    def decode(
        self, features: jax.Array, image: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the illumination in [0.001, 1] and the enhanced image in [0, 1]."""
        logits = self.cell.decode(features).astype(jnp.float32)
        illumination = jnp.clip(nn.sigmoid(logits), 0.001, 1.0)
        return illumination, jnp.clip(image / illumination, 0.0, 1.0)

    def __call__(
        self, image: jax.Array, previous: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns what `decode` does, for the arguments of `encode`."""
        return self.decode(self.encode(image, previous), image)


def _local_maximum(x: jax.Array) -> jax.Array:
    """Returns the maximum of each pixel and its neighbours below and to the right.

    As in the authors' code, zeros follow the last row and column.
    """
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = jnp.maximum(x[:, :-1], x[:, 1:])
    return jnp.maximum(x[:, :, :-1], x[:, :, 1:])


class Denoiser(Layer):
    """Subtracts the noise that three cells estimate.

    Source: RUAS, Section 3.1, noise removal module.

    Attributes:
        width: channels of the cells.
    """

    width: int = 6

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns denoised images of the same shape as `image`, not clipped."""
        x = layers.Conv(self.width, name="embedding", **self.types)(image)
        for i in range(3):
            x = Cell(self.width, NOISE_CELL, name=f"cell_{i}", **self.types)(x)
        noise = layers.Conv(3, name="head", **self.types)(x)
        return image - noise.astype(jnp.float32)


_TORCH_CELL = {
    "c1_d.op": "distil_0/conv",
    "c1_r.op": "refine_0/conv",
    "c2_d.op": "distil_1/conv",
    "c2_r.op": "refine_1/conv",
    "c3_d.op": "distil_2/conv",
    "c3_r.op": "refine_2/conv",
    "c4.op": "distil_3/conv",
    "c5": "fuse",
}
TORCH_KEYS = {
    "denoise_net.stem": "denoiser/embedding",
    "denoise_net.activate.0": "denoiser/head",
} | {
    f"{official}.{key}": f"{ours}/{name}"
    for official, ours in (
        ("enhance_net.iems.{i}.cell", "stage_{i}/cell"),
        ("denoise_net.nrms.{i}", "denoiser/cell_{i}"),
    )
    for key, name in _TORCH_CELL.items()
}


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the fields that an official checkpoint records: none.

    All have the same shapes; whether the denoiser is used must be given.
    """
    del shapes, given
    return {}


def _published(data: str, trained_on: str, sha256: str, reference, **facts):
    return Pretrained(
        spec={"name": "ruas", **facts.pop("fields", {})},
        file=f"ckpt/{data}.pt",
        origin="https://github.com/KarelZhang/RUAS",
        licence="none stated",
        trained_on=trained_on,
        sha256=sha256,
        reference=reference,
        **{"score": {}, "protocol": "", **facts},
    )


WEIGHTS = {
    "lol": _published(
        "lol",
        "LOL-v1",
        "f45a881a9b836fff4a3172481f28c9eb4d91bc4df54ec064092f39ce40abcdcd",
        {"psnr": 16.446, "ssim": 0.5015},
        score={"psnr": 18.23, "ssim": 0.72},
        protocol="unknown; these weights do not reach it on LOL-v1",
    ),
    "upe": _published(
        "upe",
        "MIT-Adobe FiveK",
        "2252d3d909e346b547232c7015f034685aac75181171c6caf90ee12d87ca36c1",
        {"psnr": 11.370},
        fields={"denoise": 0.0},
    ),
    "dark": _published(
        "dark",
        "DarkFace",
        "59083ec4dd4a2b7926c182a4add1519b9646a3aca6c39cfdb7d496fe885828e4",
        {"psnr": 16.192},
        fields={"denoise": 0.0},
    ),
}

CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {"params": 3_438, "inference_params": 3_438, "macs_256": 214_106_112}
    },
    tiny={},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, random weights: 2e-6; losses 1e-5",
)


@register("ruas", CARD)
class RUAS(Backbone, Layer):
    """RUAS; the defaults match the published weights for LOL.

    Three stages with their own parameters estimate the illumination; a denoiser
    follows. `Outputs.aux` has the last stage's `illumination`, and `enhanced`, the
    image before the denoiser. In training also `denoised` and `denoiser_input`, the
    denoiser's output and input without a gradient to the stages: the two parts learn
    from losses of their own.

    Source: Liu et al., CVPR 2021, Section 3.
    Differs: the LFPV paper does not say where a wrapper splits the model; here it is
    before the last stage's fusion, at features [B, H, W, 12], from which the
    illumination is predicted.

    Attributes:
        denoise: whether the image is denoised, 0 or 1; the authors do not denoise with
            their weights `upe` and `dark`.
    """

    denoise: float = 1.0

    test_options = ("denoise",)
    multiple = 1
    pad_mode = "reflect"

    def setup(self):
        """Builds the parts; raises ValueError if `denoise` is neither 0 nor 1."""
        if self.denoise not in (0, 1):
            raise ValueError(f"denoise={self.denoise}; use 1 to denoise, 0 not to.")
        self.stage = [IlluminationStage(**self.types) for _ in range(3)]
        self.denoiser = Denoiser(**self.types)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the last stage's features and what `decode` needs."""
        del target, train  # the stages compute the same in training
        self.check_image(image)
        image, enhanced = image.astype(jnp.float32), None
        for stage in self.stage[:-1]:
            _, enhanced = stage(image, enhanced)
        return self.stage[-1].encode(image, enhanced), image

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        illumination, enhanced = self.stage[-1].decode(features, context)
        aux = {"illumination": illumination, "enhanced": enhanced}
        if train:
            fixed = jax.lax.stop_gradient(enhanced)
            aux |= {"denoiser_input": fixed, "denoised": self.denoiser(fixed)}
        image = enhanced
        if self.denoise or self.is_initializing():  # its parameters always exist
            image = self.denoiser(enhanced)
        return Outputs(image, aux=aux)
