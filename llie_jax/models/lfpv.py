"""LFPV: learnable feature patches and vectors, a bank beside any host.

In training, a few values of the host's features flow into the bank, and the bank flows
back into the features. At inference the bank is read only: a lookup that costs next to
nothing.

Source: Learnable Feature Patches and Vectors for Boosting Low-light Image Enhancement
without External Knowledge, ICCV 2025, and the authors' code where it says more.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax import messages
from llie_jax.messages import listed
from llie_jax.models import snr_net
from llie_jax.nn import layers
from llie_jax.registry import register
from llie_jax.types import Dtype, Outputs

STATE = "lfpv"
"""The collection of the bank, and the stream of its random positions."""

UPDATE_RULES = ("released", "paper")
POSITIONS = ("shared", "per_sample")

_EPSILON = 1e-5
_NORMED_LAYERS = 6


class Query(nn.Module):
    """Reads the bank: each pixel and each patch takes what is like itself.

    Computed in float32.

    Source: the authors' code; Section 4 of the paper gives the idea.

    Attributes:
        param_dtype: storage dtype of the parameters.
    """

    param_dtype: Dtype = jnp.float32

    def setup(self):
        """Builds the four norms."""
        norm = functools.partial(
            layers.CountedLayerNorm,
            epsilon=_EPSILON,
            param_dtype=self.param_dtype,
        )
        self.vector_query, self.vector_key = norm(), norm()
        self.patch_query, self.patch_key = norm(), norm()

    def __call__(self, features: jax.Array, c_v: jax.Array, c_p: jax.Array):
        """Returns what vectors and patches add to the features.

        Args:
            features: [B, h, w, c].
            c_v: vectors [l, c].
            c_p: patches [l, k, k, c], where k divides h and w.

        Returns:
            Two arrays [B, h, w, c] in float32: from the vectors, from the patches.
        """
        by_pixel, by_patch = self.assign(features, c_v, c_p)
        from_patches = by_patch @ _flat(c_p)
        return by_pixel @ c_v, layers.pixel_shuffle(from_patches, c_p.shape[1])

    def assign(self, features: jax.Array, c_v: jax.Array, c_p: jax.Array):
        """Returns how much each place takes of each node; sums over nodes are 1.

        Args:
            features: [B, h, w, c].
            c_v: vectors [l, c].
            c_p: patches [l, k, k, c].

        Returns:
            Shares of the vectors [B, h, w, l], of the patches [B, h / k, w / k, l].
        """
        features = features.astype(jnp.float32)
        patches = layers.pixel_unshuffle(features, c_p.shape[1])
        vector_keys, patch_keys = self._keys(c_v, c_p)
        # No scale: the norms decide how sharp the choice is.
        return (
            nn.softmax(self.vector_query(features) @ vector_keys.T),
            nn.softmax(self.patch_query(patches) @ patch_keys.T),
        )

    def _keys(self, c_v, c_p):
        """Returns the normalised nodes, from the cache if there is one."""
        names = ("vector_keys", "patch_keys")
        if self.has_variable("cache", names[0]):
            return tuple(self.get_variable("cache", name) for name in names)
        keys = self.vector_key(c_v), self.patch_key(_flat(c_p))
        if self.is_mutable_collection("cache") and not self.is_initializing():
            for name, value in zip(names, keys, strict=True):
                self.put_variable("cache", name, value)
        return keys


def _flat(c_p: jax.Array) -> jax.Array:
    """Returns patches [l, k, k, c] as [l, c * k * k], in `pixel_unshuffle`'s order."""
    return c_p.transpose(0, 3, 1, 2).reshape(len(c_p), -1)


class BatchNorm(nn.Module):
    """Batch norm that always takes the statistics of what it is given.

    Running averages would never be read: the updaters belong to training.

    Attributes:
        axis_name: mesh axis whose devices share their statistics; each of them must
            hold as many rows.
        param_dtype: storage dtype of the parameters.
    """

    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`, [..., C]."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        rows = tuple(range(x.ndim - 1))
        centred = x - _mean_over_devices(jnp.mean(x, rows), self.axis_name)
        variance = jnp.mean(jnp.square(centred), rows)
        variance = _mean_over_devices(variance, self.axis_name)
        return centred * jax.lax.rsqrt(variance + _EPSILON) * scale + bias


def _mean_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


class UpdateNetwork(nn.Module):
    """Seven convolutions, with batch norm and ReLU between them.

    Source: the authors' code.

    Attributes:
        width: channels c of a node; the hidden layers have four times as many, but for
            the last.
        kernel_size: 1 for vectors, 3 for patches.
        axis_name: mesh axis over which the rows are spread, None if all are here.
        param_dtype: storage dtype of the parameters.
    """

    width: int
    kernel_size: int
    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, *operands: jax.Array) -> jax.Array:
        """Returns [..., s, s, c], a row for each combination of the operands' rows.

        Args:
            *operands: arrays [..., s, s, c], whose leading axes are broadcast.
        """
        types = dict(param_dtype=self.param_dtype)
        size = self.kernel_size
        x = layers.JointConv(4 * self.width, (size, size), name="conv_0", **types)(
            *operands
        )
        rows = x.shape[:-1]
        x = x.reshape(-1, *x.shape[-3:])
        for i in range(_NORMED_LAYERS):
            norm = BatchNorm(axis_name=self.axis_name, name=f"norm_{i}", **types)
            x = nn.relu(norm(x))
            features = self.width if i >= _NORMED_LAYERS - 2 else 4 * self.width
            x = layers.Conv(features, (size, size), name=f"conv_{i + 1}", **types)(x)
        return x.reshape(*rows, self.width)


class NodeNorm(nn.Module):
    """Layer norm over all values of a node.

    Attributes:
        param_dtype: storage dtype of the parameters.
    """

    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, nodes: jax.Array) -> jax.Array:
        """Returns nodes of the same shape, [l, s, s, c]."""
        shape, axes = nodes.shape[1:], (1, 2, 3)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        centred = nodes - jnp.mean(nodes, axes, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
        return centred * jax.lax.rsqrt(variance + _EPSILON) * scale + bias


class Updater(nn.Module):
    """Sample Updater and Mutual Updater of one kind of nodes.

    A vector is a patch of one pixel here.

    Source: the paper's update equations (rule "paper"); the authors' code ("released").
    Differs: rule "paper" adds means and not sums, and a norm follows, since sums grow
    with batch and nodes and without bound; `stabilise=False` is to the letter.

    Attributes:
        width: channels c of a node.
        kernel_size: 1 for vectors, 3 for patches.
        update_rule: see `LFPV`.
        include_self: see `LFPV`.
        stabilise: see `LFPV`.
        axis_name: mesh axis over which the batch is spread, or None.
        param_dtype: storage dtype of the parameters.
    """

    width: int
    kernel_size: int
    update_rule: str = "released"
    include_self: bool = False
    stabilise: bool = True
    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    def setup(self):
        """Builds both networks and the norms that the rule needs."""
        types = dict(param_dtype=self.param_dtype)
        network = functools.partial(
            UpdateNetwork, self.width, self.kernel_size, **types
        )
        self.sample = network(axis_name=self.axis_name)
        self.mutual = network()  # its rows are the same on every device
        if self.update_rule == "released":
            self.sample_norm, self.mutual_norm = NodeNorm(**types), NodeNorm(**types)
        elif self.stabilise:
            self.norm = NodeNorm(**types)

    def from_samples(
        self, nodes: jax.Array, samples: jax.Array, identity: jax.Array
    ) -> jax.Array:
        """Returns the mean update by the samples of all devices, [l, s, s, c].

        Args:
            nodes: [l, s, s, c].
            samples: of this device's images, [b, s, s, c].
            identity: embeddings of the nodes [l, c].
        """
        identity = _spread(identity, nodes)
        updates = self.sample(nodes[:, None], samples[None], identity[:, None])
        # The only value of the bank that devices exchange.
        return _mean_over_devices(jnp.mean(updates, axis=1), self.axis_name)

    def released(
        self, nodes, samples, identity, *, partners, identity_partners
    ) -> jax.Array:
        """Returns new nodes [l, s, s, c]: samples first, then one partner for each.

        Args:
            nodes: [l, s, s, c].
            samples: [b, s, s, c].
            identity: [l, c].
            partners: for each node the number of another, [l].
            identity_partners: whose embeddings come with them, [l].
        """
        nodes = self.sample_norm(self.from_samples(nodes, samples, identity))
        return self.mutual_norm(
            self.mutual(
                nodes,
                nodes[partners],
                _spread(identity, nodes),
                _spread(identity[identity_partners], nodes),
            )
        )

    def paper(self, nodes, samples, identity) -> jax.Array:
        """Returns new nodes [l, s, s, c]: samples and all pairs, both of the old nodes.

        Args:
            nodes: [l, s, s, c].
            samples: [b, s, s, c].
            identity: [l, c].
        """
        by_samples = self.from_samples(nodes, samples, identity)
        count, spread = len(nodes), _spread(identity, nodes)
        pairs = self.mutual(nodes[:, None], nodes[None], spread[:, None], spread[None])
        others = 1 - jnp.eye(count)[..., None, None, None]
        by_nodes = jnp.sum(pairs * (1.0 if self.include_self else others), axis=1)
        if self.stabilise:
            num_others = count if self.include_self else max(count - 1, 1)
            return self.norm(nodes + by_samples + by_nodes / num_others)
        num_samples = len(samples)
        if self.axis_name is not None:
            num_samples *= jax.lax.axis_size(self.axis_name)
        return nodes + num_samples * by_samples + by_nodes


def _spread(identity: jax.Array, nodes: jax.Array) -> jax.Array:
    """Returns embeddings [l, c] at every pixel of the nodes, [l, s, s, c]."""
    return jnp.broadcast_to(identity[:, None, None, :], nodes.shape)


class Updaters(nn.Module):
    """What moves the bank in training: an updater of vectors and one of patches.

    Attributes:
        update_rule: see `LFPV`.
        fix_partner_identity: see `LFPV`.
        include_self: see `LFPV`.
        stabilise: see `LFPV`.
        axis_name: mesh axis over which the batch is spread, or None.
        param_dtype: storage dtype of the parameters.
    """

    update_rule: str = "released"
    fix_partner_identity: bool = True
    include_self: bool = False
    stabilise: bool = True
    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        c_v: jax.Array,
        c_p: jax.Array,
        samples: Mapping[str, jax.Array],
        partners: Mapping[str, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the new vectors [l, c] and patches [l, k, k, c].

        Args:
            c_v: vectors [l, c].
            c_p: patches [l, k, k, c].
            samples: of the features, `vector` [b, 1, 1, c] and `patch` [b, k, k, c].
            partners: numbers of nodes [l], for `vector` and for `patch`.
        """
        count, width = c_v.shape
        # One table for vectors and patches.
        identity = self.param(
            "embedding", nn.initializers.normal(1.0), (count, width), self.param_dtype
        )
        new = {}
        for kind, nodes in (("vector", c_v[:, None, None]), ("patch", c_p)):
            updater = Updater(
                width,
                1 if kind == "vector" else 3,
                update_rule=self.update_rule,
                include_self=self.include_self,
                stabilise=self.stabilise,
                axis_name=self.axis_name,
                param_dtype=self.param_dtype,
                name=kind,
            )
            if self.update_rule == "paper":
                new[kind] = updater.paper(nodes, samples[kind], identity)
                continue
            own = kind if self.fix_partner_identity else "vector"
            new[kind] = updater.released(
                nodes,
                samples[kind],
                identity,
                partners=partners[kind],
                identity_partners=partners[own],
            )
        return new["vector"][:, 0, 0], new["patch"]


def sample(features: jax.Array, corners: jax.Array, side: int) -> jax.Array:
    """Returns a cut [b, side, side, c] of each feature map [b, h, w, c].

    Args:
        features: [b, h, w, c].
        corners: (row, column) of the upper left pixel, [2] for all maps or [b, 2].
        side: rows and columns of the cuts.
    """

    def cut(image, corner):
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (side, side, image.shape[-1])
        )

    corners = jnp.asarray(corners)
    return jax.vmap(cut, in_axes=(0, None if corners.ndim == 1 else 0))(
        features, corners
    )


class _Project(nn.Module):
    """A 1x1 convolution if the features are wider than the bank may be."""

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
    {key: f"host/{name}" for key, name in snr_net.TORCH_KEYS.items()}
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
        # In the official sequence a ReLU follows each convolution and its norm.
        f"{network}.{3 * i + place}": f"updaters/{name}/{layer}_{i}"
        for network, name in _TORCH_UPDATERS.items()
        for place, layer in enumerate(("conv", "norm"))
        for i in range(_NORMED_LAYERS + 1 - place)
    }
)


def infer_spec(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the fields that an official checkpoint, with SNR-Net inside, tells.

    Args:
        shapes: official state-dict keys to shapes.
        given: fields that are known beforehand.

    Raises:
        ValueError: if the bank or a size of the host is not to be seen.
    """
    if "common_feature_patch" not in shapes:
        raise ValueError(
            "The checkpoint has no 'common_feature_patch', from which the sizes of "
            "LFPV's bank are read."
        )
    num_nodes, width, patch_size, _ = shapes["common_feature_patch"]
    host = {"name": "snr_net", **dict(given.get("host", {}))}
    fields = {key: value for key, value in host.items() if key != "name"}
    return {
        "host": {**snr_net.infer_spec(shapes, fields), **host},
        "num_nodes": num_nodes,
        "patch_size": patch_size,
        "bank_width": max(width, LFPV.bank_width),
        "updaters": any(key.startswith("update_feature.") for key in shapes),
    }


def release(
    spec: Mapping[str, Any], variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns spec and variables without what only training needs.

    Args:
        spec: the complete spec of an LFPV model.
        variables: its variables.
    """
    params = {k: v for k, v in variables["params"].items() if k != "updaters"}
    return {**spec, "updaters": False}, {**variables, "params": params}


SIZES = {
    "snr_net": {},
    # Not the authors': trains in minutes on two CPU cores.
    "snr_net_small": {"host": {"name": "snr_net", **snr_net.SIZES["small"]}},
}


@register(
    "lfpv",
    internal=("axis_name",),
    sizes=SIZES,
    torch_keys=TORCH_KEYS,
    # Running averages of batch norms that always take the batch's statistics.
    torch_unused=("*.running_mean", "*.running_var", "*.num_batches_tracked"),
    infer_spec=infer_spec,
    release=release,
    parity="official code, random weights: 5e-5; bank 2e-5",
    # Of those parameters the image depends in training only.
    unused_parameters=("updaters/*",),
)
class LFPV(nn.Module):
    """A host with a bank of learnable vectors and patches behind its encoder.

    The features F of the host's `encode` become F + R_v + R_p, what the bank's vectors
    and patches have for each pixel and each patch; the host's `decode` goes on from
    there. Vectors `c_v` [l, c] and patches `c_p` [l, k, k, c] are in the collection
    `lfpv`. They are state and not parameters: each training step samples the features
    at random positions and moves the bank by what small networks, the updaters, make of
    it. A bank of zeros leaves the host's image as it is.

    `Outputs` are those of the changed features. In training, those of the plain ones
    are there too: `aux["host_image"]`, and each `aux[NAME]` of the host as
    `aux["host_NAME"]`. Two loss terms train both; see `llie_jax.configs.base.add_lfpv`.

    The split of the host decides where the bank sits; CIDNet's is in its intensity
    branch. With several devices, batch statistics and updates are averaged over all of
    them, and all draw the same positions, so that the bank is the same everywhere.

    Source: the paper; the authors' code, whose host is SNR-Net.
    With averaged parameters (`ema`), the bank is still the one of the last step.

    Differs: the bank gets no gradient. In the authors' code a misspelt name leaves it
    with the optimizer, which shifts it by about the learning rate in each step. Wide
    features pass a 1x1 convolution on their way to the bank and one back.

    Attributes:
        host: the model inside; its parameters are under `host`.
        num_nodes: vectors l, and as many patches.
        patch_size: rows and columns k of a patch.
        bank_width: channels of the bank at most. Wider features are projected to it and
            back; None never projects, as in the paper. The updaters hold about 1660
            times its square.
        update_rule: "released" replaces the bank by what a sample and then one random
            partner per node make of it, as in the authors' code. "paper" adds to it
            what all samples and all pairs of nodes make of it.
        fix_partner_identity: the embeddings of a patch's partner are those of that
            partner. False takes those of the vector's partner, as in the authors' code.
        positions: "shared" takes the same place of all images of a batch, as in the
            authors' code, "per_sample" another for each.
        include_self: whether pairs of a node with itself count, for rule "paper". They
            are among the rows of the batch norms either way.
        stabilise: False makes rule "paper" literal: sums, and no norm.
        updaters: False builds a model without them, which cannot be trained.
        param_dtype: storage dtype of the parameters. Whatever the host's dtype is, the
            bank computes in float32.
        axis_name: mesh axis over which a training step is mapped.
    """

    host: nn.Module = snr_net.SNRNet()
    num_nodes: int = 16
    patch_size: int = 4
    bank_width: int | None = 64
    update_rule: str = "released"
    fix_partner_identity: bool = True
    positions: str = "shared"
    include_self: bool = False
    stabilise: bool = True
    updaters: bool = True
    param_dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @property
    def feature_stride(self) -> int:
        """Side of the image over side of the host's features."""
        return getattr(self.host, "feature_stride", self.host.multiple)

    @property
    def multiple(self) -> int:
        """Height and width must be divisible by it."""
        _check(self)
        return math.lcm(self.host.multiple, self.feature_stride * self.patch_size)

    @property
    def pad_mode(self) -> str:
        """How images are padded, as for the host."""
        return self.host.pad_mode

    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns what the host makes of an image at its own size, see `SNRNet`."""
        make = getattr(self.host, "native_inputs", None)
        return make(image) if make else {}

    def __call__(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        positions: Mapping[str, jax.Array] | None = None,
        partners: Mapping[str, jax.Array] | None = None,
        **inputs: jax.Array,
    ) -> Outputs:
        """Enhances images [B, H, W, 3] in [0, 1]; `target` is not used.

        Args:
            image: the images.
            target: without effect.
            train: also decodes the plain features, moves the bank and stores it where
                the collection `lfpv` is mutable. Draws from the stream `lfpv`.
            positions: in place of random ones: upper left pixels (row, column) in the
                features of `vector` and `patch`, [2] or [B, 2]; beyond the features,
                the nearest ones inside are taken.
            partners: in place of random ones: numbers of nodes [num_nodes] for `vector`
                and `patch`; rule "released" only.
            **inputs: passed on to the host's `encode`, such as SNR-Net's `snr_map`.

        Raises:
            ValueError: if the image has another shape or size, the bank is that of
                another width, or there is nothing to train with.
        """
        del target
        features, context = self._encode(image, train, inputs)
        if not train or self.is_initializing():
            return self.host.decode(self._through_bank(features), context)
        if not self.updaters:
            raise ValueError(
                "This LFPV model has no updaters, as one from a release file. To go "
                "on training, build it with updaters=True and begin with "
                'config.init_from and config.init_missing="params/updaters/*".'
            )
        # Apart from this module's scope, so that a host with state counts one step.
        plain = self.host.clone(parent=None).apply(
            self.host.variables,
            features,
            context,
            train=True,
            rngs={s: self.make_rng(s) for s in ("dropout", "noise") if self.has_rng(s)},
            method="decode",
        )
        features = self._through_bank(
            features, train=True, positions=positions, partners=partners
        )
        outputs = self.host.decode(features, context, train=True)
        seen = {"image": plain.image, **plain.aux}
        aux = {f"host_{name}": value for name, value in seen.items()}
        return outputs.replace(aux={**outputs.aux, **aux})

    def assign(self, image: jax.Array, **inputs: jax.Array):
        """Returns how much each place takes of each node, see `Query.assign`.

        Args:
            image: images [B, H, W, 3] in [0, 1].
            **inputs: as for `__call__`.
        """
        features, _ = self._encode(image, False, inputs)
        return self._through_bank(features, only_shares=True)

    def _encode(self, image, train, inputs):
        """Returns features and context of the host, after a check of the size."""
        multiple = self.multiple
        is_image = image.ndim == 4 and image.shape[-1] == 3  # else the host says so
        if is_image and any(side % multiple for side in image.shape[1:3]):
            height, width = image.shape[1:3]
            raise ValueError(
                f"image is {height} x {width}; LFPV on {type(self.host).__name__} "
                f"needs multiples of {multiple}: the features have 1/"
                f"{self.feature_stride} of the image's size, and must divide into "
                f"patches of {self.patch_size} x {self.patch_size}. Use "
                "llie_jax.inference.padding.pad_to_multiple, or llie_jax.enhance for "
                "any size."
            )
        return self.host.encode(image, train=train, **inputs)

    @nn.compact
    def _through_bank(
        self, features, *, train=False, positions=None, partners=None, only_shares=False
    ):
        """Returns the features with what the bank has for them, or only its shares.

        In training the bank moves first, and is stored where it is mutable.
        """
        types = dict(param_dtype=self.param_dtype)
        projected = _Project(self.bank_width, **types, name="project")(features)
        c_v, c_p = self._bank_variables(projected.shape[-1])
        if train or (self.updaters and self.is_initializing()):
            updaters = Updaters(
                update_rule=self.update_rule,
                fix_partner_identity=self.fix_partner_identity,
                include_self=self.include_self,
                stabilise=self.stabilise,
                axis_name=self.axis_name,
                **types,
                name="updaters",
            )
            new = updaters(
                c_v.value,
                c_p.value,
                self._sampled(projected.astype(jnp.float32), positions),
                self._partners(partners),
            )
        vectors, patches = new if train else (c_v.value, c_p.value)
        if train and self.is_mutable_collection(STATE):
            c_v.value, c_p.value = jax.lax.stop_gradient(new)

        query = Query(**types, name="query")
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
                    f"{type(self.host).__name__} ask for {shape}: nodes, rows and "
                    "columns, channels. Give the host the width that the bank was "
                    "trained with."
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
            kind: sample(features, positions[kind], side)
            for kind, side in sides.items()
        }

    def _corners(self, batch, size, side):
        """Returns random corners, [2] or [batch, 2]."""
        room = jnp.asarray(size) - side + 1
        if self.positions == "shared":
            return self._random((2,), room)
        # Those of all devices, so that it does not matter how many there are.
        devices, device = 1, 0
        if self.axis_name is not None:
            devices = jax.lax.axis_size(self.axis_name)
            device = jax.lax.axis_index(self.axis_name)
        corners = self._random((devices * batch, 2), room)
        return jax.lax.dynamic_slice_in_dim(corners, device * batch, batch)

    def _partners(self, partners):
        """Returns `vector` and `patch`, a random partner for each node, [l]."""
        if partners is not None or self.update_rule == "paper":
            return partners
        count = self.num_nodes
        return {kind: self._random((count,), count) for kind in ("vector", "patch")}

    def _random(self, shape, limit):
        """Returns integers from 0 up to below the limit; zeros in initialisation."""
        if self.is_initializing():
            return jnp.zeros(shape, jnp.int32)
        if not self.has_rng(STATE):
            raise ValueError(
                "LFPV draws positions and partners in training: give "
                'rngs={"lfpv": key}, or both of them.'
            )
        return jax.random.randint(self.make_rng(STATE), shape, 0, limit)


def _check(model: LFPV) -> None:
    """Raises ValueError if a field of the model is impossible."""
    host = type(model.host).__name__
    missing = [
        name
        for name in ("encode", "decode", "multiple", "pad_mode")
        if not hasattr(model.host, name)
    ]
    if not isinstance(model.host, nn.Module) or missing:
        raise ValueError(
            f"{host} cannot be a host of LFPV: it has no {listed(missing)}. A host "
            "offers features, context = encode(image) and decode(features, "
            "context)."
        )
    for name, options in (("update_rule", UPDATE_RULES), ("positions", POSITIONS)):
        value = getattr(model, name)
        if value not in options:
            raise ValueError(
                f"Unknown {name} {value!r}.{messages.suggest(value, options)} Use "
                f"one of {options}."
            )
    if model.bank_width is not None and model.bank_width < 1:
        raise ValueError(f"bank_width={model.bank_width}; use at least 1, or None.")
    if min(model.num_nodes, model.patch_size) < 1:
        raise ValueError(
            f"num_nodes={model.num_nodes} and patch_size={model.patch_size} must be "
            "at least 1."
        )
