"""FLOL: corrects amplitudes of the Fourier spectrum, then restores details.

Source: Benito et al., FLOL: Fast Baselines for Real-World Low-Light Enhancement, arXiv
2501.09718. It follows FourLLIE (Wang et al., ACM MM 2023), whose second stage is a
small SNR-Net with Fourier blocks in place of the transformer.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from llie_jax.image.resize import area_downsample, resize_bilinear
from llie_jax.image.snr import gaussian_blur, snr_map
from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.models.snr_net import ResidualBlock
from llie_jax.nn import fourier, layers, norms
from llie_jax.nn.layers import Layer, Repeat
from llie_jax.registry import register
from llie_jax.types import Dtype, Outputs, Pretrained

_SLOPE = 0.1
_AMPLITUDE_BLOCKS = 3


def canonical_spectrum(x: jax.Array) -> jax.Array:
    """Returns the half spectrum [B, H, W // 2 + 1, C] of features [B, H, W, C].

    At up to four frequencies the spectrum of real features is real. There, rounding
    leaves a positive or a negative zero as the imaginary part, and the angle of a
    negative number is pi or -pi by chance; here it is always pi.

    Args:
        x: features, float32.
    """
    spectrum = fourier.rfft2(x)
    shape = spectrum.shape
    row, column = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (1, 2))
    real = (2 * row % x.shape[1] == 0) & (2 * column % x.shape[2] == 0)
    return lax.complex(spectrum.real, jnp.where(real, 0.0, spectrum.imag))


def polar(spectrum: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns amplitude and angle of a spectrum; where it is 0, so is the gradient."""
    amplitude = jnp.abs(spectrum)
    # Below the threshold, the square of the amplitude in the gradient would underflow.
    visible = amplitude > 1e-18
    real = jnp.where(visible, spectrum.real, 1.0)
    imaginary = jnp.where(visible, spectrum.imag, 0.0)
    return amplitude, jnp.arctan2(imaginary, real)


class SpectralMLP(nn.Module):
    """Two pointwise layers on amplitudes, and two on angles.

    Always computed in float32, since the amplitudes are not normalised.

    Source: FourLLIE, frequency branch; the official code of FLOL.
    Differs: see `canonical_spectrum`. The official results depend on the FFT library.
    """

    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C], in float32."""
        conv = functools.partial(
            layers.Conv, x.shape[-1], (1, 1), param_dtype=self.param_dtype
        )
        x = x.astype(jnp.float32)
        amplitude, angle = polar(canonical_spectrum(conv(name="embed")(x)))

        def changed(y, name):
            y = nn.leaky_relu(conv(name=f"{name}_1")(y), _SLOPE)
            return conv(name=f"{name}_2")(y)

        amplitude, angle = changed(amplitude, "amplitude"), changed(angle, "angle")
        spectrum = lax.complex(amplitude * jnp.cos(angle), amplitude * jnp.sin(angle))
        return x + fourier.irfft2(spectrum, x.shape[1:3])


class SpatialFrequencyBlock(Layer):
    """A gated depthwise convolution with a spectral MLP, then a feed-forward network.

    The first half has no residual connection.

    Source: FLOL, first stage; the official code.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels, types = x.shape[-1], self.types
        conv = functools.partial(layers.Conv, kernel_size=(1, 1), **types)
        beta, gamma = (
            self.param(name, nn.initializers.zeros, (channels,), self.param_dtype)
            for name in ("beta", "gamma")
        )
        y = conv(2 * channels, name="expand")(norms.LayerNorm(name="norm1", **types)(x))
        y = layers.DepthwiseConv(name="depthwise", **types)(y)
        first, second = jnp.split(y, 2, axis=-1)
        y = layers.DepthwiseConv(name="gate", **types)(first) * second
        y = SpectralMLP(self.param_dtype, name="frequency")(y).astype(self.dtype)
        y = conv(channels, name="contract")(y)
        y = y + y * beta.astype(y.dtype)

        z = norms.LayerNorm(name="norm2", **types)(y)
        first, second = jnp.split(conv(2 * channels, name="expand2")(z), 2, axis=-1)
        z = conv(channels, name="contract2")(first * second)
        return y + z * gamma.astype(y.dtype)


class AmplitudeStage(Layer):
    """Divides the spectrum of an image by an estimated map (first stage).

    The map is computed at half the image's size, as if the frequencies were pixels.

    Source: FLOL, first stage; the official code for the map's place.
    Differs: amplitude and phase are never separated, since a real factor leaves the
    phase alone. Of a complex result only the real part is kept, so each frequency and
    its mirror image get the mean of their factors in a transform of real values.

    Attributes:
        width: channels.
    """

    width: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Returns the corrected image, not clipped, of [B, H, W, 3] with even sides."""
        types = self.types
        x = image.astype(jnp.float32)
        y = area_downsample(x, 2).astype(self.dtype)
        y = layers.Conv(self.width, (1, 1), name="input", **types)(y)
        block = functools.partial(SpatialFrequencyBlock, **types)
        y = Repeat(block, _AMPLITUDE_BLOCKS, name="blocks")(y)
        y = layers.Conv(3, (1, 1), name="output", **types)(y).astype(jnp.float32)
        factor = 1 / (nn.sigmoid(resize_bilinear(y, x.shape[1:3])) + 1e-8)
        mirrored = jnp.roll(jnp.flip(factor, (1, 2)), 1, (1, 2))
        factor = (factor + mirrored)[:, :, : x.shape[2] // 2 + 1] / 2
        return fourier.irfft2(fourier.rfft2(x) * factor, x.shape[1:3])


class SpectralBlock(Layer):
    """A spectral MLP and a pointwise convolution, added to their input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        y = SpectralMLP(self.param_dtype, name="frequency")(x).astype(self.dtype)
        return x + layers.Conv(x.shape[-1], (1, 1), name="project", **self.types)(y)


_TORCH_SPECTRAL_KEYS = {"fpre": "embed"} | {
    f"process{i}.{2 * n}": f"{part}_{n + 1}"
    for i, part in ((1, "amplitude"), (2, "angle"))
    for n in (0, 1)
}
_TORCH_BLOCK_KEYS = {
    "norm1": "norm1",
    "conv1": "expand",
    "conv2": "depthwise",
    "sge.dwc": "gate",
    "conv3": "contract",
    "beta": "beta",
    "norm2": "norm2",
    "conv4": "expand2",
    "conv5": "contract2",
    "gamma": "gamma",
} | {f"fatt.{key}": f"frequency/{name}" for key, name in _TORCH_SPECTRAL_KEYS.items()}

TORCH_KEYS = (
    {
        "AmpNet.0.conv_init": "amplitude/input",
        "AmpNet.0.conv_out": "amplitude/output",
        "conv_first_{i}": "conv_{i}",
        "upconv{i}": "up_{i}",
        "HRconv": "fuse",
        "conv_last": "output",
        "transformer.block.{i}.cat": "spectral/block_{i}/project",
    }
    | {
        f"AmpNet.0.conv{i + 1}.{key}": f"amplitude/blocks/block_{i}/{name}"
        for i in range(_AMPLITUDE_BLOCKS)
        for key, name in _TORCH_BLOCK_KEYS.items()
    }
    | {
        f"{torch_part}.{{i}}.conv{n}": f"{part}/block_{{i}}/conv{n}"
        for torch_part, part in (
            ("feature_extraction", "front"),
            ("recon_trunk_light", "light"),
            ("recon_trunk", "back"),
        )
        for n in (1, 2)
    }
    | {
        f"transformer.block.{{i}}.frequency_process.{key}": (
            f"spectral/block_{{i}}/frequency/{name}"
        )
        for key, name in _TORCH_SPECTRAL_KEYS.items()
    }
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of FLOL from an official checkpoint.

    Branches without keys are assumed to have one block, so that a checkpoint with a
    missing branch fails to load.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a width cannot be inferred.
    """

    def count(pattern):
        found = (re.match(pattern + r"\.(\d+)\.", key) for key in shapes)
        return max([1, *(1 + int(match[1]) for match in found if match)])

    fields = {
        "front_blocks": count("feature_extraction"),
        "spectral_blocks": count(r"transformer\.block"),
        "light_blocks": count("recon_trunk_light"),
        "back_blocks": count("recon_trunk"),
    }
    for field, key in (
        ("width", "conv_first_1.weight"),
        ("amplitude_width", "AmpNet.0.conv_init.weight"),
    ):
        if key in shapes:
            fields[field] = shapes[key][0]
        elif field not in given:
            raise ValueError(
                f"The checkpoint has no {key!r}, so FLOL's {field} cannot be inferred; "
                f"give it as {field!r}."
            )
    return fields


def _published(
    file: str, sha256: str, trained_on: str, psnr: float, ssim: float, on: str, **facts
) -> Pretrained:
    return Pretrained(
        spec={"name": "flol"},
        file=file,
        origin="https://github.com/cidautai/FLOL",
        licence="MIT",
        trained_on=trained_on,
        score={"psnr": psnr, "ssim": ssim},
        protocol=(
            f"official script on {on}: unrounded and unclipped output, peak of PSNR is "
            "the largest value of the reference"
        ),
        sha256=sha256,
        **facts,
    )


WEIGHTS = {
    "lol_v2_real": _published(
        "flolv2_all_111439.pt",
        "1e43dbdfc5a8d1ea015f8038544dd96bb530b9918e9e542e93b06a504cc17231",
        "LOL-v2 real, and what else the authors call 'all'; it probably contains the "
        "test images of LOL-v1, on which a score shows parity and not quality",
        21.75,
        0.849,
        "LOL-v2 real",
        reference={"psnr": 21.073, "ssim": 0.8165},
    ),
    "uhd_ll": _published(
        "flolv2_UHDLL.pt",
        "4415a5e5fd44c96c2e7e7d8a78196cc76c83cfb28ab2ec3e87620f9ce8ef87bb",
        "UHD-LL",
        25.01,
        0.888,
        "UHD-LL",
    ),
}

CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 94_518,
            "inference_params": 94_518,
            "macs_256": 1_019_445_248,
        }
    },
    tiny={
        "width": 4,
        "amplitude_width": 4,
        "spectral_blocks": 1,
        "light_blocks": 1,
    },
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code with canonical angles, published weights: 1e-4",
    feed_forward_layers=("*/frequency",),
)


@register("flol", CARD)
class FLOL(Backbone, Layer):
    """FLOL; the defaults match the published weights.

    The first stage brightens the image in the Fourier domain. The second restores
    details at a quarter of the size: where the first result has a low signal-to-noise
    ratio, by blocks in the Fourier domain, elsewhere by convolutions.

    Wrappers split the model before these two branches, where the paper on LFPV splits
    SNR-Net, which has the same structure: the features are [B, H / 4, W / 4, width].

    `Outputs.aux["amplitude_image"]` [B, H, W, 3] is the result of the first stage.

    Source: Benito et al., FLOL, arXiv 2501.09718; the official code.
    Differs: the model never pads or crops its input. The authors' second stage pads to
    multiples of 8 by reflection; their script pads with zeros before. See
    `canonical_spectrum` and `AmplitudeStage` for the transforms.

    Attributes:
        width: channels of the second stage.
        amplitude_width: channels of the first stage.
        front_blocks: residual blocks before the split.
        spectral_blocks: blocks of the Fourier branch.
        light_blocks: residual blocks of the spatial branch.
        back_blocks: residual blocks after the blend.
        dtype: computation dtype. Transforms, spectra, norms, the map and the final sum
            always use float32.
    """

    width: int = 16
    amplitude_width: int = 8
    front_blocks: int = 1
    spectral_blocks: int = 4
    light_blocks: int = 6
    back_blocks: int = 1

    multiple = 8
    feature_stride = 4
    pad_mode = "constant"

    def setup(self):
        """Builds the submodules; raises ValueError if a field is below 1."""
        check_at_least_one(
            self,
            "width",
            "amplitude_width",
            "front_blocks",
            "spectral_blocks",
            "light_blocks",
            "back_blocks",
        )
        types = self.types
        conv = functools.partial(layers.Conv, **types)
        residual = functools.partial(ResidualBlock, **types)
        self.amplitude = AmplitudeStage(self.amplitude_width, **types)
        self.conv_1 = conv(self.width)
        self.conv_2 = conv(self.width, strides=2)
        self.conv_3 = conv(self.width, strides=2)
        self.front = Repeat(residual, self.front_blocks)
        self.spectral = Repeat(
            functools.partial(SpectralBlock, **types), self.spectral_blocks
        )
        self.light = Repeat(residual, self.light_blocks)
        self.back = Repeat(residual, self.back_blocks)
        self.up_1 = conv(4 * self.width)
        self.up_2 = conv(4 * self.width)
        self.fuse = conv(self.width)
        self.output = conv(3)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns features at a quarter of the size, and whatever else `decode` needs.

        Args:
            image: [B, H, W, 3] in [0, 1].
            target: ignored.
            train: ignored; FLOL computes the same in training.

        Raises:
            ValueError: if `image` has the wrong shape.
        """
        del target, train
        self.check_image(image)
        return self.extract(image, self.amplitude(image))

    def extract(self, image: jax.Array, brightened: jax.Array):
        """Returns what `encode` does, given the result of the first stage too."""
        image = image.astype(jnp.float32)
        both = jnp.concatenate([brightened, image], axis=-1)
        full = nn.leaky_relu(self.conv_1(both), _SLOPE)
        half = nn.leaky_relu(self.conv_2(full), _SLOPE)
        quarter = nn.leaky_relu(self.conv_3(half), _SLOPE)
        stride = self.feature_stride
        context = {
            "image": image,
            "brightened": brightened,
            "skips": (full, half, quarter),
            # The upper left pixel of each cell, as PyTorch's nearest-neighbour resize.
            "mask": snr_map(brightened, gaussian_blur)[:, ::stride, ::stride],
        }
        return self.front(quarter), context

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        full, half, quarter = context["skips"]
        far = features + self.spectral(features)
        near = self.light(features)
        share = context["mask"].astype(features.dtype)
        x = self.back(far * (1 - share) + near * share)

        def up(conv, x, skip):
            x = conv(jnp.concatenate([x, skip], axis=-1))
            return nn.leaky_relu(layers.pixel_shuffle(x, 2), _SLOPE)

        x = up(self.up_2, up(self.up_1, x, quarter), half)
        x = nn.leaky_relu(self.fuse(jnp.concatenate([x, full], axis=-1)), _SLOPE)
        x = self.output(x).astype(jnp.float32)
        return Outputs(
            x + context["image"], aux={"amplitude_image": context["brightened"]}
        )
