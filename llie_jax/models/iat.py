"""IAT: local maps that scale and shift each pixel, then one colour matrix and gamma.

Source: Cui et al., You Only Need 90K Parameters to Adapt Light: a Light Weight
Transformer for Image Enhancement and Exposure Correction, BMVC 2022.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.messages import listed
from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers, norms
from llie_jax.nn.layers import Layer
from llie_jax.nn.pixelwise import pixelwise
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

Weights = dict[str, jax.Array]

_EXPANSION = 4
"""Hidden channels of each feed-forward network over its input channels."""

_NUM_QUERIES = 10
"""One query for gamma, nine for the entries of the colour matrix."""

_SMALLEST = 1e-8
"""The least value before the exponent: the slope of a power is infinite at zero."""


def _by_fan_out(rng, shape, dtype):
    """Normal with variance 2 / fan_out; each channel of a depthwise kernel counts."""
    *window, inputs, features = shape
    depthwise = len(window) > 0 and inputs == 1
    fan_out = math.prod(window) * (1 if depthwise else features)
    return math.sqrt(2 / fan_out) * jax.random.normal(rng, shape, dtype)


def _identity(rng, shape, dtype):
    return jnp.eye(*shape, dtype=dtype)


_INIT = {"kernel_init": _by_fan_out, "bias_init": nn.initializers.zeros}


class ColourNorm(Layer):
    """The weights of `_mix_colours`, which stands where others have a layer norm.

    Source: the local branch; the official code for the order of matrix and scale.

    Attributes:
        channels: number of channels.
    """

    channels: int

    @nn.compact
    def __call__(self) -> Weights:
        """Returns the kernel [C, C], the scale [C] and the bias [C]."""
        square, row = (self.channels,) * 2, (self.channels,)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        weights = {
            "kernel": self.param("kernel", _identity, square, self.param_dtype),
            "scale": self.param("scale", ones, row, self.param_dtype),
            "bias": self.param("bias", zeros, row, self.param_dtype),
        }
        return _cast(weights, self.dtype)


class Linear(Layer):
    """The weights of a 1x1 convolution.

    Attributes:
        inputs: number of input channels.
        features: number of output channels.
    """

    inputs: int
    features: int

    @nn.compact
    def __call__(self) -> Weights:
        """Returns the kernel [inputs, features] and the bias [features]."""
        shape, zeros = (self.inputs, self.features), nn.initializers.zeros
        weights = {
            "kernel": self.param("kernel", _by_fan_out, shape, self.param_dtype),
            "bias": self.param("bias", zeros, shape[1:], self.param_dtype),
        }
        return _cast(weights, self.dtype)


def _cast(weights, dtype):
    return {name: value.astype(dtype) for name, value in weights.items()}


def _linear(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def _mix_colours(weights, x):
    """A matrix, then a scale and a bias per channel, and no statistics."""
    return x @ weights["kernel"] * weights["scale"] + weights["bias"]


def _before_mixing(weights, x):
    norm, linear = weights
    return _linear(linear, _mix_colours(norm, x))


def _after_mixing(weights, x):
    linear, scale = weights
    return _linear(linear, x) * scale


def _feed_forward(weights, x):
    norm, expand, contract, scale = weights
    y = layers.gelu(_linear(expand, _mix_colours(norm, x)))
    return _linear(contract, y) * scale


class StochasticDepth(nn.Module):
    """In training, drops whole samples of a residual and divides the others.

    Source: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016.

    Attributes:
        rate: the probability of dropping a sample.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns an array of the same shape as `x`, [B, H, W, C]."""
        if not train or not self.rate:
            return x
        keep = 1 - self.rate
        kept = jax.random.bernoulli(
            self.make_rng("dropout"), keep, (x.shape[0], 1, 1, 1)
        )
        return x * (kept / keep).astype(x.dtype)


class Block(Layer):
    """Position by a depthwise convolution, local mixing, a feed-forward network.

    Source: the local branch; the official code for its layers.

    Attributes:
        drop_rate: rate of the stochastic depth of both residuals.
    """

    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels, types = x.shape[-1], self.types
        hidden = _EXPANSION * channels
        depthwise = functools.partial(layers.DepthwiseConv, **_INIT, **types)
        drop = functools.partial(StochasticDepth(self.drop_rate), train=train)

        def norm(name):
            return ColourNorm(channels, name=name, **types)()

        def linear(name, inputs=channels, features=channels):
            return Linear(inputs, features, name=name, **types)()

        def scale(name):
            init = nn.initializers.constant(1e-4)
            scale = self.param(name, init, (channels,), self.param_dtype)
            return scale.astype(self.dtype)

        x = x.astype(self.dtype)
        x = x + depthwise(name="position")(x)
        weights = norm("mixing_norm"), linear("mixing_in")
        y = pixelwise(_before_mixing, weights, x)
        y = depthwise(kernel_size=(5, 5), name="mixing")(y)
        weights = linear("mixing_out"), scale("mixing_scale")
        x = x + drop(pixelwise(_after_mixing, weights, y))
        weights = (
            norm("feed_forward_norm"),
            linear("expand", features=hidden),
            linear("contract", inputs=hidden),
            scale("feed_forward_scale"),
        )
        return x + drop(pixelwise(_feed_forward, weights, x))


class Branch(Layer):
    """Blocks, and one skip round all of them.

    Source: the local branch; the skip is that of the published weights.

    Attributes:
        drop_rates: see `IAT`.
    """

    drop_rates: tuple[float, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        y = x
        for i, rate in enumerate(self.drop_rates):
            y = Block(rate, name=f"block_{i}", **self.types)(y, train=train)
        return x + y


class Attention(Layer):
    """Attention of learned queries, which are not projected, to tokens.

    Source: the global branch.

    Attributes:
        num_heads: number of heads.
    """

    num_heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns one token per query, [B, Q, C], of tokens [B, N, C]."""
        batch, count, channels = tokens.shape
        heads = (self.num_heads, channels // self.num_heads)
        query = self.param(
            "query", nn.initializers.ones, (_NUM_QUERIES, channels), self.param_dtype
        )
        linear = functools.partial(nn.Dense, channels, use_bias=False, **self.types)
        key = linear(kernel_init=nn.initializers.normal(0.02), name="key")(tokens)
        value = linear(kernel_init=nn.initializers.zeros, name="value")(tokens)
        scores = jnp.einsum(
            "qhc,bnhc->bhqn",
            query.astype(key.dtype).reshape(-1, *heads) * heads[1] ** -0.5,
            key.reshape(batch, count, *heads),
            preferred_element_type=jnp.float32,
        )
        weights = nn.softmax(scores).astype(value.dtype)
        y = jnp.einsum("bhqn,bnhc->bqhc", weights, value.reshape(batch, count, *heads))
        return _dense(channels, "project", self.types)(y.reshape(batch, -1, channels))


class GlobalNet(Layer):
    """Estimates the exponent and the colour matrix of each image.

    The tokens of the queries replace those of the image: the attention has no residual.

    Source: the global branch; the official code for its layers.

    Attributes:
        width: channels of the tokens.
        num_heads: heads of the attention.
        axis_name: see `IAT`.
    """

    width: int
    num_heads: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, image: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Returns exponents [B] and matrices [B, 3, 3], float32, of [B, H, W, 3].

        Row c of a matrix holds the weights of the input channels in channel c.
        """
        types, dtype = self.types, self.param_dtype
        batch, width = image.shape[0], self.width
        x = image
        for i, features in enumerate((width // 2, width)):
            x = layers.Conv(features, strides=2, name=f"down_{i}", **types)(x)
            norm = norms.BatchNorm(self.axis_name, name=f"down_norm_{i}", **types)
            x = norm(x, train=train)
            x = x if i else layers.gelu(x)
        x = x + layers.DepthwiseConv(name="position", **types)(x)

        norm = functools.partial(norms.CountedLayerNorm, epsilon=1e-5, **types)
        tokens = norm(name="attention_norm")(x.reshape(batch, -1, width))
        tokens = Attention(self.num_heads, name="attention", **types)(tokens)
        y = norm(name="feed_forward_norm")(tokens)
        y = layers.gelu(_dense(_EXPANSION * width, "expand", types)(y))
        tokens = tokens + _dense(width, "contract", types)(y)

        gamma_base = self.param("gamma_base", nn.initializers.ones, (1,), dtype)
        colour_base = self.param("colour_base", _identity, (3, 3), dtype)
        gamma = _dense(1, "gamma", types)(tokens[:, :1]).astype(jnp.float32)
        colour = _dense(1, "colour", types)(tokens[:, 1:]).astype(jnp.float32)
        return (
            gamma.reshape(batch) + gamma_base.astype(jnp.float32),
            colour.reshape(batch, 3, 3) + colour_base.astype(jnp.float32),
        )


def _dense(features, name, types):
    init = nn.initializers.normal(0.02)
    return nn.Dense(features, kernel_init=init, name=name, **types)


_TORCH_BLOCK_KEYS = {
    "pos_embed": "position",
    "norm1.color": "mixing_norm/kernel",
    "norm1.alpha": "mixing_norm/scale",
    "norm1.beta": "mixing_norm/bias",
    "conv1": "mixing_in",
    "attn": "mixing",
    "conv2": "mixing_out",
    "gamma_1": "mixing_scale",
    "norm2.color": "feed_forward_norm/kernel",
    "norm2.alpha": "feed_forward_norm/scale",
    "norm2.beta": "feed_forward_norm/bias",
    "mlp.fc1": "expand",
    "mlp.fc2": "contract",
    "gamma_2": "feed_forward_scale",
}

TORCH_KEYS = (
    {
        "local_net.conv1": "stem",
        "local_net.mul_end.0": "mul_head",
        "local_net.add_end.0": "add_head",
    }
    | {
        f"local_net.{branch}_blocks.{{b}}.{key}": f"{branch}/block_{{b}}/{name}"
        for branch in ("mul", "add")
        for key, name in _TORCH_BLOCK_KEYS.items()
    }
    | {
        f"global_net.{key}": f"global_net/{name}"
        for key, name in {
            "conv_large.proj.0": "down_0",
            "conv_large.proj.1": "down_norm_0",
            "conv_large.proj.3": "down_1",
            "conv_large.proj.4": "down_norm_1",
            "generator.pos_embed": "position",
            "generator.norm1": "attention_norm",
            "generator.attn.q": "attention/query",
            "generator.attn.k": "attention/key",
            "generator.attn.v": "attention/value",
            "generator.attn.proj": "attention/project",
            "generator.norm2": "feed_forward_norm",
            "generator.mlp.fc1": "expand",
            "generator.mlp.fc2": "contract",
            "gamma_linear": "gamma",
            "gamma_base": "gamma_base",
            "color_linear": "colour",
            "color_base": "colour_base",
        }.items()
    }
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of IAT from an official checkpoint.

    A checkpoint does not record the number of heads and the rates of the stochastic
    depth: the paper's are assumed, or no stochastic depth if the number of blocks is
    not the paper's.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if a width cannot be inferred.
    """
    keys = {
        "width": "local_net.conv1.weight",
        "global_width": "global_net.conv_large.proj.3.weight",
    }
    unseen = [k for k, key in keys.items() if key not in shapes and k not in given]
    if unseen:
        raise ValueError(
            f"The checkpoint has no {listed(keys[k] for k in unseen)}, so IAT's "
            f"{listed(unseen)} cannot be inferred; give them."
        )
    fields = {k: shapes[key][0] for k, key in keys.items() if key in shapes}
    found = (re.match(r"local_net\.mul_blocks\.(\d+)\.", key) for key in shapes)
    blocks = max([1, *(1 + int(match[1]) for match in found if match)])
    if blocks != len(IAT.drop_rates):
        fields["drop_rates"] = (0.0,) * blocks
    return fields


def _published(file, sha256, trained_on, score, protocol, **facts):
    return Pretrained(
        spec={"name": "iat"},
        file=file,
        origin="https://github.com/cuiziteng/Illumination-Adaptive-Transformer",
        licence="Apache-2.0",
        trained_on=trained_on,
        score=score,
        protocol=protocol,
        sha256=sha256,
        **facts,
    )


WEIGHTS = {
    "lol_v1": _published(
        "best_Epoch_lol_v1.pth",
        "6fb32236152283d3f3633ea1b79601c7e819efbf9d87d6b4767e1db0f1f3435b",
        "LOL-v1",
        {"psnr": 23.38, "ssim": 0.809},
        "output not rounded, PSNR over all channels",
        reference={"psnr": 23.381, "ssim": 0.8081},
        selected_on=("lol_v1",),  # the script keeps the best SSIM on eval15
    ),
    "lol_v2_real": _published(
        "best_Epoch_lol.pth",
        "9564b7e10882e688ac817ae6fd164544d05b9f74232de56c33ed7f9dabf7bdc4",
        "LOL-v2 real",
        {"psnr": 23.50, "ssim": 0.824},
        "as printed; not checked",
    ),
    "exposure": _published(
        "best_Epoch_exposure.pth",
        "15a9494582f028bef996d4af7145860eaa5d67799d2b0625ed93ff8c546ea3ee",
        "Afifi's exposure set",
        {},
        "the authors print 19.6 to 21.3 dB for the experts a to e",
    ),
}

CARD = ModelCard(
    internal=("axis_name",),
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 91_154,
            "inference_params": 91_154,
            "macs_256": 1_638_572_672,
        }
    },
    tiny={"width": 4, "global_width": 8, "num_heads": 2, "drop_rates": (0.0,)},
    padding=False,
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code and LOL-v1 weights: 5e-6; its score on eval15",
    attention_layers=("global_net/attention",),
    unused_parameters=(
        # A batch norm subtracts them.
        "global_net/down_?/bias",
        # An image of up to 4 x 4 pixels has one token, which takes all attention, and
        # its batch norm has no variance.
        "global_net/down_?/kernel",
        "global_net/down_norm_?/*",
        "global_net/attention/query",
        "global_net/attention/key/*",
    ),
)


@register("iat", CARD)
class IAT(Backbone, Layer):
    """IAT; the defaults match all published weights.

    The output is clip(C (image * mul + add)) ** gamma: the maps `mul` and `add` are
    local, the matrix C and the exponent gamma are global. Both maps are in
    `Outputs.aux`.

    Wrappers split the model before the convolutions that predict the maps: the features
    of both branches are concatenated, [B, H, W, 2 * width]. The global network runs in
    `encode`.

    Source: Cui et al., BMVC 2022; the official code for its layers and initialisation.
    Differs: LFPV's paper does not say where IAT would split; this is the last feature
    map before the heads.

    Attributes:
        width: channels of the local network.
        global_width: channels of the global network, even.
        num_heads: heads of its attention, which divide `global_width`.
        drop_rates: stochastic depth of each block of a branch, in training. There are
            as many blocks as rates.
        dtype: computation dtype. Images, statistics, scores, exponents and colour
            matrices always use float32.
        axis_name: mesh axis over which a training step is mapped.
    """

    width: int = 16
    global_width: int = 64
    num_heads: int = 4
    drop_rates: tuple[float, ...] = (0.01, 0.05, 0.1)
    axis_name: str | None = None

    multiple = 1
    pad_mode = "reflect"

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "IAT":
        """Returns the model for a step that is mapped over a mesh axis."""
        return self.clone(axis_name=axis_name)

    def setup(self):
        """Builds the submodules; raises ValueError if a field is invalid."""
        self._check_fields()
        types = self.types
        conv = functools.partial(layers.Conv, **_INIT, **types)
        self.stem = conv(self.width)
        self.mul = Branch(self.drop_rates, **types)
        self.add = Branch(self.drop_rates, **types)
        self.mul_head = conv(3)
        self.add_head = conv(3)
        self.global_net = GlobalNet(
            self.global_width, self.num_heads, self.axis_name, **types
        )

    def _check_fields(self):
        check_at_least_one(self, "width")
        heads = self.num_heads
        if heads < 1 or self.global_width < 2 or self.global_width % math.lcm(2, heads):
            raise ValueError(
                f"global_width={self.global_width} and num_heads={heads}; use an even "
                "width that the heads divide."
            )
        if not all(0 <= rate < 1 for rate in self.drop_rates):
            raise ValueError(
                f"drop_rates={self.drop_rates}; use rates from 0 to below 1."
            )

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the features before the heads and the rest; see `Backbone`."""
        del target
        self.check_image(image)
        image = image.astype(jnp.float32)
        gamma, colour = self.global_net(image, train=train)
        x = nn.leaky_relu(self.stem(image), 0.2)
        features = [branch(x, train=train) for branch in (self.mul, self.add)]
        context = {"image": image, "gamma": gamma, "colour": colour}
        return jnp.concatenate(features, -1), context

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for features and context as `encode` gives them."""
        del train
        mul, add = jnp.split(features, 2, -1)
        mul = nn.relu(self.mul_head(mul)).astype(jnp.float32)
        add = jnp.tanh(self.add_head(add)).astype(jnp.float32)
        y = context["image"] * mul + add
        # Accelerators would round the colours to bfloat16.
        y = jnp.einsum(
            "bhwd,bcd->bhwc", y, context["colour"], precision=jax.lax.Precision.HIGHEST
        )
        y = jnp.clip(y, _SMALLEST, 1.0) ** context["gamma"][:, None, None, None]
        return Outputs(y, aux={"mul": mul, "add": add})
