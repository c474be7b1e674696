"""LEDNet: brightens in its encoder, deblurs in its decoder.

Source: Zhou et al., LEDNet: Joint Low-light Enhancement and Deblurring in the Dark,
ECCV 2022.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from llie_jax.image.resize import adaptive_mean, resize_aligned
from llie_jax.messages import listed
from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.nn import blur_resize, layers
from llie_jax.nn.conv_kernels import dense_conv
from llie_jax.nn.layers import FvcoreCounted, Layer
from llie_jax.registry import register
from llie_jax.types import Outputs

_BINS = (1, 2, 3, 6)
_CURVES = 3
_TAPS = 5


class ResidualBlock(Layer):
    """Two convolutions with a PReLU between, added to their input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        types = self.types
        y = layers.Conv(x.shape[-1], name="conv1", **types)(x)
        y = layers.PReLU(name="prelu", **types)(y)
        return x + layers.Conv(x.shape[-1], name="conv2", **types)(y)


class EncoderBlock(Layer):
    """A residual block, a convolution and a PReLU."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        types = self.types
        x = ResidualBlock(name="residual", **types)(x)
        x = layers.Conv(x.shape[-1], name="conv", **types)(x)
        return layers.PReLU(name="prelu", **types)(x)


class DecoderBlock(Layer):
    """Two residual blocks."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        for i in range(2):
            x = ResidualBlock(name=f"residual_{i}", **self.types)(x)
        return x


class AdaptiveMean(nn.Module, FvcoreCounted):
    """The means of `bins` x `bins` cells; see `adaptive_mean`."""

    bins: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, bins, bins, C] of `x` [B, H, W, C]."""
        return adaptive_mean(x, (self.bins, self.bins))

    def fvcore_macs(self, x: jax.Array) -> int:
        """Returns fvcore's count for one call: one per element."""
        return x.size


class ResizeLike(nn.Module, FvcoreCounted):
    """Bilinear resize to the size of other features, with aligned corners."""

    @nn.compact
    def __call__(self, x: jax.Array, like: jax.Array) -> jax.Array:
        """Returns [B, H, W, C] of `x` [B, h, w, C] and `like` [B, H, W, D]."""
        return resize_aligned(x, like.shape[1:3])

    def fvcore_macs(self, x: jax.Array, like: jax.Array) -> int:
        """Returns fvcore's count for one call: four per element of the result."""
        return 4 * like.size // like.shape[-1] * x.shape[-1]


class PyramidPooling(Layer):
    """Adds context: means of 1, 4, 9 and 36 cells, beside the features (PPM).

    Source: LEDNet, Section 4; Zhao et al., Pyramid Scene Parsing Network, CVPR 2017.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=False, **types)
        maps = [x]
        for i, bins in enumerate(_BINS):
            y = AdaptiveMean(bins, name=f"mean_{i}")(x)
            y = conv(channels // 4, (1, 1), name=f"conv_{i}")(y)
            y = layers.PReLU(name=f"prelu_{i}", **types)(y)
            maps.append(ResizeLike(name=f"resize_{i}")(y, x))
        y = conv(channels, name="fuse")(jnp.concatenate(maps, -1))
        return layers.PReLU(name="prelu", **types)(y)


class CurveUnit(Layer):
    """Brightens features in [0, 1] by curves x + a x (1 - x), estimated per pixel.

    All channels share the maps a, one for each of three iterations.

    Source: LEDNet, Section 4, the curve non-linear unit (CurveNLU).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features in [0, 1] of the same shape as `x`, [B, H, W, C]."""
        types = self.types
        y = layers.Conv(x.shape[-1], (5, 5), name="conv1", **types)(x)
        y = layers.Conv(x.shape[-1], (3, 3), name="conv2", **types)(nn.relu(y))
        y = layers.Conv(_CURVES, (1, 1), name="conv3", **types)(nn.relu(y))
        x = jnp.clip(x, 0, 1)
        for strength in jnp.split(nn.sigmoid(y), _CURVES, -1):
            x = x + strength * x * (1 - x)
        return x


class DynamicFilter(Layer):
    """Filters each pixel and channel by a 5x5 kernel predicted from the encoder.

    One tap at a time is predicted and used, since all kernels take 25 times the memory
    of the features.

    Source: LEDNet, Section 4, the filter adaptive skip connection (FASC); the kernels
    are not normalised, as in the authors' code.
    """

    @nn.compact
    def __call__(self, x: jax.Array, guide: jax.Array) -> jax.Array:
        """Returns filtered features of the same shape as `x`, [B, H, W, C].

        Args:
            x: the decoder's features.
            guide: the encoder's features, of the same shape.
        """
        channels = x.shape[-1]
        types = self.types
        for i in range(3):
            guide = nn.relu(layers.Conv(channels, name=f"conv_{i}", **types)(guide))
        init = layers.uniform(channels**-0.5)
        features = _TAPS**2 * channels
        shape = (1, 1, channels, features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = self.param("bias", init, (features,), self.param_dtype)
        x, guide, kernel, bias = promote_dtype(x, guide, kernel, bias, dtype=self.dtype)

        reach = _TAPS // 2
        padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge")

        @jax.checkpoint  # the backward pass predicts the kernels once more
        def product(row, column, kernel, bias):
            weight = dense_conv(guide, kernel, 1, ((0, 0), (0, 0))) + bias
            view = jax.lax.dynamic_slice(padded, (0, row, column, 0), x.shape)
            return (view * weight).astype(jnp.float32)

        taps = (
            *map(jnp.asarray, np.divmod(np.arange(_TAPS**2), _TAPS)),
            # The order of the features is channel, row, column.
            jnp.moveaxis(kernel.reshape(1, 1, channels, channels, -1), -1, 0),
            bias.reshape(channels, -1).T,
        )
        total, _ = jax.lax.scan(
            lambda total, tap: (total + product(*tap), None),
            jnp.zeros_like(x, jnp.float32),
            taps,
        )
        return nn.leaky_relu(total, 0.2).astype(x.dtype)


def _torch_keys() -> dict[str, str]:
    keys = {"E_block1.0": "input", "E_block1.1": "input_prelu"}
    keys |= {"side_out": "side_head", "D_block0.1": "output"}
    residual = {"0": "conv1", "1": "prelu", "2": "conv2"}
    encoder = {f"body1.{key}": f"residual/{name}" for key, name in residual.items()}
    encoder |= {"body2.0": "conv", "body2.1": "prelu"}
    decoder = {
        f"body{i + 1}.{key}": f"residual_{i}/{name}"
        for i in range(2)
        for key, name in residual.items()
    }
    pyramid = {
        "features.{i}.1": "conv_{i}",
        "features.{i}.2": "prelu_{i}",
        "fuse.0": "fuse",
        "fuse.1": "prelu",
    }
    curve = {f"predict_a.{2 * i}": f"conv{i + 1}" for i in range(3)}
    kernels = {f"{2 * i}": f"conv_{i}" for i in range(3)}
    # The first convolution and the last one share a module with their level.
    encoders = {1: "E_block1.2", 2: "E_block2", 3: "E_block3"}
    decoders = {0: "D_block0.0", 1: "D_block1", 2: "D_block2", 3: "D_block3"}
    places = [("M_block{i}", "middle_{i}", encoder)]
    for i, official in encoders.items():
        places += [
            (official, f"encoder_{i}", encoder),
            (f"{official}.reshape_conv", f"down_{i}", blur_resize.TORCH_DOWN_KEYS),
            (f"PPM{i}", f"pyramid_{i}", pyramid),
            (f"conv_{i}c", f"curve_{i}", curve),
            (f"conv_fac_k{i}", f"filter_{i}", kernels),
        ]
        keys[f"conv_fac_k{i}.6"] = f"filter_{i}"
    for i, official in decoders.items():
        places += [
            (official, f"decoder_{i}", decoder),
            (f"{official}.reshape_conv", f"up_{i}", blur_resize.TORCH_UP_KEYS),
        ]
    return keys | {
        f"{official}.{key}": f"{ours}/{name}"
        for official, ours, parts in places
        for key, name in parts.items()
    }


TORCH_KEYS = _torch_keys()


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the widths of LEDNet from an official checkpoint.

    A checkpoint records neither `value_range` nor `skips`; both have their defaults.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the widths are neither given nor inferable.
    """
    if "widths" in given:
        return {}
    keys = ["E_block1.0.bias", *(f"conv_{i}c.predict_a.0.bias" for i in (1, 2, 3))]
    missing = [key for key in keys if key not in shapes]
    if missing:
        raise ValueError(
            f"The checkpoint has no {listed(missing)}, so LEDNet's widths cannot be "
            "inferred; give them as 'widths'."
        )
    return {"widths": tuple(shapes[key][0] for key in keys)}


CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 7_408_893,
            "inference_params": 7_405_434,
            "macs_256": 34_394_408_960,
        }
    },
    tiny={"widths": (4, 4, 4, 8)},
    torch=TorchKeys(TORCH_KEYS, infer_spec, unused=blur_resize.TORCH_UNUSED),
    verified="official code, random weights: 1e-5",
    # All means of a small grid may be positive.
    unused_parameters=("pyramid_*/prelu_*/slope",),
    training_only=("side_head/*",),
)


@register("lednet", CARD)
class LEDNet(Backbone, Layer):
    """LEDNet; the defaults are the published network.

    Wrappers split the model at the bottleneck: the features are
    [B, H / 8, W / 8, widths[3]].

    `Outputs.aux["side"]` [B, H / 8, W / 8, 3] is the side output in [0, 1], for a loss
    against the reduced target. Its head is used in training only.

    Source: Zhou et al., LEDNet, ECCV 2022, Section 4 and its figure of the network.
    Differs: the paper does not say where LFPV would go; this is the last feature map
    before the decoder. The authors' variant with a discriminator is not included.

    Attributes:
        widths: channels at full size, 1/2, 1/4 and 1/8; all but the first are multiples
            of 4.
        skips: whether the encoder's features are also added to the filtered ones.
        value_range: lowest and highest value of images inside the network. The
            authors' later weights use (-1, 1), the paper's first ones (0, 1).
        dtype: computation dtype. Means, filters and the image always use float32.
    """

    widths: tuple[int, ...] = (32, 64, 128, 128)
    skips: bool = False
    value_range: tuple[float, ...] = (-1.0, 1.0)

    multiple = 8
    pad_mode = "reflect"

    def setup(self):
        """Builds the submodules; raises ValueError if a field is invalid."""
        widths = self.widths
        if len(widths) != 4 or min(widths) < 1 or any(w % 4 for w in widths[1:]):
            raise ValueError(
                f"widths={widths}; use four numbers from 1, all but the first "
                "multiples of 4."
            )
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise ValueError(
                f"value_range={self.value_range}; give the lowest value, then the "
                "highest, such as (-1.0, 1.0)."
            )
        types = self.types
        levels = (1, 2, 3)

        def each(make, numbers):
            return {str(i): make(i) for i in numbers}

        self.input = layers.Conv(widths[0], **types)
        self.input_prelu = layers.PReLU(**types)
        self.encoder = each(lambda i: EncoderBlock(**types), levels)
        self.down = each(lambda i: blur_resize.Down(widths[i], **types), levels)
        self.pyramid = each(lambda i: PyramidPooling(**types), levels)
        self.curve = each(lambda i: CurveUnit(**types), levels)
        self.side_head = layers.Conv(3, **types)
        self.middle = each(lambda i: EncoderBlock(**types), (1, 2))
        self.decoder = each(lambda i: DecoderBlock(**types), (0, *levels))
        self.filter = each(lambda i: DynamicFilter(**types), levels)
        self.up = each(lambda i: blur_resize.Up(widths[i], **types), (0, 1, 2))
        self.output = layers.Conv(3, **types)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the bottleneck's features and those of the encoder, by level."""
        del target, train  # LEDNet computes the same in training
        self.check_image(image)
        low, high = self.value_range
        x = low + (high - low) * image.astype(jnp.float32)
        x = self.input_prelu(self.input(x.astype(self.dtype)))
        encoded = {}
        for i in ("1", "2", "3"):
            x = self.pyramid[i](self.down[i](self.encoder[i](x)))
            x = encoded[i] = self.curve[i](x)
        return self.middle["2"](self.middle["1"](x)), encoded

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        x = self.decoder["3"](features)
        for i in ("3", "2", "1"):
            x = self.filter[i](x, context[i])
            if self.skips:
                x = x + context[i]
            finer = str(int(i) - 1)
            x = self.decoder[finer](self.up[finer](x))
        return Outputs(
            self._to_unit(self.output(x)),
            {"side": self._to_unit(self.side_head(context["3"]))},
        )

    def _to_unit(self, image: jax.Array) -> jax.Array:
        low, high = self.value_range
        return (image.astype(jnp.float32) - low) / (high - low)
