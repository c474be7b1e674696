"""LFPV: learnable feature patches and vectors, a feature bank for any backbone.

In training, samples of the backbone's features update the bank, and what is read from
the bank is added to the features. At inference the bank is only read, at almost no
cost. The building blocks are in `llie_jax.nn.feature_bank`.

Source: Learnable Feature Patches and Vectors for Boosting Low-light Image Enhancement
without External Knowledge, ICCV 2025; the authors' code where the paper is silent.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax import messages
from llie_jax.models import snr_net
from llie_jax.models.base import (
    Backbone,
    ModelCard,
    TorchKeys,
    Wrapper,
    check_at_least_one,
)
from llie_jax.nn import feature_bank, layers
from llie_jax.registry import register
from llie_jax.types import Dtype, ModuleFactory, Outputs

STATE = "lfpv"
"""The name of the bank's collection, and of its random stream."""

POSITIONS = ("shared", "per_sample")


class _Project(nn.Module):
    """A 1x1 convolution if the features have more channels than the bank may have."""

    width: int | None
    param_dtype: Dtype

    @nn.compact
    def __call__(self, features):
        if self.width is None or features.shape[-1] <= self.width:
            return features
        return layers.Conv(
            self.width,
            (1, 1),
            dtype=features.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(features)


_TORCH_UPDATERS = {
    "update_feature": "vector/sample",
    "update_feature_patch": "patch/sample",
    "propagate": "vector/mutual",
    "propagate_patch": "patch/mutual",
}

TORCH_KEYS = (
    {key: f"backbone/{name}" for key, name in snr_net.TORCH_KEYS.items()}
    | {
        "common_feature": "c_v",
        "common_feature_patch": "c_p",
        "norm_query1": "query/vector_query",
        "norm_query2": "query/vector_key",
        "norm_query3": "query/patch_query",
        "norm_query4": "query/patch_key",
        "embedding.weight": "updaters/embedding",
        "norm_feature": "updaters/vector/sample_norm",
        "norm_feature2": "updaters/vector/mutual_norm",
        "norm_patch": "updaters/patch/sample_norm",
        "norm_patch2": "updaters/patch/mutual_norm",
    }
    | {
        # In the official `nn.Sequential`, a ReLU follows each convolution and norm.
        f"{network}.{3 * i + place}": f"updaters/{name}/{layer}_{i}"
        for network, name in _TORCH_UPDATERS.items()
        for place, layer in enumerate(("conv", "norm"))
        for i in range(feature_bank.NORMED_LAYERS + 1 - place)
    }
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Infers the fields of LFPV from an official checkpoint, with SNR-Net inside.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are already known.

    Raises:
        ValueError: if the bank or a size of the backbone cannot be inferred.
    """
    if "common_feature_patch" not in shapes:
        raise ValueError(
            "The checkpoint has no 'common_feature_patch', so the sizes of LFPV's bank "
            "cannot be inferred; give a checkpoint of LFPV."
        )
    num_nodes, width, patch_size, _ = shapes["common_feature_patch"]
    backbone = {"name": "snr_net", **dict(given.get("backbone", {}))}
    fields = {key: value for key, value in backbone.items() if key != "name"}
    return {
        "backbone": {**snr_net.infer_spec(shapes, fields), **backbone},
        "num_nodes": num_nodes,
        "patch_size": patch_size,
        "bank_width": max(width, LFPV.bank_width),
        "updaters": any(key.startswith("update_feature.") for key in shapes),
    }


SIZES = {
    "snr_net": {},
    # Not from the paper: trains in minutes on two CPU cores.
    "snr_net_small": {"backbone": {"name": "snr_net", **snr_net.SIZES["small"]}},
}

CARD = ModelCard(
    internal=("axis_name",),
    sizes=SIZES,
    costs={
        "snr_net": {
            "params": 45_966_979,
            "inference_params": 39_145_859,
            "macs_256": 24_352_129_024,
        },
        "snr_net_small": {
            "params": 766_499,
            "inference_params": 336_099,
            "macs_256": 946_864_128,
        },
    },
    tiny={
        "backbone": {"name": "retinexformer", "width": 4, "num_blocks": (1, 1)},
        "num_nodes": 5,
    },
    torch=TorchKeys(
        TORCH_KEYS,
        infer_spec,
        # Running averages of batch norms that always use batch statistics.
        unused=("*.running_mean", "*.running_var", "*.num_batches_tracked"),
    ),
    verified="official code, random weights: 5e-5; bank 2e-5",
    training_only=("updaters/*",),
)


@register("lfpv", CARD)
class LFPV(Wrapper):
    """A backbone with a bank of learnable vectors and patches after its encoder.

    The features F from the backbone's `encode` become F + R_v + R_p, where R_v is read
    from the bank's vectors for each pixel and R_p from its patches for each patch; the
    backbone's `decode` continues from there. Vectors `c_v` [l, c] and patches `c_p`
    [l, k, k, c] are in the collection `lfpv`. They are state, not parameters: each
    training step samples the features at random positions, and small networks, the
    updaters, compute the new bank from the samples and the old one. A bank of zeros
    leaves the backbone's image unchanged.

    `Outputs` are decoded from the changed features. In training, the outputs of the
    plain features are included: `aux["backbone_image"]`, and each `aux[NAME]` of the
    backbone as `aux["backbone_NAME"]`, so that two loss terms train both.

    The bank sits where the backbone splits; for CIDNet, in the intensity branch. With
    several devices, batch statistics and updates are averaged and random draws are
    shared, so that every device holds the same bank.

    Source: the paper; the authors' code, whose backbone is SNR-Net.
    Differs: the bank receives no gradient; in the authors' code a misspelt name leaves
    it in the optimizer, which shifts it by about the learning rate in each step. 1x1
    convolutions project wide features to the width of the bank and back. Parameter
    averaging (`ema`) does not include the bank, which is always that of the last step.

    Attributes:
        backbone: the wrapped model; its parameters are under `backbone`.
        num_nodes: number l of vectors, and of patches.
        patch_size: rows and columns k of a patch.
        bank_width: maximum channels of the bank. Wider features are projected to it and
            back; None never projects, as in the paper. The updaters have about
            1660 * bank_width**2 parameters.
        update_rule: slot for the update rule: "released" follows the authors' code,
            "paper" the paper.
        norms: see `feature_bank.Query`.
        positions: "shared" samples all images of a batch at the same positions, as in
            the authors' code; "per_sample" draws positions for each image.
        positions_per_map: samples per feature map; the authors' code takes one.
        updaters: False omits the updaters, which only training needs.
        param_dtype: storage dtype of the parameters; the bank always computes in
            float32.
        axis_name: mesh axis over which a training step is mapped.
    """

    backbone: Backbone = snr_net.SNRNet()
    num_nodes: int = 16
    patch_size: int = 4
    bank_width: int | None = 64
    update_rule: ModuleFactory = feature_bank.Released
    norms: bool = True
    positions: str = "shared"
    positions_per_map: int = 1
    updaters: bool = True
    param_dtype: Dtype = jnp.float32
    axis_name: str | None = None

    shared_streams = (STATE,)
    learned = ("params", STATE)

    @property
    def feature_stride(self) -> int:
        """The feature stride of the backbone."""
        return self.backbone.feature_stride

    @property
    def multiple(self) -> int:
        """The required divisor of height and width: patches tile the features."""
        _check(self)
        return math.lcm(self.backbone.multiple, self.feature_stride * self.patch_size)

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "LFPV":
        """Returns the model for a step that is mapped over a mesh axis."""
        return self.clone(
            axis_name=axis_name, backbone=self.backbone.with_axis(axis_name)
        )

    @nn.nowrap
    def for_inference(self) -> "LFPV":
        """Returns the model without updaters."""
        return self.clone(updaters=False, backbone=self.backbone.for_inference())

    def __call__(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        positions: Mapping[str, jax.Array] | None = None,
        partners: feature_bank.Partners | None = None,
        **inputs: jax.Array,
    ) -> Outputs:
        """Enhances images [B, H, W, 3] in [0, 1].

        Args:
            image: the images.
            target: passed to the backbone's `encode`.
            train: True also decodes the plain features and updates the bank, which is
                stored if the collection `lfpv` is mutable. Draws from the stream
                `lfpv`.
            positions: replace the random positions of `vector` and `patch`: upper left
                pixels (row, column) in the features, see `feature_bank.sample`.
            partners: replace the random partners of `vector` and `patch`: node indices
                [num_nodes]; only the rule "released" uses partners.
            **inputs: passed to the backbone's `encode`, such as SNR-Net's `snr_map`.

        Raises:
            ValueError: if the image or the bank has the wrong shape, or updaters or
                random keys are missing in training.
        """
        self.check_image(image)
        inputs = {"target": target, **inputs}
        features, context = self.backbone.encode(image, train=train, **inputs)
        if not train or self.is_initializing():
            return self.backbone.decode(self._through_bank(features), context)
        if not self.updaters:
            raise ValueError(
                "This LFPV model has no updaters, as is the case for release files. To "
                "train it, build it with updaters=True and set config.init_from and "
                'config.init_missing="params/updaters/*".'
            )
        # Outside this module's scope, so that a stateful backbone counts one step.
        plain = self.backbone.clone(parent=None).apply(
            self.backbone.variables,
            features,
            context,
            train=True,
            rngs={s: self.make_rng(s) for s in ("dropout", "noise") if self.has_rng(s)},
            method="decode",
        )
        features = self._through_bank(
            features, train=True, positions=positions, partners=partners
        )
        outputs = self.backbone.decode(features, context, train=True)
        seen = {"image": plain.image, **plain.aux}
        aux = {f"backbone_{name}": value for name, value in seen.items()}
        return outputs.replace(aux={**outputs.aux, **aux})

    def assign(self, image: jax.Array, **inputs: jax.Array):
        """Returns the attention weights over the bank; see `feature_bank.Query.assign`.

        Args:
            image: images [B, H, W, 3] in [0, 1].
            **inputs: as for `__call__`.
        """
        self.check_image(image)
        features, _ = self.backbone.encode(image, **inputs)
        return self._through_bank(features, only_shares=True)

    def _describe_multiple(self) -> str:
        return (
            f"LFPV on {type(self.backbone).__name__} needs multiples of "
            f"{self.multiple}: the features have 1/{self.feature_stride} of the "
            "image's size and must divide into patches of "
            f"{self.patch_size} x {self.patch_size}"
        )

    @nn.compact
    def _through_bank(
        self, features, *, train=False, positions=None, partners=None, only_shares=False
    ):
        """Returns the features plus the bank's readout, or only the attention weights.

        In training the bank is updated first, and stored if it is mutable.
        """
        types = dict(param_dtype=self.param_dtype)
        projected = _Project(self.bank_width, **types, name="project")(features)
        c_v, c_p = self._bank_variables(projected.shape[-1])
        if train or (self.updaters and self.is_initializing()):
            updaters = feature_bank.Updaters(
                self.update_rule, axis_name=self.axis_name, **types, name="updaters"
            )
            new = updaters(
                c_v.value,
                c_p.value,
                self._sampled(projected.astype(jnp.float32), positions),
                lambda: self._draw_partners() if partners is None else partners,
            )
        vectors, patches = new if train else (c_v.value, c_p.value)
        if train and self.is_mutable_collection(STATE):
            c_v.value, c_p.value = jax.lax.stop_gradient(new)

        query = feature_bank.Query(self.norms, **types, name="query")
        if only_shares:
            return query.assign(projected, vectors, patches)
        read = sum(query(projected, vectors, patches))
        if projected.shape != features.shape:
            # Without a bias, so that a bank of zeros changes nothing.
            read = layers.Conv(
                features.shape[-1], (1, 1), use_bias=False, **types, name="restore"
            )(read)
        return features + read.astype(features.dtype)

    def _bank_variables(self, width):
        """Returns the two variables of a bank of this width."""
        found = []
        for name, shape in (
            ("c_v", (self.num_nodes, width)),
            ("c_p", (self.num_nodes, self.patch_size, self.patch_size, width)),
        ):
            variable = self.variable(STATE, name, jnp.zeros, shape)
            if variable.value.shape != shape:
                raise ValueError(
                    f"The bank's {name} is {variable.value.shape}, but the features of "
                    f"{type(self.backbone).__name__} need {shape} (nodes, rows and "
                    "columns, channels). Build the backbone with the width that the "
                    "bank was trained with."
                )
            found.append(variable)
        return found

    def _sampled(self, features, positions):
        """Returns `vector` [b, 1, 1, c] and `patch` [b, k, k, c] of the features."""
        batch, *size, _ = features.shape
        sides = {"vector": 1, "patch": self.patch_size}
        if positions is None:
            positions = {
                kind: self._corners(batch, size, side) for kind, side in sides.items()
            }
        return {
            kind: feature_bank.sample(features, positions[kind], side)
            for kind, side in sides.items()
        }

    def _corners(self, batch, size, side):
        """Returns random corners, [batch, positions_per_map, 2]."""
        room, count = jnp.asarray(size) - side + 1, self.positions_per_map
        if self.positions == "shared":
            return jnp.broadcast_to(self._random((count, 2), room), (batch, count, 2))
        # Drawn for all devices, so that their number does not matter.
        devices, device = 1, 0
        if self.axis_name is not None:
            devices = jax.lax.axis_size(self.axis_name)
            device = jax.lax.axis_index(self.axis_name)
        corners = self._random((devices * batch, count, 2), room)
        return jax.lax.dynamic_slice_in_dim(corners, device * batch, batch)

    def _draw_partners(self) -> feature_bank.Partners:
        """Returns a random partner for each node."""
        count = self.num_nodes
        return {kind: self._random((count,), count) for kind in feature_bank.KINDS}

    def _random(self, shape, limit):
        """Returns random integers in [0, limit); zeros during initialisation."""
        if self.is_initializing():
            return jnp.zeros(shape, jnp.int32)
        if not self.has_rng(STATE):
            raise ValueError(
                "LFPV draws positions and partners in training: pass "
                'rngs={"lfpv": key}, or pass both.'
            )
        return jax.random.randint(self.make_rng(STATE), shape, 0, limit)


def _check(model: LFPV) -> None:
    """Raises ValueError if a field of the model is invalid."""
    if model.positions not in POSITIONS:
        raise ValueError(
            f"Unknown positions {model.positions!r}."
            f"{messages.suggest(model.positions, POSITIONS)} Use one of {POSITIONS}."
        )
    if model.bank_width is not None and model.bank_width < 1:
        raise ValueError(f"bank_width={model.bank_width}; use at least 1, or None.")
    check_at_least_one(model, "num_nodes", "patch_size", "positions_per_map")
