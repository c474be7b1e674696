"""Pruning and quantisation of trained parameters, the baselines of the ADR paper.

Each is a function from parameters to parameters; nothing is trained again. Filters are
set to zero and not removed, so that the model stays the same.

Source: Li et al., arXiv 2412.16459, Table 5, and the papers named below.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from llie_jax.nn import layers

Params = Mapping[str, Any]

_LAYERS = (
    layers.Conv,
    layers.ConvTranspose,
    layers.DepthwiseConv,
    layers.DepthwiseSum,
    layers.GroupedConv,
    nn.Conv,
    nn.Dense,
)
"""The modules whose inputs are quantised."""


def magnitude_pruning(params: Params, *, amount: float) -> tuple[Params, Params]:
    """Sets the smallest weights of each convolution or linear layer to zero.

    Source: Han et al., Learning both Weights and Connections, NeurIPS 2015, without its
    training.

    Args:
        params: the parameters.
        amount: share of a layer's weights, rounded down to a whole number of them.

    Returns:
        Parameters, and a mask of the same structure: 0 where a weight was removed.

    Raises:
        ValueError: if `amount` is not in [0, 1].
    """
    check_amount(amount)

    def mask(kernel):
        flat = np.abs(kernel).ravel()
        kept = np.ones(flat.size, bool)
        kept[np.argsort(flat, kind="stable")[: _count(amount, flat.size)]] = False
        return kept.reshape(kernel.shape)

    return _masked(params, {path: mask(k) for path, k in _kernels(params).items()})


def filter_pruning(
    params: Params,
    *,
    amount: float,
    criterion: str = "l1",
    gradients: Params | None = None,
) -> tuple[Params, Params]:
    """Sets the least important output channels of each layer to zero, bias included.

    Args:
        params: the parameters.
        amount: share of a layer's filters, rounded down to a whole number of them.
        criterion: "l1", the sum of absolute weights (Li et al., Pruning Filters for
            Efficient ConvNets, ICLR 2017); "taylor", the sum of squared products of
            weight and gradient (Molchanov et al., Importance Estimation for Neural
            Network Pruning, CVPR 2019); "fpgm", the sum of distances to the layer's
            other filters (He et al., Filter Pruning via Geometric Median, CVPR 2019).
        gradients: of the loss, for "taylor"; of the structure of `params`, or a list of
            them from several batches.

    Returns:
        Parameters and mask, see `magnitude_pruning`.

    Raises:
        ValueError: if `amount` is not in [0, 1], the criterion is unknown, or gradients
            are missing.
    """
    check_amount(amount)
    if criterion not in CRITERIA:
        raise ValueError(f"Unknown criterion {criterion!r}; use one of {CRITERIA}.")
    if criterion == "taylor" and gradients is None:
        raise ValueError("The criterion 'taylor' needs gradients of training batches.")
    batches = gradients if isinstance(gradients, list) else [gradients or {}]
    batches = [traverse_util.flatten_dict(batch, sep="/") for batch in batches]
    flat = traverse_util.flatten_dict(params, sep="/")
    masks = {}
    for path, kernel in _kernels(params).items():
        bias = path.removesuffix("kernel") + "bias"
        # The kernel of a transposed convolution has its output channels before its
        # input channels.
        swapped = bias in flat and flat[bias].size != kernel.shape[-1]
        axis = kernel.ndim - 1 - swapped

        def filters(values, axis=axis):
            values = np.moveaxis(np.asarray(values, np.float64), axis, 0)
            return values.reshape(len(values), -1)

        if criterion == "l1":
            importance = np.abs(filters(kernel)).sum(1)
        elif criterion == "taylor":
            importance = sum(
                np.square(filters(kernel) * filters(batch[path])).sum(1)
                for batch in batches
            )
        else:
            importance = _distances(filters(kernel)).sum(1)
        kept = np.ones(len(importance), bool)
        removed = np.argsort(importance, kind="stable")[: _count(amount, len(kept))]
        kept[removed] = False
        masks[bias] = kept
        masks[path] = np.broadcast_to(
            np.expand_dims(kept, tuple(i for i in range(kernel.ndim) if i != axis)),
            kernel.shape,
        )
    return _masked(params, masks)


CRITERIA = ("l1", "taylor", "fpgm")


def quantise_weights(params: Params, *, bits: int) -> Params:
    """Rounds each layer's weights to 2^bits - 1 evenly spaced values round zero.

    Source: Cai et al., ZeroQ, CVPR 2020, in the part that needs no batch norm; the
    range is that of the tensor.

    Raises:
        ValueError: if `bits` is below 2.
    """
    check_bits(bits)
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    for path, kernel in _kernels(params).items():
        flat[path] = np.asarray(_rounded(kernel, np.abs(kernel).max(), bits))
    return traverse_util.unflatten_dict(flat, sep="/")


def activation_ranges(
    model: nn.Module, variables: Mapping[str, Any], rng: jax.Array, *, side: int = 64
) -> dict[str, float]:
    """Returns the largest absolute input of each layer on images of random noise.

    Args:
        model: the model.
        variables: its variables.
        rng: random key of the noise.
        side: of the four images, rounded up to the model's `multiple`.
    """
    side += -side % model.multiple
    image = jax.random.uniform(rng, (4, side, side, 3))

    @jax.jit
    def run(variables, image):
        found = {}

        def record(call, args, kwargs, context):
            if _is_layer(context):
                path = "/".join(context.module.path)
                largest = jnp.max(jnp.abs(args[0]))
                found[path] = jnp.maximum(found.get(path, 0.0), largest)
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            model.apply(variables, image)
        return found

    return {path: float(value) for path, value in run(variables, image).items()}


def quantised_apply(
    model: nn.Module, ranges: Mapping[str, float], *, bits: int
) -> Callable[..., Any]:
    """Returns `model.apply` with the inputs of all layers rounded (fake quantisation).

    Args:
        model: the model.
        ranges: from `activation_ranges`; larger values are cut off.
        bits: of the rounded values.

    Raises:
        ValueError: if `bits` is below 2.
    """
    check_bits(bits)

    def interceptor(call, args, kwargs, context):
        path = "/".join(context.module.path or ())
        if _is_layer(context) and path in ranges:
            args = (_rounded(args[0], ranges[path], bits), *args[1:])
        return call(*args, **kwargs)

    @functools.wraps(model.apply)
    def apply(*args, **kwargs):
        with nn.intercept_methods(interceptor):
            return model.apply(*args, **kwargs)

    return apply


def _rounded(x, largest, bits: int):
    """Returns x rounded to multiples of largest / (2^(bits - 1) - 1) in its range."""
    steps = 2 ** (bits - 1) - 1
    scale = jnp.maximum(jnp.asarray(largest, jnp.float32), 1e-30) / steps
    return (jnp.clip(jnp.round(x / scale), -steps, steps) * scale).astype(x.dtype)


def _is_layer(context) -> bool:
    return isinstance(context.module, _LAYERS) and context.method_name == "__call__"


def _kernels(params: Params) -> dict[str, np.ndarray]:
    """Returns the kernels of convolutions and linear layers, by path.

    Those of ADR's generators are not among them: they make kernels, not features.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    return {
        path: np.asarray(value)
        for path, value in flat.items()
        if path.endswith("/kernel") and "reallocate" not in path.split("/")
    }


def _distances(filters: np.ndarray) -> np.ndarray:
    """Returns the distances between all filters, [features, features]."""
    squares = np.square(filters).sum(1)
    products = squares[:, None] + squares - 2 * filters @ filters.T
    return np.sqrt(np.maximum(products, 0))


def _masked(params: Params, masks: Mapping[str, np.ndarray]) -> tuple[Params, Params]:
    """Returns parameters times masks, and the masks of all parameters."""
    flat = traverse_util.flatten_dict(params, sep="/")
    whole = {
        path: np.asarray(masks.get(path, np.ones(np.shape(value), bool)))
        for path, value in flat.items()
    }
    pruned = {path: np.asarray(flat[path]) * whole[path] for path in flat}
    return tuple(
        traverse_util.unflatten_dict(tree, sep="/") for tree in (pruned, whole)
    )


def _count(amount: float, total: int) -> int:
    """Returns a share of a number, rounded down but for rounding errors."""
    return math.floor(amount * total + 1e-9)


def check_amount(amount: float) -> None:
    """Raises ValueError if `amount` is no share."""
    if not 0 <= amount <= 1:
        raise ValueError(f"amount is {amount}; give a share between 0 and 1.")


def check_bits(bits: int) -> None:
    """Raises ValueError if there are too few bits for symmetric values."""
    if bits < 2:
        raise ValueError(f"bits={bits}; symmetric values need at least 2.")
