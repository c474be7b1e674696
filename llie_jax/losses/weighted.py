"""The weighted sum of named loss terms, and the specs that terms come in.

A term is a loss's spec plus where and how much:

    pixel = "l1"
    guide = {"name": "l1", "on": "aux.guide", "resize": "target_area"}
    edge = {"name": "edge", "weight": 50.0}
    colour = {"name": "l1", "space": "hvi"}
    flow = {"name": "model_loss", "on": "losses.nll"}
    warm = {"name": "mse", "weight": {"name": "linear", "init_value": 0.0,
                                      "end_value": 1.0, "transition_steps": 1000}}
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llie_jax import messages, registry
from llie_jax.image.hvi import rgb_to_hvi
from llie_jax.image.resize import area_downsample, nearest_upsample
from llie_jax.losses.pixel import as_float
from llie_jax.registry import register
from llie_jax.types import Batch, Outputs

RESIZES = ("target_area", "prediction_nearest")
SPACES = ("hvi",)
# "" and not None for no resize: a config's flag needs a value with a type.
_DEFAULTS = {"on": "image", "weight": 1.0, "resize": "", "space": ""}


@register("model_loss", kind="loss", needs_target=False)
def model_loss(value: jax.Array) -> jax.Array:
    """Returns a loss that the model computed itself, a scalar or [B], unchanged."""
    return value


@register("linear", kind="weight_schedule")
def _linear(
    *,
    init_value: float,
    end_value: float,
    transition_steps: int,
    transition_begin: int = 0,
) -> optax.Schedule:
    """A straight line from one value to another, constant before and after."""
    return optax.linear_schedule(
        init_value, end_value, transition_steps, transition_begin
    )


@register("cosine", kind="weight_schedule")
def _cosine(
    *, init_value: float, decay_steps: int, alpha: float = 0.0
) -> optax.Schedule:
    """Half a cosine down from `init_value` to `alpha * init_value`, then constant."""
    return optax.cosine_decay_schedule(init_value, decay_steps, alpha)


@register("piecewise_constant", kind="weight_schedule")
def _piecewise_constant(
    *, values: tuple[float, ...], boundaries: tuple[int, ...]
) -> optax.Schedule:
    """The first value up to the first boundary (a step), then the second, ..."""
    schedules = [optax.constant_schedule(value) for value in values]
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            f"piecewise_constant has {len(values)} values and {len(boundaries)} "
            "boundaries; give one value more than boundaries."
        )
    return optax.join_schedules(schedules, boundaries)


def complete_term(spec: registry.Spec) -> dict[str, Any]:
    """Returns a term's spec with every field filled in, as a config holds it.

    Args:
        spec: name of a loss, or a dict of `name`, and as wanted `on` ("image",
            "aux.NAME", "losses.NAME"), `weight` (a number or a schedule's spec; 0 turns
            the term off), `resize` ("" or one of `RESIZES`), `space` ("" for RGB, or
            "hvi": both images are brought to HVI with the model's `aux.density_k`), and
            the loss's options.

    Raises:
        TypeError: if the spec or its weight has the wrong type.
        ValueError: if the loss, an option or a value is unknown.
    """
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in spec:
        raise ValueError(f"A loss term needs a 'name'; got the keys {sorted(spec)}.")
    part = registry.get(spec["name"], kind="loss")
    known = [*_DEFAULTS, *part.fields()]
    for key in spec:
        if key != "name" and key not in known:
            raise ValueError(
                f"The loss term {part.name!r} has no option {key!r}."
                f"{messages.suggest(key, known)} Options: {', '.join(known)}."
            )
    term = {key: spec.pop(key, default) for key, default in _DEFAULTS.items()}
    term["weight"] = _complete_weight(term["weight"])
    root, _, leaf = str(term["on"]).partition(".")
    if term["on"] != "image" and not (root in ("aux", "losses") and leaf):
        raise ValueError(
            "A loss term is on 'image', 'aux.NAME' or 'losses.NAME', "
            f"not {term['on']!r}."
        )
    if part.facts.get("whole_output") and term["on"] != "image":
        raise ValueError(f"{part.name!r} reads the whole output; leave out 'on'.")
    if root == "losses" and part.make is not model_loss:
        raise ValueError(
            f"{term['on']!r} is a loss already; its name is 'model_loss', "
            f"not {part.name!r}."
        )
    for key, options in (("resize", RESIZES), ("space", SPACES)):
        term[key] = term[key] or ""
        if term[key] not in ("", *options):
            raise ValueError(
                f"Unknown {key} {term[key]!r}.{messages.suggest(term[key], options)} "
                f"Use '' or one of {options}."
            )
    if term["space"] and (
        part.facts.get("whole_output") or not part.facts.get("needs_target", True)
    ):
        raise ValueError(f"{part.name!r} compares no images; leave out 'space'.")
    return {**registry.complete_spec(spec, kind="loss"), **term}


class WeightedLoss:
    """The sum of weighted loss terms, each averaged over the batch.

    Args:
        terms: name of the term -> spec, see `complete_term`.

    Attributes:
        terms: the complete specs.

    Raises:
        TypeError, ValueError: if a spec is wrong, or no term is left.
    """

    def __init__(self, terms: Mapping[str, registry.Spec]):
        self.terms = {name: complete_term(spec) for name, spec in terms.items()}
        self._active = {
            name: _Term(name, spec)
            for name, spec in self.terms.items()
            if spec["weight"] != 0
        }
        if not self._active:
            raise ValueError("A loss needs at least one term whose weight is not 0.")

    def load_frozen(self) -> dict[str, Any]:
        """Returns the weights of the networks behind the terms, {} if there are none.

        To be loaded once and passed to every call, an argument of the compiled step.

        Raises:
            FileNotFoundError, ImportError, ValueError: if a file is missing or unfit.
        """
        return {key: loss.load_frozen() for key, loss in self._networks().items()}

    def frozen_shapes(self) -> dict[str, Any]:
        """Returns the shapes of `load_frozen` without needing the files."""
        return {key: loss.frozen_shapes() for key, loss in self._networks().items()}

    def _networks(self) -> dict[str, Any]:
        losses = [term.loss for term in self._active.values()]
        return {loss.frozen_key: loss for loss in losses if hasattr(loss, "frozen_key")}

    def __call__(
        self,
        outputs: Outputs,
        batch: Batch,
        frozen: Mapping[str, Any],
        step: jax.Array | int,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the total and what each term adds to it, scalars.

        The values are weighted, so that a log shows what counts: the total is their
        sum. Images of `batch["weight"]` 0 do not count.

        Args:
            outputs: of the model.
            batch: `image`, `target` [B, H, W, 3] in [0, 1], and `weight` [B] if some
                images only pad the batch.
            frozen: from `load_frozen`.
            step: for weights that are schedules.

        Raises:
            ValueError: if a term's path is absent, or sizes differ and `resize` is not
                set.
        """
        terms = {
            name: term.weight(step)
            * _average(term.values(outputs, batch, frozen), batch.get("weight"))
            for name, term in self._active.items()
        }
        return sum(terms.values()), terms


class _Term:
    """One term: picks its prediction, brings it to the target's size, compares."""

    def __init__(self, name: str, spec: Mapping[str, Any]):
        part = registry.get(spec["name"], kind="loss")
        options = {key: spec[key] for key in part.fields() if key in spec}
        self.name = name
        self.facts = part.facts
        self.on = spec["on"]
        self.resize = spec["resize"]
        self.space = spec["space"]
        self.weight = _schedule(spec["weight"])
        self.loss = functools.partial(part.make, **options)
        if inspect.isclass(part.make):  # a loss with a network behind it
            self.loss = self.loss()

    def values(self, outputs: Outputs, batch: Batch, frozen: Mapping) -> jax.Array:
        """Returns the loss per image [B], or a scalar of the model's own."""
        if self.facts.get("whole_output"):
            arguments = (outputs, batch)
        elif self.facts.get("needs_target", True):
            arguments = self._resized(_pick(outputs, self.on, self.name), batch)
            if self.space == "hvi":
                density_k = _pick(outputs, "aux.density_k", self.name)
                arguments = tuple(rgb_to_hvi(as_float(x), density_k) for x in arguments)
        else:
            arguments = (_pick(outputs, self.on, self.name),)
        if hasattr(self.loss, "frozen_key"):
            arguments += (frozen[self.loss.frozen_key],)
        return self.loss(*arguments)

    def _resized(self, prediction: jax.Array, batch: Batch) -> tuple:
        """Returns prediction and target at one size."""
        target = batch["target"]
        if prediction.shape == target.shape:
            return prediction, target
        if prediction.ndim != 4 or target.ndim != 4:
            raise ValueError(
                f"The loss term {self.name!r} compares images [B, H, W, C], but "
                f"{self.on} is {prediction.shape} and the target {target.shape}."
            )
        if not self.resize:
            raise ValueError(
                f"The loss term {self.name!r} compares {self.on} {prediction.shape} "
                f"with the target {target.shape}; set its 'resize' to 'target_area' "
                "(averages the target) or 'prediction_nearest' (repeats pixels)."
            )
        # The model's input and not the target tells the factor: where the input was
        # padded, the prediction covers the padding too.
        full = batch["image"].shape
        factor = full[1] // prediction.shape[1]
        if tuple(factor * side for side in prediction.shape[1:3]) != full[1:3]:
            raise ValueError(
                f"The loss term {self.name!r} can resize by a whole factor only; "
                f"{self.on} is {prediction.shape} for an input of {full}."
            )
        height, width = target.shape[1:3]
        if self.resize == "prediction_nearest":
            prediction = nearest_upsample(as_float(prediction), factor)
            return prediction[:, :height, :width], target
        # Cells that the target fills only in part are left out.
        height, width = height // factor, width // factor
        target = as_float(target[:, : height * factor, : width * factor])
        return prediction[:, :height, :width], area_downsample(target, factor)


def _pick(outputs: Outputs, path: str, term: str) -> jax.Array:
    """Returns the prediction at "image", "aux.NAME" or "losses.NAME"."""
    paths = {"image": outputs.image}
    paths |= {f"aux.{name}": value for name, value in outputs.aux.items()}
    paths |= {f"losses.{name}": value for name, value in outputs.losses.items()}
    if path not in paths:
        raise ValueError(
            f"The loss term {term!r} is on {path!r}, which this model does not give."
            f"{messages.suggest(path, paths)} It gives: {', '.join(paths)}."
        )
    return paths[path]


def _average(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Returns the mean over the batch, images of weight 0 left out."""
    if values.ndim == 0 or weight is None:
        return values.mean()
    # A device may hold nothing but padding: 0 then, not 0 / 0.
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def _complete_weight(weight: Any) -> Any:
    """Returns a term's weight as a float or a complete schedule spec."""
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        return float(weight)
    try:
        spec = dict(weight)
    except (TypeError, ValueError):
        raise TypeError(
            f"A loss term's weight is a number or a schedule's spec, not {weight!r}."
        ) from None
    spec = registry.complete_spec(spec, kind="weight_schedule")
    _schedule(spec)  # its own check of values
    return spec


def _schedule(weight: float | Mapping[str, Any]) -> Callable[[Any], Any]:
    """Returns step -> weight."""
    if isinstance(weight, float):
        return lambda step: weight
    part, fields = registry.split_spec(weight, kind="weight_schedule")
    return part.make(**fields)
