"""LYT-Net: denoises colour and brightens luminance apart, then joins both.

Source: Brateanu et al., LYT-NET: Lightweight YUV Transformer-based Network for
Low-light Image Enhancement, IEEE Signal Processing Letters 2025. The authors publish a
TensorFlow and a PyTorch version, which are different models; this is the latter.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from llie_jax.image.resize import nearest_upsample
from llie_jax.models.base import Backbone, ModelCard, TorchKeys
from llie_jax.nn import layers, norms
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

_POOL = 8
"""The image's size over that of the map whose pixels attend to each other."""

_YUV = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.14713, -0.28886, 0.436],
        [0.615, -0.51499, -0.10001],
    ],
    np.float32,
)
_YUV_OFFSET = np.array([0, 0.5, 0.5], np.float32)

_he_uniform = nn.initializers.he_uniform()
_zeros = nn.initializers.zeros


def rgb_to_yuv(image: jax.Array) -> jax.Array:
    """Returns luminance and two colour differences around 0.5, [B, H, W, 3], float32.

    Source: LYT-Net; weights and offset are those of the official code.

    Args:
        image: RGB [B, H, W, 3] in [0, 1].
    """
    # Sums, not a product: a matrix of 3 x 3 is slow, and rounded on some devices.
    red, green, blue = jnp.split(image.astype(jnp.float32), 3, axis=-1)
    weights = _YUV.T
    return red * weights[0] + green * weights[1] + blue * weights[2] + _YUV_OFFSET


class Attention(Layer):
    """Attention between all tokens of a feature map.

    A token consists of neighbouring pixels of one channel, not of the channels of one
    pixel: the official code reshapes [B, C, h, w] to [B, h * w, C] without transposing
    it. The result is read the other way, as the channels of one pixel. The published
    weights were trained with that.

    Source: LYT-Net, multi-headed self-attention; the official code for the tokens.

    Attributes:
        num_heads: number of heads.
    """

    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, h, w, C].

        Raises:
            ValueError: if `num_heads` does not divide C.
        """
        batch, height, width, channels = x.shape
        if channels % self.num_heads:
            raise ValueError(
                f"{channels} channels do not divide into num_heads={self.num_heads}; "
                "use a divisor."
            )
        head_width = channels // self.num_heads
        tokens = x.transpose(0, 3, 1, 2).reshape(batch, height * width, channels)

        def linear(name):
            init = nn.initializers.xavier_uniform()
            return nn.Dense(channels, kernel_init=init, name=name, **self.types)

        def heads(name):
            y = linear(name)(tokens)
            y = y.reshape(batch, height * width, self.num_heads, head_width)
            return y.transpose(2, 0, 1, 3)  # [heads, B, tokens, head_width]

        def attend(head):
            query, key, value = head
            scores = jnp.einsum(
                "bnc,bmc->bnm",
                query * head_width**-0.5,
                key,
                preferred_element_type=jnp.float32,
            )
            return jnp.einsum("bnm,bmc->bnc", nn.softmax(scores).astype(x.dtype), value)

        # One head at a time: of a photo, the scores of one head fill a gigabyte.
        y = jax.lax.map(
            attend, tuple(heads(name) for name in ("query", "key", "value"))
        )
        y = y.transpose(1, 2, 0, 3).reshape(batch, height, width, channels)
        return linear("project")(y)


class Denoiser(Layer):
    """U-shaped network with attention at its bottom, for one channel (CWD).

    Source: LYT-Net, channel-wise denoiser; the official code, which adds the last
    features to themselves.

    Attributes:
        width: number of channels inside.
        num_heads: heads of the attention.
    """

    width: int
    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns what to add to a channel [B, H, W, 1], of the same shape."""
        conv = functools.partial(
            layers.Conv, kernel_init=_he_uniform, bias_init=_zeros, **self.types
        )
        down = functools.partial(conv, self.width, strides=2)
        full = nn.relu(conv(self.width, name="embed")(x))
        half = nn.relu(down(name="down_1")(full))
        quarter = nn.relu(down(name="down_2")(half))
        eighth = nn.relu(down(name="down_3")(quarter))
        y = Attention(self.num_heads, name="attention", **self.types)(eighth)
        for skip in (quarter, half, full):
            y = nearest_upsample(y, 2) + skip
        y = conv(1, name="contract")(y)
        return jnp.tanh(conv(1, name="output")(y + y))


class Fusion(Layer):
    """Product of a local and a global gate, added to the features (MSEF).

    Source: LYT-Net, multi-stage squeeze and excite fusion; the official code.

    Attributes:
        reduction: channels over the hidden channels of the global gate.
    """

    reduction: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C].

        Raises:
            ValueError: if `reduction` does not divide C.
        """
        channels = x.shape[-1]
        if self.reduction < 1 or channels % self.reduction:
            raise ValueError(
                f"reduction={self.reduction} does not divide {channels} channels; use "
                "a divisor."
            )
        linear = functools.partial(
            nn.Dense, kernel_init=_he_uniform, bias_init=_zeros, **self.types
        )
        normal = norms.LayerNorm(epsilon=1e-5, name="norm", **self.types)(x)
        near = layers.DepthwiseConv(
            kernel_init=_he_uniform, bias_init=_zeros, name="depthwise", **self.types
        )(normal)
        mean = jnp.mean(normal, (1, 2), keepdims=True, dtype=jnp.float32)
        mean = mean.astype(self.dtype)
        hidden = nn.relu(linear(channels // self.reduction, name="squeeze")(mean))
        far = normal * jnp.tanh(linear(channels, name="excite")(hidden))
        return x + near * far


_TORCH_ATTENTION_KEYS = {
    "query_dense": "query",
    "key_dense": "key",
    "value_dense": "value",
    "combine_heads": "project",
}
_TORCH_DENOISER_KEYS = {
    "conv1": "embed",
    "conv2": "down_1",
    "conv3": "down_2",
    "conv4": "down_3",
    "res_layer": "contract",
    "output_layer": "output",
} | {f"bottleneck.{key}": f"attention/{x}" for key, x in _TORCH_ATTENTION_KEYS.items()}

TORCH_KEYS = (
    {
        "process_y.0": "embed_y",
        "process_cb.0": "embed_u",
        "process_cr.0": "embed_v",
        "lum_conv": "guide",
        "ref_conv": "join_colours",
        "msef.layer_norm.norm": "fusion/norm",
        "msef.depthwise_conv": "fusion/depthwise",
        "msef.se_attn.fc1": "fusion/squeeze",
        "msef.se_attn.fc2": "fusion/excite",
        "recombine": "recombine",
        "final_adjustments": "output",
    }
    | {f"lum_mhsa.{key}": f"attention/{x}" for key, x in _TORCH_ATTENTION_KEYS.items()}
    | {
        f"denoiser_{torch_channel}.{key}": f"denoise_{channel}/{name}"
        for torch_channel, channel in (("cb", "u"), ("cr", "v"))
        for key, name in _TORCH_DENOISER_KEYS.items()
    }
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of LYT-Net from an official checkpoint.

    The number of heads leaves no trace in a checkpoint: it is the paper's unless given.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width or the reduction cannot be inferred.
    """
    fields, key = {}, "msef.se_attn.fc1.weight"
    if key in shapes:
        hidden, width = shapes[key]
        fields = {"width": width, "reduction": width // hidden}
    for field in ("width", "reduction"):
        if field not in fields and field not in given:
            raise ValueError(
                f"The checkpoint has no {key!r}, so LYT-Net's {field} cannot be "
                f"inferred; give it as {field!r}."
            )
    return fields


def _published(
    file: str, sha256: str, trained_on: str, psnr: float, ssim: float, **facts
):
    return Pretrained(
        spec={"name": "lyt_net"},
        file=file,
        origin="https://github.com/albrateanu/LYT-Net",
        licence="MIT",
        trained_on=trained_on,
        score={"psnr": psnr, "ssim": ssim},
        protocol=(
            "official script: output scaled to the mean of the reference (GT-mean), "
            "unrounded; not comparable to plain PSNR"
        ),
        sha256=sha256,
        **facts,
    )


WEIGHTS = {
    "lol_v1": _published(
        "best_model_LOLv1.pth",
        "19c15bbe5e4d961d7c27f26998c90c39ef81759af027ba1aba9f32d6fe98462d",
        "LOL-v1",
        26.63,
        0.836,
        reference={"psnr": 21.607, "ssim": 0.8134},
        selected_on=("lol_v1",),  # the script keeps the best GT-mean PSNR on eval15
    ),
    "lol_v2_real": _published(
        "best_model_LOLv2R.pth",
        "9384375abc1e953c8fb174361a37d7f883762c315f0835974977cbed40c331d9",
        "LOL-v2 real",
        28.41,
        0.878,
    ),
    "lol_v2_syn": _published(
        "best_model_LOLv2S.pth",
        "dd46631d129f1b8ae4efac4e0668652e899648658600a0c82868c6647a8b9cc0",
        "LOL-v2 synthetic",
        26.72,
        0.928,
    ),
    "lol_v1_fork": Pretrained(
        spec={"name": "lyt_net"},
        file="best_model.pth",
        origin="https://github.com/TKgitmode/LYT-Net",
        licence="MIT",
        trained_on="LOL-v1, by the owner of a fork and not by the authors",
        score={},
        protocol="",
        sha256="e31335034d2ec7850ef628a049c0008fee25b3c99334d8d4fb6cfc19e3a627f8",
        reference={"psnr": 21.229, "ssim": 0.8153},
    ),
}

CARD = ModelCard(
    sizes={"paper": {}},
    costs={
        "paper": {
            "params": 44_923,
            "inference_params": 44_923,
            "macs_256": 1_819_934_848,
        }
    },
    tiny={"width": 8, "num_heads": 2, "reduction": 4},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified="official code, published weights: 5e-6",
    attention_layers=("*attention",),
    # The softmax does not change if the same is added to all scores of a token.
    unused_parameters=("*attention/key/bias",),
)


@register("lyt_net", CARD)
class LYTNet(Backbone, Layer):
    """LYT-Net; the defaults match all published weights.

    The image is split into luminance and two colour channels. The colour channels are
    denoised; the luminance attends to itself at an eighth of its size, then guides the
    colour features. Scores of the attention grow with the square of the pixels: 1000 x
    1000 pixels take 1 GB per head. Tiles need less, but each attends to itself only.

    Wrappers split the model before its last convolution: the features are
    [B, H, W, width].

    Source: Brateanu et al., LYT-NET, SPL 2025; the authors' PyTorch code.
    Differs: the model never pads or crops its input. The paper on LFPV does not say
    where LYT-Net would split.

    Attributes:
        width: channels; the denoisers have half as many.
        num_heads: heads of the three attentions.
        reduction: see `Fusion`.
        dtype: computation dtype. Colours, scores, means, norms and the sigmoid always
            use float32.
    """

    width: int = 32
    num_heads: int = 4
    reduction: int = 16

    multiple = _POOL
    feature_stride = 1
    pad_mode = "reflect"

    def setup(self):
        """Builds the submodules; raises ValueError if the width is not even."""
        if self.width < 2 or self.width % 2 or self.num_heads < 1:
            raise ValueError(
                f"width={self.width} and num_heads={self.num_heads}: the width must be "
                "even, since the denoisers have half of it, and both at least 1."
            )
        types = self.types
        embed = functools.partial(layers.Conv, self.width, **types)
        conv = functools.partial(
            layers.Conv, kernel_init=_he_uniform, bias_init=_zeros, **types
        )
        denoiser = functools.partial(Denoiser, self.width // 2, self.num_heads, **types)
        self.denoise_u = denoiser()
        self.denoise_v = denoiser()
        self.embed_y = embed()
        self.embed_u = embed()
        self.embed_v = embed()
        self.attention = Attention(self.num_heads, **types)
        self.join_colours = conv(self.width, (1, 1))
        self.guide = conv(self.width, (1, 1))
        self.fusion = Fusion(self.reduction, **types)
        self.recombine = conv(self.width)
        self.output = conv(3)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns features [B, H, W, width], and nothing else for `decode`."""
        del target, train  # computes the same in training
        self.check_image(image)
        y, u, v = jnp.split(rgb_to_yuv(image).astype(self.dtype), 3, axis=-1)
        u = u + self.denoise_u(u)
        v = v + self.denoise_v(v)

        luminance = nn.relu(self.embed_y(y))
        pooled = nn.max_pool(luminance, (_POOL, _POOL), strides=(_POOL, _POOL))
        luminance = luminance + nearest_upsample(self.attention(pooled), _POOL)

        colours = [nn.relu(self.embed_u(u)), nn.relu(self.embed_v(v))]
        colour = self.join_colours(jnp.concatenate(colours, axis=-1))
        colour = colour + self.fusion(colour + 0.2 * self.guide(luminance))
        return self.recombine(jnp.concatenate([colour, luminance], axis=-1)), ()

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs, with an image in (0, 1), for features from `encode`."""
        del context, train
        return Outputs(nn.sigmoid(self.output(features).astype(jnp.float32)))
