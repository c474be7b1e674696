"""Banks of learnable feature vectors and patches: how they are read and updated.

A vector is a node of one pixel, a patch a node of k x k pixels. `Query` reads a bank.
In training, an `UpdateRule` computes new nodes from the old ones and from samples of
the batch's features.

Source: Learnable Feature Patches and Vectors for Boosting Low-light Image Enhancement
without External Knowledge, ICCV 2025; the authors' code where the paper is silent.
"""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.nn import layers, norms
from llie_jax.registry import Card, register
from llie_jax.types import Dtype, ModuleFactory

KINDS = ("vector", "patch")
"""The kinds of nodes."""

_EPSILON = 1e-5
NORMED_LAYERS = 6
"""Number of layers of an `UpdateNetwork` that a norm and a ReLU follow."""

Partners = Mapping[str, jax.Array]
"""Kind -> index of each node's partner, [l]."""


class Query(nn.Module):
    """Reads a bank: each pixel and each patch attends to the most similar nodes.

    Computed in float32.

    Source: the authors' code; Section 4 of the paper gives the idea.

    Attributes:
        norms: whether layer norms precede the comparison of queries and keys, as in the
            authors' code. False compares raw features and nodes, as in the slides.
        param_dtype: storage dtype of the parameters.
    """

    norms: bool = True
    param_dtype: Dtype = jnp.float32

    def setup(self):
        """Builds the four norms."""
        if not self.norms:
            self.vector_query = self.vector_key = _unchanged
            self.patch_query = self.patch_key = _unchanged
            return
        norm = functools.partial(
            norms.CountedLayerNorm,
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
        """Returns the attention weights over the nodes, which sum to 1.

        Args:
            features: [B, h, w, c].
            c_v: vectors [l, c].
            c_p: patches [l, k, k, c].

        Returns:
            Weights of the vectors [B, h, w, l] and of the patches [B, h / k, w / k, l].
        """
        features = features.astype(jnp.float32)
        patches = layers.pixel_unshuffle(features, c_p.shape[1])
        vector_keys, patch_keys = self._keys(c_v, c_p)
        # No scale: the norms determine how sharp the attention is.
        return (
            nn.softmax(self.vector_query(features) @ vector_keys.T),
            nn.softmax(self.patch_query(patches) @ patch_keys.T),
        )

    def _keys(self, c_v, c_p):
        """Returns the normalised nodes, from the cache if it holds them."""
        if not self.norms:
            return c_v, _flat(c_p)
        names = ("vector_keys", "patch_keys")
        if self.has_variable("cache", names[0]):
            return tuple(self.get_variable("cache", name) for name in names)
        keys = self.vector_key(c_v), self.patch_key(_flat(c_p))
        if self.is_mutable_collection("cache") and not self.is_initializing():
            for name, value in zip(names, keys, strict=True):
                self.put_variable("cache", name, value)
        return keys


def _unchanged(x: jax.Array) -> jax.Array:
    return x


def _flat(c_p: jax.Array) -> jax.Array:
    """Returns patches [l, k, k, c] as [l, c * k * k], in `pixel_unshuffle`'s order."""
    return c_p.transpose(0, 3, 1, 2).reshape(len(c_p), -1)


def _mean_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


class UpdateNetwork(nn.Module):
    """Seven convolutions, with batch norm and ReLU between them.

    Source: the authors' code.

    Attributes:
        width: channels c of a node; all hidden layers but the last have 4 * c.
        kernel_size: 1 for vectors, 3 for patches.
        axis_name: mesh axis over which the rows are sharded, or None.
        param_dtype: storage dtype of the parameters.
    """

    width: int
    kernel_size: int
    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, *operands: jax.Array) -> jax.Array:
        """Returns [..., s, s, c], a row per combination of the operands' rows.

        Args:
            *operands: arrays [..., s, s, c]; leading axes are broadcast.
        """
        types = dict(param_dtype=self.param_dtype)
        size = self.kernel_size
        x = layers.JointConv(4 * self.width, (size, size), name="conv_0", **types)(
            *operands
        )
        rows = x.shape[:-1]
        x = x.reshape(-1, *x.shape[-3:])
        for i in range(NORMED_LAYERS):
            norm = norms.BatchNorm(
                axis_name=self.axis_name, running=False, name=f"norm_{i}", **types
            )
            x = nn.relu(norm(x))
            features = self.width if i >= NORMED_LAYERS - 2 else 4 * self.width
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


class UpdateRule(nn.Module):
    """Updates the nodes of one kind in a training step.

    Attributes:
        width: channels c of a node.
        kernel_size: of the networks' convolutions: 1 for vectors, 3 for patches.
        axis_name: mesh axis over which the batch is sharded, or None.
        param_dtype: storage dtype of the parameters.
        draws_partners: whether each node needs a random partner.
    """

    width: int
    kernel_size: int
    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    draws_partners: ClassVar[bool] = False

    def setup(self):
        """Builds the Sample Updater's network and the Mutual Updater's."""
        network = functools.partial(
            UpdateNetwork, self.width, self.kernel_size, param_dtype=self.param_dtype
        )
        self.sample = network(axis_name=self.axis_name)
        self.mutual = network()  # its rows are the same on every device

    def from_samples(
        self, nodes: jax.Array, samples: jax.Array, identity: jax.Array
    ) -> jax.Array:
        """Returns the mean update from the samples of all devices, [l, s, s, c].

        Args:
            nodes: [l, s, s, c].
            samples: samples of this device's images, [b, s, s, c].
            identity: embeddings of the nodes [l, c].
        """
        identity = spread(identity, nodes)
        updates = self.sample(nodes[:, None], samples[None], identity[:, None])
        # The only exchange between devices.
        return _mean_over_devices(jnp.mean(updates, axis=1), self.axis_name)

    def __call__(
        self,
        nodes: jax.Array,
        samples: jax.Array,
        identity: jax.Array,
        *,
        kind: str,
        partners: Partners | None = None,
    ) -> jax.Array:
        """Returns new nodes [l, s, s, c].

        Args:
            nodes: [l, s, s, c].
            samples: samples of this device's images, [b, s, s, c].
            identity: embeddings of the nodes [l, c].
            kind: one of `KINDS`.
            partners: the partners of both kinds, for rules that draw them.
        """
        raise TypeError(f"{type(self).__name__} does not define `__call__`.")


_INTERNAL = ("width", "kernel_size", "axis_name", "param_dtype")


@register("released", Card("update_rule", internal=_INTERNAL))
class Released(UpdateRule):
    """Replaces each node by an update from the samples, then from one random partner.

    Source: the authors' code.

    Attributes:
        fix_partner_identity: whether a patch's partner comes with its own embedding.
            False uses that of the vector's partner, as in the authors' code.
    """

    fix_partner_identity: bool = True

    draws_partners = True

    def setup(self):
        """Builds the networks, and a norm after each."""
        super().setup()
        self.sample_norm = NodeNorm(param_dtype=self.param_dtype)
        self.mutual_norm = NodeNorm(param_dtype=self.param_dtype)

    def __call__(self, nodes, samples, identity, *, kind, partners=None) -> jax.Array:
        """Returns new nodes [l, s, s, c]; see `UpdateRule`."""
        nodes = self.sample_norm(self.from_samples(nodes, samples, identity))
        partner = partners[kind]
        named = partner if self.fix_partner_identity else partners["vector"]
        return self.mutual_norm(
            self.mutual(
                nodes,
                nodes[partner],
                spread(identity, nodes),
                spread(identity[named], nodes),
            )
        )


@register("paper", Card("update_rule", internal=_INTERNAL))
class Paper(UpdateRule):
    """Adds to each node updates from all samples and from all pairs of old nodes.

    Source: the paper's update equations.
    Differs: means replace sums, and a norm follows, since sums grow with the batch and
    the number of nodes, and without bound; `stabilise=False` is the paper's form.

    Attributes:
        include_self: whether the pair of a node with itself counts. The batch norms
            include it either way.
        stabilise: whether to use means and a norm instead of sums.
    """

    include_self: bool = False
    stabilise: bool = True

    def setup(self):
        """Builds the networks, and the norm if `stabilise`."""
        super().setup()
        if self.stabilise:
            self.norm = NodeNorm(param_dtype=self.param_dtype)

    def __call__(self, nodes, samples, identity, *, kind, partners=None) -> jax.Array:
        """Returns new nodes [l, s, s, c]; see `UpdateRule`."""
        del kind, partners
        by_samples = self.from_samples(nodes, samples, identity)
        count, identity = len(nodes), spread(identity, nodes)
        pairs = self.mutual(
            nodes[:, None], nodes[None], identity[:, None], identity[None]
        )
        others = 1 - jnp.eye(count)[..., None, None, None]
        by_nodes = jnp.sum(pairs * (1.0 if self.include_self else others), axis=1)
        if self.stabilise:
            num_others = count if self.include_self else max(count - 1, 1)
            return self.norm(nodes + by_samples + by_nodes / num_others)
        num_samples = len(samples)
        if self.axis_name is not None:
            num_samples *= jax.lax.axis_size(self.axis_name)
        return nodes + num_samples * by_samples + by_nodes


def spread(identity: jax.Array, nodes: jax.Array) -> jax.Array:
    """Returns embeddings [l, c] at every pixel of the nodes, [l, s, s, c]."""
    return jnp.broadcast_to(identity[:, None, None, :], nodes.shape)


class Updaters(nn.Module):
    """Updates a bank in training, with a rule for vectors and one for patches.

    Attributes:
        rule: slot for the update rule.
        axis_name: mesh axis over which the batch is sharded, or None.
        param_dtype: storage dtype of the parameters.
    """

    rule: ModuleFactory = Released
    axis_name: str | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        c_v: jax.Array,
        c_p: jax.Array,
        samples: Mapping[str, jax.Array],
        draw_partners: Callable[[], Partners],
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the new vectors [l, c] and patches [l, k, k, c].

        Args:
            c_v: vectors [l, c].
            c_p: patches [l, k, k, c].
            samples: samples of the features, `vector` [b, 1, 1, c] and `patch`
                [b, k, k, c].
            draw_partners: called once if the rule needs partners.
        """
        count, width = c_v.shape
        # Vectors and patches share one table.
        identity = self.param(
            "embedding", nn.initializers.normal(1.0), (count, width), self.param_dtype
        )
        options = dict(axis_name=self.axis_name, param_dtype=self.param_dtype)
        vector, patch = (
            self.rule(width=width, kernel_size=size, name=kind, **options)
            for kind, size in (("vector", 1), ("patch", 3))
        )
        more = {"partners": draw_partners()} if vector.draws_partners else {}
        c_v = vector(
            c_v[:, None, None], samples["vector"], identity, kind="vector", **more
        )
        c_p = patch(c_p, samples["patch"], identity, kind="patch", **more)
        return c_v[:, 0, 0], c_p


def sample(features: jax.Array, corners: jax.Array, side: int) -> jax.Array:
    """Returns crops of feature maps.

    Args:
        features: [B, h, w, c].
        corners: (row, column) of the upper left pixels: [2] for all maps, [B, 2], or
            [B, n, 2] for several crops of each map. Crops that reach beyond the
            features are moved inside.
        side: rows and columns of the crops.

    Returns:
        [B, side, side, c], or [B * n, side, side, c] with the crops of a map together.
    """

    def cut(image, corner):
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (side, side, image.shape[-1])
        )

    corners = jnp.asarray(corners)
    if corners.ndim < 3:
        corners = jnp.broadcast_to(corners, (len(features), 2))[:, None]
    cuts = jax.vmap(jax.vmap(cut, in_axes=(None, 0)))(features, corners)
    return cuts.reshape(-1, *cuts.shape[2:])
