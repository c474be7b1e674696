"""Dawn: tone curves from the whole photo, then a small network for noise and detail.

This project's own network for real photos. Exposure and colour are properties of the
whole photo: a network that sees it at 96 x 96 pixels, whatever its size, predicts two
tone curves, where each of them holds, and a colour matrix. The curves rise and keep
black and white in place, so no colour is inverted and no highlight burns out that
was not white before. A U-Net at half resolution takes noise away band by band and adds
a bounded residual; its pointwise kernels are generated for the photo.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.image.overview import coordinates
from llie_jax.image.resize import (
    adaptive_mean,
    area_downsample,
    nearest_upsample,
    resize_bilinear,
)
from llie_jax.models.base import Backbone, ModelCard, Trained, check_at_least_one
from llie_jax.nn import layers
from llie_jax.nn.adr import sample_conv
from llie_jax.nn.amplitude import AmplitudeGate
from llie_jax.nn.layers import Layer
from llie_jax.nn.pog import OrthogonalConv
from llie_jax.registry import register
from llie_jax.types import ModuleFactory, Outputs

OVERVIEW = 96
"""Rows and columns of the overview."""

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The window of a whole photo: top, left, bottom and right in its height and width."""

_NUM_BASES = 11
_LARGEST_SLOPE = 1.4
"""Bound of the logarithm of a curve's slope, besides that of its bases."""

_NUM_BANDS = 3
_MIXING = (-0.3, 0.1)
"""Bounds of the colour matrix off the diagonal: curves that lift shadows make colours
pale, so that it has to strengthen them; it may hardly turn them to grey."""

Planes = tuple[jax.Array, jax.Array, jax.Array]


def curve_bases(x: jax.Array) -> list[jax.Array]:
    """Returns increasing functions of [0, 1] that keep 0 and 1, each of the shape of x.

    The identity comes first. Roots lift shadows most, 1 - (1 - x)^n multiplies them by
    n and saturates; the square darkens.

    Args:
        x: values in [0, 1].
    """
    # The slope of a root is infinite at 0.
    root = jnp.sqrt(x + 1e-4) - 1e-2
    fourth = jnp.sqrt(root + 1e-2) - 1e-1
    bases = [x, x * x, root / (1.00005 - 1e-2), fourth / (1.00002 - 1e-1)]
    rest = 1 - x
    for _ in range(_NUM_BASES - len(bases)):
        rest = rest * rest
        bases.append(1 - rest)
    return bases


def bend(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns an increasing function of [0, 1] that keeps 0 and 1.

    Args:
        x: values in [0, 1].
        slope: that of the function at 0, above 0; its inverse is the slope at 1.
    """
    return slope * x / (1 + (slope - 1) * x)


def spline_weights(places: jax.Array, cells: int) -> jax.Array:
    """Returns how much each cell of one axis of a map counts at each pixel.

    Quadratic B-splines, whose slope has no jumps, so that no grid shows.

    Args:
        places: where the pixels lie along the axis, in [0, 1], [B, N].
        cells: number of cells.

    Returns:
        float32 [B, N, cells]; the weights of a pixel sum to 1.
    """
    centres = jnp.arange(cells, dtype=jnp.float32) + 0.5
    distance = jnp.abs(cells * places[..., None] - centres)
    tail = 0.5 * jnp.square(jnp.maximum(1.5 - distance, 0))
    weights = jnp.where(distance < 0.5, 0.75 - jnp.square(distance), tail)
    return weights / weights.sum(-1, keepdims=True)


class Tones(Layer):
    """Estimates from the overview how the photo is to be toned.

    Attributes:
        width: channels at a quarter of the overview's size.
        num_curves: see `Dawn`.
        amplitude: see `Dawn`.
    """

    width: int
    num_curves: int
    amplitude: ModuleFactory

    @nn.compact
    def __call__(self, overview: jax.Array) -> dict[str, jax.Array]:
        """Returns what the overview [B, S, S, 3] tells about the photo.

        `curves` [B, num_curves, 3, bases], the weights of the bases, which sum to 1;
        `slopes` [B, num_curves, 3], see `bend`; `colour` [B, 3, 3], rows that sum to 1;
        `choice` [B, h, w, num_curves, 2], factor and summand of the guide in the score
        of each curve; `summary` [B, C].
        """
        types, width = self.types, self.width
        # Shadows differ visibly only after a root.
        x = overview.astype(jnp.float32)
        x = jnp.concatenate([x, jnp.sqrt(jnp.sqrt(x + 1e-4))], -1).astype(self.dtype)
        for i, features in enumerate((2 * width // 3, width)):
            x = nn.relu(layers.Conv(features, strides=2, name=f"down_{i}", **types)(x))
        x = self.amplitude(name="amplitude", **types)(x)
        x = nn.relu(layers.Conv(4 * width // 3, strides=2, name="down_2", **types)(x))
        places = x
        x = nn.relu(layers.Conv(2 * width, strides=2, name="down_3", **types)(x))
        x = x.astype(jnp.float32)
        mean = x.mean((1, 2))
        spread = jnp.sqrt(x.var((1, 2)) + 1e-4)
        y = jnp.concatenate([mean, spread], -1).astype(self.dtype)
        y = nn.relu(nn.Dense(3 * width, name="hidden", **types)(y))

        def head(name, *shape, **options):
            dense = nn.Dense(math.prod(shape), name=name, **options, **types)
            return dense(y).astype(jnp.float32).reshape(-1, *shape)

        slopes = head("slopes", self.num_curves, 3, kernel_init=nn.initializers.zeros)

        found = {
            "curves": nn.softmax(head("curves", self.num_curves, 3, _NUM_BASES)),
            "slopes": jnp.exp(_LARGEST_SLOPE * jnp.tanh(slopes)),
            "colour": _colour_matrix(head("colour", 3, 2)),
            "summary": nn.tanh(head("summary", 4 * width // 3)),
        }
        if self.num_curves > 1:
            conv = layers.Conv(2 * self.num_curves, name="choice", **types)
            choice = conv(places).astype(jnp.float32)
            found["choice"] = choice.reshape(*choice.shape[:3], self.num_curves, 2)
        return found


def _colour_matrix(values: jax.Array) -> jax.Array:
    """Returns matrices [B, 3, 3] that keep grey, of unbounded values [B, 3, 2]."""
    low, high = _MIXING
    off = low + (high - low) * nn.sigmoid(values)
    own = 1 - off.sum(-1)
    rows = []
    for i in range(3):
        row = [off[:, i, 0], off[:, i, 1]]
        row.insert(i, own[:, i])
        rows.append(jnp.stack(row, -1))
    return jnp.stack(rows, 1)


def apply_tones(
    image: jax.Array, tones: dict[str, jax.Array], window: jax.Array
) -> jax.Array:
    """Applies curves and colour matrix to an image [B, H, W, 3] in [0, 1].

    Args:
        image: the photo, or a part of it.
        tones: from `Tones`.
        window: [B, 4], where the image lies in the photo, see `Dawn`.

    Returns:
        [B, H, W, 3], within 0.6 of [0, 1].
    """
    # One plane per channel, because fused loops over three channels do not vectorise.
    planes = [image[..., i] for i in range(3)]
    number = tones["curves"].shape[1]
    shares = [1.0]
    if number > 1:
        choice = tones["choice"]
        rows, columns = (
            spline_weights(places, cells)
            for places, cells in zip(
                coordinates(window, image.shape[1:3]), choice.shape[1:3], strict=True
            )
        )
        maps = jnp.einsum("bhi,bijnk->bnkhj", rows, choice)
        maps = jnp.einsum("bnkhj,bwj->nkbhw", maps, columns)
        guide = jnp.sqrt(jnp.sqrt(sum(planes) / 3 + 1e-4))
        scores = [maps[i, 0] * guide + maps[i, 1] for i in range(number)]
        shares = jax.nn.softmax(jnp.stack(scores), axis=0)
    toned = []
    for channel, plane in enumerate(planes):
        bases = curve_bases(plane)
        total = 0.0
        for i in range(number):
            weights = tones["curves"][:, i, channel, :, None, None]
            curve = sum(weights[:, k] * b for k, b in enumerate(bases))
            slope = tones["slopes"][:, i, channel, None, None]
            total += shares[i] * bend(curve, slope)
        toned.append(total)
    matrix = tones["colour"][..., None, None]
    return jnp.stack(
        [sum(matrix[:, i, j] * toned[j] for j in range(3)) for i in range(3)], -1
    )


def shrink_bands(image: jax.Array, gates: jax.Array) -> jax.Array:
    """Removes a share of each band of the Laplacian pyramid of an image.

    Noise of any size is taken away where nothing else is; means stay, so colours do.

    Args:
        image: [B, H, W, 3], height and width multiples of 8.
        gates: the shares, [B, H / 2, W / 2, 6] in [0, 1]: brightness and colour of the
            bands of 1, 2 and 4 pixels.

    Returns:
        [B, H, W, 3].
    """
    size = image.shape[1:3]
    gates = nearest_upsample(gates, 2)
    result = finer = means = image
    for band in range(_NUM_BANDS):
        means = area_downsample(means, 2)
        coarser = resize_bilinear(means, size)
        details = finer - coarser
        brightness = details.mean(-1, keepdims=True)
        bright, colour = gates[..., 2 * band, None], gates[..., 2 * band + 1, None]
        result -= bright * brightness + colour * (details - brightness)
        finer = coarser
    return result


class GeneratedBlock(Layer):
    """A gated depthwise block whose last kernel is generated, then a gated network.

    Attributes:
        conv: generator of the kernel, see `Dawn`.
    """

    conv: ModuleFactory

    @nn.compact
    def __call__(self, x: jax.Array, summary: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C].

        Args:
            x: features.
            summary: what is known about the whole photo, [B, S].
        """
        channels, types = x.shape[-1], self.types
        pointwise = functools.partial(layers.Conv, kernel_size=(1, 1), **types)
        # Bounded gates: products of features would grow with every block.
        y = pointwise(2 * channels, name="expand")(x)
        y = layers.DepthwiseConv(name="depthwise", **types)(y)
        first, second = jnp.split(y, 2, axis=-1)
        about = nn.Dense(channels, name="about", **types)(summary.astype(self.dtype))
        kernel = self.conv(features=channels, name="generator", **types).kernel(about)
        y = sample_conv(nn.hard_sigmoid(first) * second, kernel)
        x = x + y * _scale(self, "scale_0", channels)
        y = pointwise(2 * channels, name="expand_2")(x)
        first, second = jnp.split(y, 2, axis=-1)
        y = pointwise(channels, name="contract")(nn.hard_sigmoid(first) * second)
        return x + y * _scale(self, "scale_1", channels)


def _scale(module, name, channels):
    init = nn.initializers.constant(0.2)
    value = module.param(name, init, (channels,), module.param_dtype)
    return value.astype(module.dtype)


_BASE = {"conv": {"name": "orthogonal", "embedding_dim": 8, "decoder_gain": 8**0.5}}

CARD = ModelCard(
    sizes={
        "base": _BASE,
        # Each lacks one part, for comparisons.
        "one_curve": {**_BASE, "num_curves": 1},
        "no_gate": {**_BASE, "amplitude": {"name": "identity"}},
        "static": {"conv": {"name": "static"}},
    },
    costs={
        "base": {
            "params": 143_280,
            "inference_params": 143_280,
            "macs_256": 237_081_584,
        },
        "one_curve": {
            "params": 139_496,
            "inference_params": 139_496,
            "macs_256": 233_619_920,
        },
        "no_gate": {
            "params": 142_080,
            "inference_params": 142_080,
            "macs_256": 236_722_160,
        },
        "static": {
            "params": 104_908,
            "inference_params": 97_820,
            "macs_256": 237_010_160,
        },
    },
    tiny={**_BASE, "width": 4, "tone_width": 6},
    trained={
        "base": Trained(
            config="dawn",
            data="LOL-v1 and its references, relit",
            protocol="default, eval15",
            score={"psnr": 22.15, "ssim": 0.814},
        ),
    },
)


@register("dawn", CARD)
class Dawn(Backbone, Layer):
    """Dawn; see the top of the file.

    The output is S(t) + `largest_residual` * (1 - (2 t - 1)^4) * tanh(D), where t is
    the toned image, S takes a share of each band of its Laplacian pyramid away, and
    the U-Net gives these shares and D. `Outputs.aux["toned"]` is t.

    A part of a photo needs to know the photo: `overview`, the means of its 96 x 96
    cells, and `window`, where the part lies: top, left, bottom and right in the
    photo's height and width; the bottom is less than the top if the part is upside
    down. Without them the image is a whole photo.

    Wrappers split the U-Net at its lowest level, an eighth of the image.

    Attributes:
        width: channels of the U-Net at half resolution, even; twice as many at a
            quarter, 2.5 times at an eighth.
        tone_width: channels of the network for tones, a multiple of 3.
        num_curves: tone curves; with one, all parts of the photo share it.
        amplitude: slot for a layer on the overview's features: an FFT amplitude gate,
            or `identity`.
        conv: slot for the generator of pointwise kernels: `orthogonal` (POG),
            `dynamic` or `static`.
        largest_residual: bound of the U-Net's contribution.
    """

    width: int = 16
    tone_width: int = 24
    num_curves: int = 2
    amplitude: ModuleFactory = AmplitudeGate
    conv: ModuleFactory = OrthogonalConv
    largest_residual: float = 0.3

    multiple = 8
    pad_mode = "reflect"
    overview = OVERVIEW

    def setup(self):
        """Builds the layers."""
        check_at_least_one(self, "width", "tone_width", "num_curves")
        types, width = self.types, self.width
        self.tones = Tones(self.tone_width, self.num_curves, self.amplitude, **types)
        block = functools.partial(GeneratedBlock, self.conv, **types)
        wide, widest = 2 * width, 5 * width // 2
        self.stem = layers.Conv(width, **types)
        self.down_1 = layers.Conv(wide, (2, 2), strides=2, padding=0, **types)
        self.encoder_1 = block()
        self.down_2 = layers.Conv(widest, (2, 2), strides=2, padding=0, **types)
        self.encoder_2 = block()
        self.decoder_2 = block()
        self.up_2 = layers.Conv(4 * wide, (1, 1), **types)
        self.decoder_1 = block()
        self.up_1 = layers.Conv(4 * width, (1, 1), **types)
        self.refine = layers.Conv(width, **types)
        zeros = nn.initializers.zeros
        self.gates = layers.Conv(2 * _NUM_BANDS, (1, 1), **types)
        self.head = layers.Conv(12, kernel_init=zeros, bias_init=zeros, **types)

    def encode(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        overview: jax.Array | None = None,
        window: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Returns features [B, H / 8, W / 8, 2.5 * width], and what `decode` needs."""
        del target, train  # computes the same in training
        self.check_image(image)
        image = jnp.clip(image.astype(jnp.float32), 0, 1)
        if overview is None:
            overview = adaptive_mean(image, (OVERVIEW, OVERVIEW))
        if window is None:
            window = jnp.broadcast_to(jnp.array(WHOLE), (len(image), 4))
        tones = self.tones(overview)
        toned = apply_tones(image, tones, window)
        x = jnp.concatenate([toned, image], -1).astype(self.dtype)
        half = nn.relu(self.stem(layers.pixel_unshuffle(x)))
        summary = tones["summary"]
        quarter = self.encoder_1(self.down_1(half), summary)
        eighth = self.encoder_2(self.down_2(quarter), summary)
        return eighth, (toned, half, quarter, summary)

    def decode(
        self, features: jax.Array, context: Any, *, train: bool = False
    ) -> Outputs:
        """Returns the outputs for features and context as `encode` gives them."""
        del train
        toned, half, quarter, summary = context
        x = self.decoder_2(features, summary)
        x = quarter + layers.pixel_shuffle(self.up_2(x))
        x = self.decoder_1(x, summary)
        x = half + layers.pixel_shuffle(self.up_1(x))
        x = nn.relu(self.refine(x))
        residual = layers.pixel_shuffle(self.head(x)).astype(jnp.float32)
        # None at 0 and 1, so that black and white photos and highlights stay so.
        clean = shrink_bands(toned, nn.sigmoid(self.gates(x).astype(jnp.float32)))
        room = 1 - jnp.square(jnp.square(2 * jnp.clip(toned, 0, 1) - 1))
        image = clean + self.largest_residual * room * jnp.tanh(residual)
        return Outputs(image, aux={"toned": toned})
