"""MobileIE: five small convolutions, trained as branches that fold into them.

Source: Yan et al., MobileIE: An Extremely Lightweight and Effective ConvNet for
Real-Time Image Enhancement on Mobile Devices, ICCV 2025.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from llie_jax.image import maximum
from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers, norms
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

BRANCHES = {
    5: ((5, 5), (1, 1), (3, 3), (3, 1), (1, 3)),
    3: ((3, 3), (1, 1), (3, 1), (1, 3)),
    1: ((1, 1),),
}
"""Kernel sizes of the branches that stand for a convolution, in their order."""

_EPSILON = 1e-5
"""What `norms.BatchNorm` adds to the variance."""


class MultiBranchConv(Layer):
    """A convolution made of branches, each with and without a norm (MBRConv).

    A 1x1 convolution mixes the branches. Outside training all of this is linear, and
    `fold` returns the convolution that it equals, at the borders too.

    Source: MobileIE, its re-parameterisation; the official code for the branches.

    Attributes:
        features: number of output channels.
        kernel_size: rows and columns of the convolution, a key of `BRANCHES`.
        expansion: channels of each branch over output channels.
        axis_name: see `norms.BatchNorm`.
    """

    features: int
    kernel_size: int
    expansion: int = 4
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C].

        Args:
            x: the features.
            train: whether the norms use the statistics of this batch.
        """
        types = self.types
        width = self.expansion * self.features
        plain, normed = [], []
        for rows, columns in BRANCHES[self.kernel_size]:
            name = f"{rows}x{columns}"
            y = layers.Conv(width, (rows, columns), name=f"conv_{name}", **types)(x)
            norm = norms.BatchNorm(self.axis_name, name=f"norm_{name}", **types)
            plain.append(y)
            normed.append(norm(y, train=train))
        mix = layers.JointConv(self.features, (1, 1), name="mix", **types)
        return mix(*plain, *normed)

    @staticmethod
    def fold(
        params: Mapping[str, Any], statistics: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        """Returns the kernel and the bias of the convolution that the branches equal.

        Args:
            params: the parameters of the module.
            statistics: the running statistics of its norms.
        """
        dtype = params["mix"]["kernel"].dtype
        # In float64: published weights differ by orders of magnitude.
        params, statistics = jax.tree.map(
            lambda x: np.asarray(x, np.float64), (dict(params), dict(statistics))
        )
        size = max(len(tree["kernel"]) for tree in params.values() if "kernel" in tree)
        names = [f"{rows}x{columns}" for rows, columns in BRANCHES[size]]
        kernels, biases = [], []
        for name in names:
            kernel, bias = (params[f"conv_{name}"][key] for key in ("kernel", "bias"))
            margins = [((size - side) // 2,) * 2 for side in kernel.shape[:2]]
            kernels.append(np.pad(kernel, [*margins, (0, 0), (0, 0)]))
            biases.append(bias)
        for i, name in enumerate(names):
            norm, running = params[f"norm_{name}"], statistics[f"norm_{name}"]
            factor = norm["scale"] / np.sqrt(running["var"] + _EPSILON)
            kernels.append(kernels[i] * factor)
            biases.append((biases[i] - running["mean"]) * factor + norm["bias"])
        mix, bias = params["mix"]["kernel"][0, 0], params["mix"]["bias"]
        return {
            "kernel": jnp.asarray(np.concatenate(kernels, -1) @ mix, dtype),
            "bias": jnp.asarray(np.concatenate(biases) @ mix + bias, dtype),
        }


class FoldedConv(layers.Conv):
    """The convolution that `MultiBranchConv.fold` gives, called in the same way."""

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns features [B, H, W, features] of `x` [B, H, W, C]."""
        del train
        return super().__call__(x)


class FeatureSelfTransform(Layer):
    """Squares features, with a learned factor and bias (FST).

    Source: MobileIE, feature self-transform; the official code has two factors, which
    start from a normal distribution as the bias does.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        weight1, weight2, bias = (
            self.param(name, nn.initializers.normal(1.0), shape, self.param_dtype)
            for name, shape in (
                ("weight1", ()),
                ("weight2", ()),
                ("bias", x.shape[-1:]),
            )
        )
        weight1, weight2, bias = (
            leaf.astype(x.dtype) for leaf in (weight1, weight2, bias)
        )
        return (weight1 * x) * (weight2 * x) + bias


def drop_blocks(
    rng: jax.Array, image: jax.Array, *, rate: float = 0.5, size: int = 3
) -> jax.Array:
    """Returns images with random squares set to zero, [B, H, W, C].

    Source: Ghiasi et al., DropBlock, NeurIPS 2018.
    Differs: from that paper, as in MobileIE's code: what remains is not scaled up, and
    squares may cross the border.

    Args:
        rng: random key.
        image: [B, H, W, C]; all channels of a pixel are dropped together.
        rate: expected number of squares over the number that would tile the image.
        size: rows and columns of a square, odd.
    """
    seeds = jax.random.bernoulli(rng, rate / size**2, (*image.shape[:3], 1))
    dropped = nn.max_pool(seeds.astype(image.dtype), (size, size), padding="SAME")
    return image * (1 - dropped)


_CONVS = {
    "head.block1.0": ("head_1", 5),
    "head.block1.2": ("head_2", 3),
    "body.block1": ("body", 3),
    "att.1": ("channel_attention", 1),
    "att1.0": ("spatial_attention", 1),
    "tail": ("tail", 3),
    "tail_warm": ("warm_tail", 3),
}
"""Official name of each convolution, our name and its size."""

_TORCH_BRANCHES = {
    (1, 1): "conv1",
    (3, 3): "conv2",
    (3, 1): "conv_crossh",
    (1, 3): "conv_crossv",
}
"""Official names of the branches but the first, which is `conv`."""


def _torch_keys() -> dict[str, str]:
    """Returns the key patterns of both forms; no name is in both."""
    keys = {
        "head.block1.1": "head_slope",
        **{
            f"{part}.{name}": f"{part}_transform/{name}"
            for part in ("head", "body")
            for name in ("weight1", "weight2", "bias")
        },
    }
    for torch_conv, (conv, size) in _CONVS.items():
        keys[torch_conv] = conv
        keys[f"{torch_conv}.conv_out"] = f"{conv}/mix"
        first, *others = BRANCHES[size]
        branches = {first: "conv", **{each: _TORCH_BRANCHES[each] for each in others}}
        for (rows, columns), branch in branches.items():
            name = f"{rows}x{columns}"
            keys[f"{torch_conv}.{branch}"] = f"{conv}/conv_{name}"
            keys[f"{torch_conv}.{branch}_bn.0"] = f"{conv}/norm_{name}"
    return keys


TORCH_KEYS = _torch_keys()


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of MobileIE from an official checkpoint of either form.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """
    if "body.block1.weight" in shapes:
        return {"width": shapes["body.block1.weight"][0], "branches": False}
    branches = "body.block1.conv.weight", "body.block1.conv_out.weight"
    if all(key in shapes for key in branches):
        inner, width = (shapes[key][0] for key in branches)
        return {"width": width, "expansion": inner // width, "branches": True}
    if "width" not in given:
        raise ValueError(
            "The checkpoint has no 'body.block1', so MobileIE's width cannot be "
            "inferred; give it as 'width'."
        )
    return {}


def _published(
    file: str, trained_on: str, sha256: str, *, selected_on=(), **reference
) -> Pretrained:
    return Pretrained(
        spec={"name": "mobileie", "branches": False},
        file=file,
        origin="https://github.com/ndbao2002/MobileIE (pretrain/)",
        licence="Apache-2.0",
        trained_on=trained_on,
        score={},
        protocol="",
        sha256=sha256,
        reference=reference,
        selected_on=selected_on,
    )


WEIGHTS = {
    "lol_v1": _published(
        "lolv1_best_slim.pkl",
        "LOL-v1",
        "d40a930fbc0435f47ce08dda17b1c630b86a501be9423b8f48dab14722fb5548",
        psnr=23.633,
        ssim=0.8119,
        selected_on=("lol_v1",),  # the script keeps the best PSNR on eval15
    ),
    "lol_v2_real": _published(
        "lolv2_real_best_slim.pkl",
        "LOL-v2 real",
        "477b0391a367bc174258ad5cdc5fefa3b96e483f10e2118210870fad86fcb27c",
        psnr=23.255,
        ssim=0.8090,
    ),
}

CARD = ModelCard(
    internal=("axis_name",),
    sizes={"paper": {}, "folded": {"branches": False}},
    costs={
        "paper": {
            "params": 49_978,
            "inference_params": 47_239,
            "macs_256": 2_824_865_472,
        },
        "folded": {"params": 4_075, "inference_params": 4_075, "macs_256": 250_871_952},
    },
    tiny={"width": 4, "expansion": 1},
    torch=TorchKeys(TORCH_KEYS, infer_spec),
    weights=WEIGHTS,
    verified=(
        "official code, its LOL-v1 weights: 3e-5; random weights, folded or not: 5e-6. "
        "Colours invert on bright photos"
    ),
    unused_parameters=(
        "warm_tail/*",  # only the warm-up has it
        "channel_attention/norm_1x1/scale",  # one image alone is its own mean
    ),
    training_only=("warm_tail/*",),
)


@register("mobileie", CARD)
class MobileIE(Backbone, Layer):
    """MobileIE, in the form with branches, which trains, or folded.

    Published weights are folded. They were trained on dark images alone and break on
    bright ones: their output leaves [0, 1] by far and colours invert (cyan flames,
    green skies). Do not use them on photos of unknown exposure.

    Wrappers split the model before its last convolution: the features are
    [B, H, W, width].

    Source: MobileIE, Fig. 2 and Section 3; the official code for the layers. Its
    incremental optimisation of weights (IWO) is not here.
    Differs: the paper does not say where LFPV splits it; the last features before the
    image are the only ones that everything else has shaped.

    Attributes:
        width: channels of all features.
        expansion: channels of each branch over output channels.
        branches: False builds the folded form, see `fold`; it cannot be trained.
        warm_up: True trains as the warm-up does: on images with dropped blocks, without
            attention, and with a second tail that restores the input,
            `aux["reconstruction"]`. Changes nothing outside training.
        axis_name: mesh axis over which a training step is mapped.
    """

    width: int = 12
    expansion: int = 4
    branches: bool = True
    warm_up: bool = False
    axis_name: str | None = None

    multiple = 1
    pad_mode = "reflect"

    @property
    def untrainable(self) -> str:
        """Why the folded form cannot be trained."""
        if self.branches:
            return ""
        return (
            "this MobileIE is folded, without the branches that training needs. Train "
            "the form with branches (branches=true), then fold its run: `llie-jax "
            "convert RUN OUT.safetensors --fold`."
        )

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "MobileIE":
        """Returns the model for a step that is mapped over a mesh axis."""
        return self.clone(axis_name=axis_name)

    @nn.nowrap
    def fold(self, variables: Mapping[str, Any]) -> tuple["MobileIE", dict[str, Any]]:
        """Merges the branches into single convolutions, see `Model.fold`.

        The tail of the warm-up is dropped.

        Raises:
            ValueError: if the model is folded already.
        """
        if not self.branches:
            raise ValueError("This MobileIE is folded already.")
        params, statistics = variables["params"], variables[norms.STATISTICS]
        folded = {
            name: MultiBranchConv.fold(tree, statistics[name])
            if name in statistics
            else tree
            for name, tree in params.items()
            if name != "warm_tail"
        }
        return self.clone(branches=False, warm_up=False), {"params": folded}

    def setup(self):
        """Builds the layers."""
        _check(self)
        types = self.types

        def conv(features, size):
            if not self.branches:
                return FoldedConv(features, (size, size), **types)
            return MultiBranchConv(
                features, size, self.expansion, self.axis_name, **types
            )

        self.head_1, self.head_2 = conv(self.width, 5), conv(self.width, 3)
        self.head_slope = layers.PReLU(per_channel=True, **types)
        self.head_transform = FeatureSelfTransform(**types)
        self.body = conv(self.width, 3)
        self.body_transform = FeatureSelfTransform(**types)
        self.channel_attention = conv(self.width, 1)
        self.spatial_attention = conv(self.width, 1)
        self.tail = conv(3, 3)
        if self.branches:
            self.warm_tail = conv(3, 3)

    def encode(self, image: jax.Array, *, target=None, train: bool = False):
        """Returns the features before the last convolution, [B, H, W, width].

        In a warm-up, draws from the stream `dropout`.

        Raises:
            ValueError: if the image has the wrong shape, or a folded model trains.
        """
        del target  # computes the same without
        self.check_image(image)
        if train and self.untrainable:
            raise ValueError(f"Cannot train: {self.untrainable}")
        warming = train and self.warm_up
        x = image.astype(self.dtype)
        if warming:
            x = drop_blocks(self.make_rng("dropout"), x)
        x = self.head_slope(self.head_1(x, train=train))
        x = self.head_transform(self.head_2(x, train=train))
        x = self.body_transform(self.body(x, train=train))
        return x if warming else self._attend(x, train), ()

    def _attend(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns features weighted by channel and by pixel (HDPA).

        The mean over all pixels weights the channels, and of each pixel's weighted
        channels the largest weights the pixel.
        """
        mean = jnp.mean(x, (1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        channels = nn.sigmoid(self.channel_attention(mean, train=train))
        largest = maximum.largest(channels * x, -1)
        pixels = nn.sigmoid(self.spatial_attention(largest, train=train))
        return channels * pixels * x

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for features and context as `encode` gives them."""
        del context
        image = self.tail(features, train=train).astype(jnp.float32)
        aux = {}
        if self.branches and (self.is_initializing() or (train and self.warm_up)):
            restored = self.warm_tail(features, train=train)
            aux["reconstruction"] = restored.astype(jnp.float32)
        return Outputs(image, aux)


def _check(model: MobileIE) -> None:
    """Raises ValueError if a field of the model is invalid."""
    check_at_least_one(model, "width", "expansion")
    if model.warm_up and not model.branches:
        raise ValueError("warm_up=True needs branches=True, as all training does.")
