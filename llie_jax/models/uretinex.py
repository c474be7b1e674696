"""URetinex-Net: an unfolded Retinex decomposition, then a new illumination.

Source: Wu et al., URetinex-Net: Retinex-based Deep Unfolding Network for Low-light
Image Enhancement, CVPR 2022.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from llie_jax.messages import listed
from llie_jax.models.base import Backbone, ModelCard, TorchKeys, check_at_least_one
from llie_jax.nn import layers
from llie_jax.nn.layers import Layer
from llie_jax.registry import register
from llie_jax.types import Outputs, Pretrained

_SLOPE = 0.2
_EPSILON = 1e-4
_GRAY = (0.2989, 0.5870, 0.1140)
_REFERENCE_GAMMA = 2.2
"""The illumination of a reference is learned from its brightest channel to 1 / this."""

_START = nn.initializers.constant(0.5)
"""Bias before a last ReLU: one that is off everywhere would never learn."""

PENALTIES = {"reflectance": (0.1, 0.05), "illumination": (0.5, 0.05)}
"""What the quadratic penalties start from, and what each round adds: gamma, lambda."""


class Decomposition(Layer):
    """Initial reflectance and illumination of an image.

    Source: the paper, Section 3.2, the initialisation module.

    Attributes:
        width: channels inside.
    """

    width: int

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns [B, H, W, 3] and [B, H, W, 1], float32, of an image [B, H, W, 3]."""
        x = image
        for i in range(3):
            x = layers.Conv(self.width, name=f"conv_{i}", **self.types)(x)
            x = nn.leaky_relu(x, _SLOPE)
        last = layers.Conv(4, bias_init=_START, name="conv_3", **self.types)
        x = nn.relu(last(x)).astype(jnp.float32)
        return x[..., :3], x[..., 3:]


class SqueezeExcite(Layer):
    """Scales each channel by a factor that depends on the means of all channels.

    Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.

    Attributes:
        reduction: channels over hidden channels.
    """

    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        dense = functools.partial(nn.Dense, use_bias=False, **self.types)
        mean = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        y = dense(max(1, channels // self.reduction), name="squeeze")(mean)
        y = dense(channels, name="excite")(nn.relu(y))
        return x * nn.sigmoid(y)[:, None, None].astype(x.dtype)


class Restoration(Layer):
    """Denoises a reflectance, guided by the illumination.

    Source: the paper, Section 3.3, the network of the reflectance.

    Attributes:
        width: channels of the features of each input; all further layers have twice as
            many.
    """

    width: int

    def setup(self):
        """Builds the layers."""
        conv = functools.partial(layers.Conv, **self.types)
        self.reflectance = conv(self.width)
        self.illumination = conv(self.width)
        self.attention = SqueezeExcite(**self.types)
        self.body = [conv(2 * self.width) for _ in range(5)]
        self.head = conv(3)

    def encode(self, reflectance: jax.Array, illumination: jax.Array) -> jax.Array:
        """Returns the features before the head, [B, H, W, 2 * width].

        Args:
            reflectance: [B, H, W, 3].
            illumination: [B, H, W, 1].
        """
        x = [self.reflectance(reflectance), self.illumination(illumination)]
        x = self.attention(nn.relu(jnp.concatenate(x, axis=-1)))
        for conv in self.body:
            x = nn.relu(conv(x))
        return x

    def decode(self, features: jax.Array, reflectance: jax.Array) -> jax.Array:
        """Returns the new reflectance for features from `encode`, float32."""
        return reflectance + self.head(features).astype(jnp.float32)

    def __call__(self, reflectance: jax.Array, illumination: jax.Array) -> jax.Array:
        """Returns the new reflectance, float32 [B, H, W, 3]; see `encode`."""
        return self.decode(self.encode(reflectance, illumination), reflectance)


class IlluminationNet(Layer):
    """Convolutions from one map or two to an illumination.

    Source: the paper, Sections 3.3 and 3.4; the sizes of the kernels are from the
    authors' code.

    Attributes:
        width: channels inside.
        num_hidden: number of 5x5 convolutions before the last one.
        last_kernel: side of the kernel of the last one.
    """

    width: int
    num_hidden: int
    last_kernel: int

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Returns an illumination, float32 [B, H, W, 1], of maps [B, H, W, C]."""
        x, types = maps, self.types
        for i in range(self.num_hidden):
            x = layers.Conv(self.width, (5, 5), name=f"conv_{i}", **types)(x)
            x = nn.leaky_relu(x, _SLOPE)
        last = layers.Conv(
            1,
            (self.last_kernel, self.last_kernel),
            bias_init=_START,
            name=f"conv_{self.num_hidden}",
            **types,
        )
        return nn.relu(last(x)).astype(jnp.float32)


_TORCH_RESTORATION = {
    "conv1": "reflectance",
    "conv2": "illumination",
    "se_layer.fc.0": "attention/squeeze",
    "se_layer.fc.2": "attention/excite",
    **{f"conv{i + 3}": f"body_{i}" for i in range(5)},
    "conv8": "head",
}

TORCH_KEYS = (
    {
        f"{part}.decom.{2 * i}": f"{name}/conv_{i}"
        for part, name in (("decom", "decomposition"), ("decom_high", "reference"))
        for i in range(4)
    }
    | {
        f"restore.{key}": f"restoration/{name}"
        for key, name in _TORCH_RESTORATION.items()
    }
    | {f"illum.conv{i + 1}": f"illumination/conv_{i}" for i in range(5)}
    | {f"adjust.conv{i + 1}": f"adjustment/conv_{i}" for i in range(4)}
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of URetinex-Net from the joined parts of a checkpoint.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the width cannot be inferred.
    """
    fields = {"reference_ratio": any(key.startswith("decom_high.") for key in shapes)}
    key = "decom.decom.0.weight"
    if key in shapes:
        fields["width"] = shapes[key][0]
    elif "width" not in given:
        raise ValueError(
            f"The checkpoint has no {key!r}, so URetinex-Net's width cannot be "
            "inferred; give it as 'width'."
        )
    return fields


_FILES = {
    "init_low.pth": {"model_R.": "decom."},
    "unfolding.pth": {"model_R.": "restore.", "model_L.": "illum."},
    "L_adjust.pth": {"model_A.": "adjust."},
    "init_high.pth": {"model_R.": "decom_high."},
}
"""The official files: prefixes of their keys -> the prefixes of the joined ones."""

_OPTIONAL = "init_high.pth"
_SHA256 = {
    "init_low.pth": "00a8d28ecaff67a79e045b3324bfab57d8ef18236a96a94aa9bcecccbb1f7e2d",
    "init_high.pth": "7d11c3269a7db61301700c2d425788ea970b9a1418c9d4b376b624ce0eed36ba",
    "unfolding.pth": "65ec556a3bd673cc4571bdd937ad38e44a56cbb011b81ad933b7d6ebeb6d55b5",
    "L_adjust.pth": "6caba8b00e32758323294f3d49fcc0337e1884964cdebb85ae733ebd67442eda",
}


def join(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Joins the official files, in any order, to one state dict.

    Args:
        parts: the tensors of each file.

    Returns:
        The tensors, with the prefixes `decom.`, `restore.`, `illum.`, `adjust.` and,
        with `init_high.pth`, `decom_high.`; None if no file is of this model.

    Raises:
        ValueError: if a file is missing, is there twice or is none of this model.
    """
    copies = next((part for part in parts if "model_A.conv1.weight" in part), {})
    names = [_file_of(part, copies) for part in parts]
    if not any(names):
        return None
    missing = [name for name in _FILES if name not in (_OPTIONAL, *names)]
    wrong = [f"{missing[0]} is missing"] if len(missing) == 1 else []
    if len(missing) > 1:
        wrong.append(f"{listed(missing)} are missing")
    if "" in names:
        strange = parts[names.index("")]
        wrong.append(f"a file with the keys {listed(strange, limit=3)} is none of them")
    wrong += [f"{each} is there twice" for each in _FILES if names.count(each) > 1]
    if wrong:
        raise ValueError(
            f"URetinex-Net's checkpoint is in several files: {'; '.join(wrong)}. Give "
            "init_low.pth, unfolding.pth and L_adjust.pth in any order and, for the "
            f"ratio from a reference, {_OPTIONAL}."
        )
    return {
        new + key.removeprefix(old): value
        for part, name in zip(parts, names, strict=True)
        for old, new in _FILES[name].items()
        for key, value in part.items()
        if key.startswith(old)
    }


def _file_of(part: Mapping[str, Any], copies: Mapping[str, Any]) -> str:
    """Returns the name of a file by its keys, "" if it is not of this model.

    Args:
        part: its tensors.
        copies: those of `L_adjust.pth`, which repeats the other files. Its copy tells
            `init_low.pth` from `init_high.pth`, whose keys are the same.
    """
    if "model_A.conv1.weight" in part:
        return "L_adjust.pth"
    if "model_L.conv1.weight" in part:
        return "unfolding.pth"
    if "model_R.decom.0.weight" not in part:
        return ""
    for key, value in part.items():
        copy = copies.get(key.replace("model_R.", "model_decom."), value)
        if not np.array_equal(copy, value):
            return "init_high.pth"
    return "init_low.pth"


def _published(protocol: str, score: dict, reference: dict, **fields) -> Pretrained:
    names = (name for name in _FILES if fields or name != _OPTIONAL)
    (first, sha256), *others = ((name, _SHA256[name]) for name in names)
    return Pretrained(
        spec={"name": "uretinex", **fields},
        file=first,
        parts=dict(others),
        origin="https://github.com/AndersonYong/URetinex-Net",
        licence="MIT",
        trained_on="LOL-v1",
        score=score,
        protocol=protocol,
        sha256=sha256,
        reference=reference,
    )


WEIGHTS = {
    "lol_v1": _published(
        "none with a fixed ratio", {}, {"psnr": 19.860, "ssim": 0.8255}
    ),
    # Scored with the ratio from the reference, `llie-jax eval --use-reference`.
    "lol_v1_reference": _published(
        "8-bit truncated, with the ratio from the reference",
        {"psnr": 21.33, "ssim": 0.835},
        {"psnr": 21.328, "ssim": 0.8335},
        reference_ratio=True,
    ),
}

CARD = ModelCard(
    sizes={"paper": {}, "reference_ratio": {"reference_ratio": True}},
    costs={
        "paper": {
            "params": 340_105,
            "inference_params": 340_105,
            "macs_256": 56_920_901_120,
        },
        "reference_ratio": {
            "params": 360_653,
            "inference_params": 340_105,
            "macs_256": 56_920_901_120,
        },
    },
    # A width at which the contract suite's weights leave no ReLU off everywhere.
    tiny={"width": 6, "rounds": 2},
    torch=TorchKeys(TORCH_KEYS, infer_spec, join=join),
    weights=WEIGHTS,
    verified="official code, its LOL weights: 5e-6; the same scores on LOL-v1",
)


@register("uretinex", CARD)
class URetinexNet(Backbone, Layer):
    """URetinex-Net; the defaults match the published weights.

    A first network splits the image into reflectance and illumination. Rounds of an
    alternating minimisation refine both: closed forms fit auxiliary variables to the
    image, then two networks, which all rounds share, replace the priors. A last network
    makes the illumination brighter by a ratio; its product with the reflectance is the
    result.

    Wrappers split the model before the head of the reflectance's network in the last
    round: the features are [B, H, W, 2 * width].

    Source: Wu et al., URetinex-Net, CVPR 2022, Section 3 and Fig. 2; the penalties are
    those of the published weights.
    Differs: biases before the last ReLU of decompositions and illuminations start at
    0.5, since a network whose ReLU is off everywhere never learns. The paper on LFPV
    does not say where its bank goes in URetinex-Net.

    Attributes:
        width: channels of all networks but that of the reflectance, which has twice as
            many.
        rounds: number of rounds.
        ratio: how much brighter the illumination becomes; 3 to 5 is what the authors
            advise.
        reference_ratio: whether a further decomposition network is there, which
            estimates the illumination of a reference, to take the ratio from it.
        dtype: computation dtype. Closed forms and products always use float32.
    """

    width: int = 32
    rounds: int = 3
    ratio: float = 5.0
    reference_ratio: bool = False

    multiple = 1
    pad_mode = "constant"
    test_options = ("ratio",)

    @property
    def reference_inputs(self) -> tuple[str, ...]:
        """The input `reference`, if the model can use it."""
        return ("reference",) if self.reference_ratio else ()

    def setup(self):
        """Builds the networks; raises ValueError if a field is invalid."""
        check_at_least_one(self, "width", "rounds")
        if not self.ratio > 0:
            raise ValueError(f"ratio={self.ratio}; give more than 0, such as 5.")
        types = self.types
        self.decomposition = Decomposition(self.width, **types)
        self.restoration = Restoration(self.width, **types)
        self.illumination = IlluminationNet(self.width, 4, 1, **types)
        self.adjustment = IlluminationNet(self.width, 3, 5, **types)
        if self.reference_ratio:
            self.reference = Decomposition(self.width, **types)

    def encode(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        reference: jax.Array | None = None,
    ):
        """Returns features of the last round, and whatever else `decode` needs.

        Args:
            image: [B, H, W, 3] in [0, 1].
            target: in training, takes the place of `reference` where the model has a
                network for it.
            train: whether this is a training step.
            reference: the references, like `image`; their illumination gives the ratio,
                one for each image. None takes the field `ratio`.

        Raises:
            ValueError: if `image` or `reference` has the wrong shape, or the model
                cannot use a reference.
        """
        self.check_image(image)
        image = image.astype(jnp.float32)
        if train and self.reference_ratio and reference is None:
            reference = target
        if self.is_initializing() and self.reference_ratio:
            reference = image
        self._check_reference(image, reference)

        p, q = self.decomposition(image)
        aux = _decomposition_aux(image, p, q)
        for t in range(self.rounds):
            features = self.restoration.encode(p, q)
            illumination = self.illumination(q)
            aux[f"auxiliary_reflectance_{t}"] = p
            aux[f"auxiliary_illumination_{t}"] = q
            aux[f"illumination_{t}"] = illumination
            if t < self.rounds - 1:
                reflectance = self.restoration.decode(features, p)
                aux[f"reflectance_{t}"] = reflectance
                p, q = _closed_forms(image, q, reflectance, illumination, t + 1)
        ratio = jnp.full((len(image), 1, 1, 1), self.ratio)
        if reference is not None:
            reference = reference.astype(jnp.float32)
            parts = self.reference(reference)
            ratio = _ratio(illumination, parts[1])
            found = _decomposition_aux(reference, *parts)
            found["brightest"] **= 1 / _REFERENCE_GAMMA
            aux |= {f"reference_{name}": value for name, value in found.items()}
            aux["reference_reflectance"], aux["reference_illumination"] = parts
        return features, {"aux": aux, "ratio": ratio}

    def decode(self, features: jax.Array, context, *, train: bool = False) -> Outputs:
        """Returns the outputs for features and context from `encode`.

        `aux` has, for each round t, `auxiliary_reflectance_t` and
        `auxiliary_illumination_t`, P and Q of the paper, and the networks' results
        `reflectance_t` and `illumination_t`, R and L. Those of the last round are also
        `reflectance` and `illumination`; `adjusted` is the brighter illumination. For
        the losses of the first network there are `recomposed`, P * Q of the first
        round, `brightest`, the largest channel of the image, and `gray`; with a
        reference, the same of it as `reference_recomposed` and so on, and its
        decomposition, `reference_reflectance` and `reference_illumination`.
        """
        del train
        aux, last = dict(context["aux"]), self.rounds - 1
        illumination = aux[f"illumination_{last}"]
        p = aux[f"auxiliary_reflectance_{last}"]
        reflectance = self.restoration.decode(features, p)
        ratio = jnp.broadcast_to(context["ratio"], illumination.shape)
        adjusted = self.adjustment(jnp.concatenate([illumination, ratio], axis=-1))
        aux |= {
            f"reflectance_{last}": reflectance,
            "reflectance": reflectance,
            "illumination": illumination,
            "adjusted": adjusted,
        }
        return Outputs(adjusted * reflectance, aux)

    def _check_reference(self, image, reference):
        if reference is None:
            return
        if not self.reference_ratio:
            raise ValueError(
                "This URetinex-Net has no network for references; build it with "
                f"reference_ratio=True, or convert the checkpoint with {_OPTIONAL}."
            )
        if reference.shape != image.shape:
            raise ValueError(
                f"reference is {reference.shape}, the image {image.shape}; give a "
                "reference of the same size."
            )


def _closed_forms(
    image: jax.Array,
    q: jax.Array,
    reflectance: jax.Array,
    illumination: jax.Array,
    t: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the auxiliary reflectance and illumination, P and Q, of round t.

    Each minimises the squared error of P * Q, plus a penalty for leaving R or L; Q sees
    the new P.

    Source: the paper, Section 3.3.

    Args:
        image: the image [B, H, W, 3].
        q: Q of the last round [B, H, W, 1].
        reflectance: R of the last round [B, H, W, 3].
        illumination: L of the last round [B, H, W, 1].
        t: the number of the round, at least 1.
    """
    weights = {name: start + step * t for name, (start, step) in PENALTIES.items()}
    gamma, lamda = weights["reflectance"], weights["illumination"]
    p = (image * q + gamma * reflectance) / (jnp.square(q) + gamma)
    product = jnp.sum(image * p, axis=-1, keepdims=True)
    squares = jnp.sum(jnp.square(p), axis=-1, keepdims=True)
    return p, (product + lamda * illumination) / (squares + lamda)


def _ratio(illumination: jax.Array, reference: jax.Array) -> jax.Array:
    """Returns how much brighter the reference's illumination is, [B, 1, 1, 1]."""
    darkness = illumination / (reference + _EPSILON)
    return 1 / (jnp.mean(darkness, axis=(1, 2, 3), keepdims=True) + _EPSILON)


def _decomposition_aux(
    image: jax.Array, reflectance: jax.Array, illumination: jax.Array
) -> dict[str, jax.Array]:
    """Returns what the losses of a decomposition compare."""
    return {
        "recomposed": reflectance * illumination,
        "brightest": jnp.max(image, axis=-1, keepdims=True),
        "gray": jnp.sum(image * jnp.asarray(_GRAY), -1, keepdims=True),
    }
