"""MIRNet: streams at three scales that exchange their features in every block.

Source: Zamir et al., Learning Enriched Features for Real Image Restoration and
Enhancement, ECCV 2020.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.image import maximum
from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.nn import blur_resize, layers
from llie_jax.nn.layers import FvcoreCounted, Layer
from llie_jax.registry import register
from llie_jax.types import ModuleFactory, Outputs

_SCALES = 3

Activation = Callable[[jax.Array], jax.Array]
"""The PReLU that all attention units share."""


class GlobalMean(nn.Module, FvcoreCounted):
    """The mean over space, in float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, 1, 1, C] of `x` [B, H, W, C], in the dtype of `x`."""
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        return mean.astype(x.dtype)

    def fvcore_macs(self, x: jax.Array) -> int:
        """Returns fvcore's count for one call: one per element."""
        return x.size


class DualAttention(Layer):
    """Two convolutions, gated per pixel and per channel, added to the input (DAU).

    Source: MIRNet, Section 3.1, the dual attention unit.
    """

    @nn.compact
    def __call__(self, x: jax.Array, activation: Activation) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        types = self.types
        conv = functools.partial(layers.Conv, use_bias=False, **types)
        y = activation(conv(channels, name="conv1")(x))
        y = conv(channels, name="conv2")(y)

        pooled = jnp.concatenate(
            [
                maximum.largest(y, -1),
                jnp.mean(y, -1, keepdims=True, dtype=jnp.float32).astype(y.dtype),
            ],
            -1,
        )
        pixel_gate = nn.sigmoid(conv(1, (5, 5), name="pixel_gate")(pooled))

        mean = GlobalMean(name="mean")(y)
        hidden = nn.relu(conv(channels // 8, (1, 1), name="squeeze")(mean))
        channel_gate = nn.sigmoid(conv(channels, (1, 1), name="excite")(hidden))

        y = jnp.concatenate([y * pixel_gate, y * channel_gate], -1)
        return x + conv(channels, (1, 1), name="fuse")(y)


class SelectiveFusion(Layer):
    """Sum of features, weighted per channel by a softmax across the inputs (SKFF).

    Source: MIRNet, Section 3.1, selective kernel feature fusion.
    """

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Returns features [B, H, W, C] of inputs of that shape."""
        channels = inputs[0].shape[-1]
        types = self.types
        conv = functools.partial(
            layers.Conv, kernel_size=(1, 1), use_bias=False, **types
        )
        mean = GlobalMean(name="mean")(sum(inputs))
        hidden = conv(max(channels // 8, 4), name="squeeze")(mean)
        hidden = layers.PReLU(name="prelu", **types)(hidden)
        scores = jnp.stack(
            [conv(channels, name=f"score_{i}")(hidden) for i in range(len(inputs))]
        )
        weights = nn.softmax(scores.astype(jnp.float32), 0).astype(scores.dtype)
        return sum(x * weight for x, weight in zip(inputs, weights, strict=True))


class Rescale(Layer):
    """Halvings or doublings in sequence.

    Attributes:
        step: builds one of them, given its output channels.
        widths: output channels of each.
    """

    step: ModuleFactory
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H', W', widths[-1]] of `x` [B, H, W, C]."""
        for i, width in enumerate(self.widths):
            x = self.step(width, name=f"step_{i}", **self.types)(x)
        return x


class MultiScaleBlock(Layer):
    """Three streams at scales 1, 1/2 and 1/4 that exchange their features (MRB).

    Each scale has one attention unit, which runs before and after the exchange.

    Source: MIRNet, Section 3.1 and Fig. 1; the official code for what is shared.

    Attributes:
        width: channels at full size; each scale doubles them.
    """

    width: int

    def setup(self):
        """Builds the submodules, named by their input channels and factor."""
        types = self.types
        widths = tuple(2**i * self.width for i in range(_SCALES))
        down = functools.partial(Rescale, blur_resize.Down, **types)
        up = functools.partial(Rescale, blur_resize.Up, **types)
        pairs = [(i, j) for i in range(_SCALES) for j in range(i + 1, _SCALES)]
        self.attention = [DualAttention(**types) for _ in widths]
        self.fusion = [SelectiveFusion(**types) for _ in widths]
        self.down = {
            f"{widths[i]}_{2 ** (j - i)}": down(widths[i + 1 : j + 1]) for i, j in pairs
        }
        self.up = {
            f"{widths[j]}_{2 ** (j - i)}": up(widths[i:j][::-1]) for i, j in pairs
        }
        self.last_up = {str(j): up(widths[:j][::-1]) for j in range(1, _SCALES)}
        self.output = layers.Conv(self.width, use_bias=False, **types)

    def __call__(self, x: jax.Array, activation: Activation) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, width]."""
        rows = [self.attention[0](x, activation)]
        for attention in self.attention[1:]:
            halved = self._at_scale(rows[-1], len(rows) - 1, len(rows))
            rows.append(attention(halved, activation))
        fused = [
            fusion(*(self._at_scale(row, i, j) for i, row in enumerate(rows)))
            for j, fusion in enumerate(self.fusion)
        ]
        fine, *coarse = (
            attention(row, activation)
            for attention, row in zip(self.attention, fused, strict=True)
        )
        raised = [self.last_up[str(j)](row) for j, row in enumerate(coarse, start=1)]
        return x + self.output(self.fusion[0](fine, *raised))

    def _at_scale(self, x: jax.Array, i: int, j: int) -> jax.Array:
        """Returns the features of scale i at scale j."""
        if i == j:
            return x
        modules = self.down if i < j else self.up
        return modules[f"{x.shape[-1]}_{2 ** abs(i - j)}"](x)


class ResidualGroup(Layer):
    """Blocks and a convolution, added to their input (RRG).

    Source: MIRNet, Section 3 and Fig. 1.

    Attributes:
        width: channels.
        num_blocks: number of blocks.
    """

    width: int
    num_blocks: int

    def setup(self):
        """Builds the submodules, numbered through as in the authors' code."""
        blocks = [
            MultiScaleBlock(self.width, **self.types) for _ in range(self.num_blocks)
        ]
        self.body = [*blocks, layers.Conv(self.width, use_bias=False, **self.types)]

    def __call__(self, x: jax.Array, activation: Activation) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, width]."""
        y = x
        *blocks, conv = self.body
        for block in blocks:
            y = block(y, activation)
        return x + conv(y)


def _torch_keys() -> dict[str, str]:
    keys = {
        "conv_in": "input",
        "conv_out": "output",
        "body.{g}.body.{b}": "group_{g}/body_{b}",
        # All attention units share the first one's PReLU.
        "body.0.body.0.blocks.0.0.body.1": "activation",
        "body.{g}.body.{b}.blocks.{s}.{c}.body.1": "activation",
    }
    block, ours = "body.{g}.body.{b}", "group_{g}/body_{b}"
    keys[f"{block}.conv_out"] = f"{ours}/output"
    for column in (0, 1):  # both columns of a scale are the same module
        unit = f"{block}.blocks.{{s}}.{column}"
        for key, name in {
            "body.0": "conv1",
            "body.2": "conv2",
            "SA.spatial.conv": "pixel_gate",
            "CA.conv_du.0": "squeeze",
            "CA.conv_du.2": "excite",
            "conv1x1": "fuse",
        }.items():
            keys[f"{unit}.{key}"] = f"{ours}/attention_{{s}}/{name}"
    for key, name in {
        "conv_du.0": "squeeze",
        "conv_du.1": "prelu",
        "fcs.{i}": "score_{i}",
    }.items():
        keys[f"{block}.selective_kernel.{{s}}.{key}"] = f"{ours}/fusion_{{s}}/{name}"
    for place, parts in {
        "down.{c}_{f}": blur_resize.TORCH_DOWN_KEYS,
        "up.{c}_{f}": blur_resize.TORCH_UP_KEYS,
        "last_up.{s}": blur_resize.TORCH_UP_KEYS,
    }.items():
        for key, name in parts.items():
            path = f"{ours}/{place.replace('.', '_')}/step_{{i}}/{name}"
            keys[f"{block}.{place}.body.{{i}}.{key}"] = path
    return keys


TORCH_KEYS = _torch_keys()


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of MIRNet from an official checkpoint.

    Missing groups and blocks are assumed to be one, so that a checkpoint without them
    fails to load.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """

    def count(pattern):
        found = (re.match(pattern + r"\.(\d+)\.", key) for key in shapes)
        return max([1, *(1 + int(match[1]) for match in found if match)])

    fields = {
        "num_groups": count("body"),
        # The last entry of a group is its convolution.
        "num_blocks": max(1, count(r"body\.\d+\.body") - 1),
    }
    if "conv_in.weight" in shapes:
        fields["width"] = shapes["conv_in.weight"][0]
    elif "width" not in given:
        raise ValueError(
            "The checkpoint has no 'conv_in', so MIRNet's width cannot be inferred; "
            "give it as 'width'."
        )
    return fields


CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 31_787_419,
            "inference_params": 31_787_419,
            "macs_256": 479_945_527_296,
        }
    },
    tiny={"width": 8, "num_groups": 1, "num_blocks": 1},
    torch=TorchKeys(TORCH_KEYS, infer_spec, unused=blur_resize.TORCH_UNUSED),
    verified="official code, random weights: 5e-6",
    attention_layers=("*/attention_*",),
    # All hidden values of a small image may be positive.
    unused_parameters=("*/fusion_*/prelu/slope",),
)


@register("mirnet", CARD)
class MIRNet(Backbone, Layer):
    """MIRNet; the defaults are the published network.

    Wrappers split the model before its last convolution: the features are
    [B, H, W, width].

    Source: Zamir et al., MIRNet, ECCV 2020, Fig. 1 and Section 3.
    Differs: the paper does not say where LFPV would go; this is the last feature map
    before the convolution that predicts the image.

    Attributes:
        width: channels at full size, a multiple of 8.
        num_groups: number of residual groups.
        num_blocks: multi-scale blocks per group.
        dtype: computation dtype. Means, softmaxes and the final sum always use float32.
    """

    width: int = 64
    num_groups: int = 3
    num_blocks: int = 2

    multiple = 4
    feature_stride = 1
    pad_mode = "reflect"

    def setup(self):
        """Builds the submodules; raises ValueError if a field is invalid."""
        if self.width < 8 or self.width % 8:
            raise ValueError(
                f"width={self.width}; the attention has an eighth of the channels, use "
                "a multiple of 8."
            )
        if min(self.num_groups, self.num_blocks) < 1:
            raise ValueError(
                f"num_groups={self.num_groups} and num_blocks={self.num_blocks}; use "
                "at least 1."
            )
        types = self.types
        self.input = layers.Conv(self.width, use_bias=False, **types)
        self.activation = layers.PReLU(**types)
        self.group = [
            ResidualGroup(self.width, self.num_blocks, **types)
            for _ in range(self.num_groups)
        ]
        self.output = layers.Conv(3, use_bias=False, **types)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the features before the last convolution, and the image."""
        del target, train  # MIRNet computes the same in training
        self.check_image(image)
        x = self.input(image.astype(self.dtype))
        for group in self.group:
            x = group(x, self.activation)
        return x, image

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        del train
        change = self.output(features).astype(jnp.float32)
        return Outputs(context.astype(jnp.float32) + change)
