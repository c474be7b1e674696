"""Pruning and quantisation of trained models, the baselines of the ADR paper.

Nothing is retrained. Pruned filters are set to zero and not removed, so the shapes of
the model stay as they are.

Source: Li et al., arXiv 2412.16459, Table 5, and the papers named below.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from llie_jax import messages
from llie_jax.data import sources
from llie_jax.image import levels
from llie_jax.inference.enhancer import Enhancer
from llie_jax.models.base import Model
from llie_jax.nn import layers
from llie_jax.studies import frame, redundancy_report
from llie_jax.studies.redundancy import RedundancyStudy, ResetStudy
from llie_jax.types import Outputs

Params = Mapping[str, Any]

CRITERIA = ("l1", "taylor", "fpgm")
"""How filters are ranked, see `filter_pruning`."""

QUANTISED = {
    "weights": ("weights",),
    "activations": ("activations",),
    "zeroq": ("weights", "activations"),
}
"""Method -> what it quantises."""

METHODS = ("magnitude", *CRITERIA, *QUANTISED)
"""The methods of `CompressionStudy`."""

_SIDE = 64  # of the crops whose gradients are taken, in pixels

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

    Source: Han et al., Learning both Weights and Connections, NeurIPS 2015.
    Differs: nothing is retrained.

    Args:
        params: the parameters.
        amount: share of a layer's weights; their number is rounded down.

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
        amount: share of a layer's filters; their number is rounded down.
        criterion: "l1", the sum of absolute weights (Li et al., Pruning Filters for
            Efficient ConvNets, ICLR 2017); "taylor", the sum of squared products of
            weight and gradient (Molchanov et al., Importance Estimation for Neural
            Network Pruning, CVPR 2019); "fpgm", the sum of distances to the layer's
            other filters (He et al., Filter Pruning via Geometric Median, CVPR 2019).
        gradients: of the loss, for "taylor"; a tree like `params`, or a list of such
            trees, one for each batch.

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


def quantise_weights(params: Params, *, bits: int) -> Params:
    """Rounds each layer's weights to 2^bits - 1 evenly spaced values around zero.

    Source: Cai et al., ZeroQ, CVPR 2020, the part that does not depend on batch norms;
    each tensor has its own range.

    Raises:
        ValueError: if `bits` is below 2.
    """
    check_bits(bits)
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    for path, kernel in _kernels(params).items():
        flat[path] = np.asarray(_rounded(kernel, np.abs(kernel).max(), bits))
    return traverse_util.unflatten_dict(flat, sep="/")


def activation_ranges(
    model: Model, variables: Mapping[str, Any], rng: jax.Array, *, side: int = 64
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


class Quantised(Model):
    """A model that rounds the inputs of its layers (fake quantisation).

    Its variables are those of the original model.

    Attributes:
        original: the model.
        ranges: pairs of path and largest value, from `activation_ranges`; larger
            values are clipped.
        bits: of the rounded values.

    Raises:
        ValueError: if `bits` is below 2.
    """

    original: Model
    ranges: tuple[tuple[str, float], ...]
    bits: int

    def __post_init__(self):
        check_bits(self.bits)
        super().__post_init__()

    def setup(self):
        """Puts the variables of the original model where this model has its own."""
        nn.share_scope(self, self.original)

    @property
    def multiple(self) -> int:
        """That of the original model."""
        return self.original.multiple

    @property
    def pad_mode(self) -> str:
        """That of the original model."""
        return self.original.pad_mode

    @property
    def overview(self) -> int:
        """That of the original model."""
        return self.original.overview

    @nn.nowrap
    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the native inputs of the original model."""
        return self.original.native_inputs(image)

    def __call__(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        **inputs: jax.Array,
    ) -> Outputs:
        """Enhances images; see `Model`."""
        ranges = dict(self.ranges)

        def interceptor(call, args, kwargs, context):
            path = "/".join(context.module.path or ())
            if _is_layer(context) and path in ranges:
                args = (_rounded(args[0], ranges[path], self.bits), *args[1:])
            return call(*args, **kwargs)

        with nn.intercept_methods(interceptor):
            return self.original(image, target=target, train=train, **inputs)


def _rounded(x, largest, bits: int):
    """Returns x rounded to multiples of largest / (2^(bits - 1) - 1) in its range."""
    steps = 2 ** (bits - 1) - 1
    scale = jnp.maximum(jnp.asarray(largest, jnp.float32), 1e-30) / steps
    return (jnp.clip(jnp.round(x / scale), -steps, steps) * scale).astype(x.dtype)


def _is_layer(context) -> bool:
    return isinstance(context.module, _LAYERS) and context.method_name == "__call__"


def _kernels(params: Params) -> dict[str, np.ndarray]:
    """Returns the kernels of convolutions and linear layers, by path.

    Without those of ADR's generators, which make kernels and not features.
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
    """Returns a share of a number, rounded down except for floating-point errors."""
    return math.floor(amount * total + 1e-9)


def check_amount(amount: float) -> None:
    """Raises ValueError if `amount` is not in [0, 1]."""
    if not 0 <= amount <= 1:
        raise ValueError(f"amount is {amount}; give a share between 0 and 1.")


def check_bits(bits: int) -> None:
    """Raises ValueError if symmetric float32 values cannot have so many bits."""
    if not 2 <= bits <= 24:
        raise ValueError(f"bits={bits}; symmetric values need at least 2, at most 24.")


def gradients(
    model: Model,
    variables: Mapping[str, Any],
    source: sources.Source,
    count: int = 4,
) -> list[Params]:
    """Returns gradients of the L1 loss, one for the centre crop of each of some pairs.

    Args:
        model: the model.
        variables: its variables.
        source: training pairs, of which evenly spaced ones are used.
        count: number of pairs.

    Raises:
        ValueError: if an image is smaller than the model's `multiple`, or there are no
            references.
    """
    sources.check_keys(source, ("target",), "A gradient of the L1 loss")
    multiple, found = model.multiple, []
    for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)):
        record = source[int(index)]
        window = []
        for length in record["image"].shape[:2]:
            side = min(max(_SIDE, multiple), length) // multiple * multiple
            if not side:
                raise ValueError(
                    f"{record['name']} has a side of {length} pixels; gradients "
                    f"need {multiple}."
                )
            window.append(slice((length - side) // 2, (length + side) // 2))
        pair = (record[key][tuple(window)][None] for key in ("image", "target"))
        found.append(jax.tree.map(np.asarray, _gradient(model, variables, *pair)))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model, variables, image, target):
    """Returns the gradient of the L1 loss of a pair, [1, H, W, 3] both."""
    image, target = levels.to_float(image), levels.to_float(target)

    def loss(params):
        output = model.apply({**variables, "params": params}, image).image
        return jnp.mean(jnp.abs(output - target))

    return jax.grad(loss)(variables["params"])


@dataclasses.dataclass(frozen=True, eq=False)
class CompressionStudy(RedundancyStudy):
    """PSNR before and after pruning or quantisation.

    Attributes:
        method: one of `METHODS`: those of `QUANTISED` quantise, the others prune.
        amount: share of weights or filters that is pruned.
        bits: of quantised values.
        pairs: training pairs whose gradients rank the filters, for method "taylor".
        resets: also measures DMR of the compressed model in this way, None does not.

    Raises:
        ValueError: if an option is not accepted, or "taylor" has no pairs.
    """

    method: str = "magnitude"
    amount: float = 0.1
    bits: int = 8
    pairs: sources.Source | None = None
    resets: ResetStudy | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(
                f"Unknown method {self.method!r}."
                f"{messages.suggest(self.method, METHODS)} Use one of {METHODS}."
            )
        check_amount(self.amount)
        check_bits(self.bits)
        if self.method == "taylor" and self.pairs is None:
            raise ValueError("The method 'taylor' needs training pairs.")

    @property
    def label(self) -> str:
        """The short name of the study."""
        return "compress"

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the JSON file records."""
        left = bool(self.resets and self.resets.backbone_only)
        return {**super().settings, "backbone_only": left}

    def check(self, model: Model) -> None:
        """Raises ValueError if no layer of the model is to be reset for DMR."""
        if self.resets:
            self.resets.check(model)

    def steps(self, subject: frame.Subject) -> int:
        """Returns how often `run` calls `advance`."""
        resets = self.resets.steps(subject) if self.resets else subject.count
        return subject.count + resets

    def run(
        self, subject: frame.Subject, advance: Callable[[], None] = frame.no_progress
    ) -> frame.Findings:
        """Scores the model as trained and compressed; see `frame.Study.run`."""
        baseline = frame.Baseline(subject, advance)
        compressed, enhancer = self._compressed(subject)
        after = frame.Baseline(compressed, advance, enhancer)
        option = (
            {"bits": self.bits} if self.method in QUANTISED else {"amount": self.amount}
        )
        numbers = {
            "compression": {"method": self.method, **option},
            "psnr": float(np.mean(baseline.psnr)),
            "psnr_after": float(np.mean(after.psnr)),
            "images": {
                name: [before, value]
                for name, before, value in zip(
                    baseline.names, baseline.psnr, after.psnr, strict=True
                )
            },
        }
        if self.resets:
            numbers["dmr_after"] = self.resets.effects(after)["dmr"]
        return frame.Findings(numbers)

    def _compressed(
        self, subject: frame.Subject
    ) -> tuple[frame.Subject, Enhancer | None]:
        """Returns the compressed model, and what enhances with it if it does not."""
        model, variables = subject.model, subject.variables
        params, quantised = variables["params"], QUANTISED.get(self.method, ())
        if "weights" in quantised:
            params = quantise_weights(params, bits=self.bits)
        elif self.method == "magnitude":
            params, _ = magnitude_pruning(params, amount=self.amount)
        elif self.method in CRITERIA:
            found = None
            if self.method == "taylor":
                found = gradients(model, variables, self.pairs)
            params, _ = filter_pruning(
                params, amount=self.amount, criterion=self.method, gradients=found
            )
        variables = {**variables, "params": params}
        changed = dataclasses.replace(subject, variables=variables)
        if "activations" not in quantised:
            return changed, None
        ranges = activation_ranges(model, variables, jax.random.key(0))
        rounding = Quantised(model, tuple(ranges.items()), self.bits)
        return changed, frame.enhancer(rounding, variables)

    def lines(self, numbers: Mapping[str, Any]) -> list[str]:
        """Returns the numbers as text."""
        settings = ", ".join(f"{k} {v}" for k, v in numbers["compression"].items())
        found = [
            f"PSNR {numbers['psnr']:.2f} dB",
            f"after {settings}: PSNR {numbers['psnr_after']:.2f} dB",
        ]
        if "dmr_after" in numbers:
            found += redundancy_report.dmr_lines(numbers["dmr_after"])
        return found
