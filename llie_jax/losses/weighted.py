"""The weighted sum of named loss terms, and the specs of these terms.

A term is the spec of a loss plus what it compares and its weight:

    pixel = "l1"
    guide = {"name": "l1", "on": "aux.guide", "resize": "target_area"}
    edge = {"name": "edge", "weight": 50.0}
    colour = {"name": "l1", "space": "hvi"}
    apart = {"name": "l1", "gt_mean": True}
    darkness = {"name": "l1", "on": "aux.relit", "against": "image"}
    flow = {"name": "model_loss", "on": "losses.nll"}
    warm = {"name": "mse", "weight": {"name": "linear", "init_value": 0.0,
                                      "end_value": 1.0, "transition_steps": 1000}}
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from llie_jax import messages, registry
from llie_jax.image.hvi import rgb_to_hvi
from llie_jax.image.resize import area_downsample, nearest_upsample, resize_bicubic
from llie_jax.losses.base import LossCard, NetworkLoss
from llie_jax.losses.gt_mean import gt_mean
from llie_jax.losses.pixel import as_float
from llie_jax.registry import Card, register
from llie_jax.types import Batch, Outputs

RESIZES = ("target_area", "target_bicubic", "prediction_nearest")
SPACES = ("hvi",)
# "" and not None for no resize: a config's flag needs a value with a type.
_DEFAULTS = {
    "on": "image",
    "against": "target",
    "weight": 1.0,
    "resize": "",
    "space": "",
    "gt_mean": False,
}


@register("model_loss", LossCard(needs_target=False))
def model_loss(value: jax.Array) -> jax.Array:
    """Returns a loss that the model computes itself, a scalar or [B], unchanged."""
    return value


@register("linear", Card("weight_schedule"))
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


@register("cosine", Card("weight_schedule"))
def _cosine(
    *, init_value: float, decay_steps: int, alpha: float = 0.0
) -> optax.Schedule:
    """Half a cosine down from `init_value` to `alpha * init_value`, then constant."""
    return optax.cosine_decay_schedule(init_value, decay_steps, alpha)


@register("piecewise_constant", Card("weight_schedule"))
def _piecewise_constant(
    *, values: tuple[float, ...], boundaries: tuple[int, ...]
) -> optax.Schedule:
    """The first value before the first boundary (a step), then the second, ..."""
    schedules = [optax.constant_schedule(value) for value in values]
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            f"piecewise_constant has {len(values)} values and {len(boundaries)} "
            "boundaries; give one more value than boundaries."
        )
    return optax.join_schedules(schedules, boundaries)


def complete_term(spec: registry.Spec) -> dict[str, Any]:
    """Returns a term's spec with every field filled in, as a config holds it.

    Args:
        spec: name of a loss, or a dict of `name`, the loss's options, and optionally:
            `on`: the prediction ("image", "aux.NAME" or "losses.NAME" of the outputs).
            `against`: what it is compared with: "target", "image" (the low-light
            input), another image of the records by its key, or "aux.NAME" of the
            outputs; "" for a loss that compares nothing.
            `weight`: a number or the spec of a schedule; 0 turns the term off.
            `resize`: "" or one of `RESIZES`.
            `space`: "" for RGB, or "hvi" to convert both images to HVI with the model's
            `aux.density_k`.
            `gt_mean`: also compares the prediction with the brightness of the target,
            see `llie_jax.losses.gt_mean`.

    Raises:
        TypeError: if the spec or its weight has the wrong type.
        ValueError: if the loss, an option or a value is unknown.
    """
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in spec:
        raise ValueError(f"A loss term needs a 'name'; got the keys {sorted(spec)}.")
    part = registry.get(spec["name"], kind="loss")
    card: LossCard = part.card
    compares = card.needs_target and not card.whole_output
    known = [*_DEFAULTS, *part.fields()]
    for key in spec:
        if key != "name" and key not in known:
            raise ValueError(
                f"The loss term {part.name!r} has no option {key!r}."
                f"{messages.suggest(key, known)} Options: {', '.join(known)}."
            )
    defaults = _DEFAULTS if compares else {**_DEFAULTS, "against": ""}
    term = {key: spec.pop(key, default) for key, default in defaults.items()}
    term["weight"] = _complete_weight(term["weight"])
    root, _, leaf = str(term["on"]).partition(".")
    if term["on"] != "image" and not (root in ("aux", "losses") and leaf):
        raise ValueError(
            "A loss term is on 'image', 'aux.NAME' or 'losses.NAME'; got "
            f"{term['on']!r}."
        )
    if card.whole_output and term["on"] != "image":
        raise ValueError(f"{part.name!r} reads the whole output; leave out 'on'.")
    if root == "losses" and part.make is not model_loss:
        raise ValueError(
            f"{term['on']!r} is a loss already; use the loss 'model_loss' on it, "
            f"not {part.name!r}."
        )
    _check_against(part.name, term["against"], compares)
    for key, options in (("resize", RESIZES), ("space", SPACES)):
        term[key] = term[key] or ""
        if term[key] not in ("", *options):
            raise ValueError(
                f"Unknown {key} {term[key]!r}.{messages.suggest(term[key], options)} "
                f"Use '' or one of {options}."
            )
    if not isinstance(term["gt_mean"], bool):
        raise TypeError(f"'gt_mean' is True or False; got {term['gt_mean']!r}.")
    for key in ("space", "gt_mean"):
        if term[key] and not compares:
            raise ValueError(f"{part.name!r} compares no images; leave out {key!r}.")
    return {**registry.complete_spec(spec, kind="loss"), **term}


def _check_against(loss: str, against: str, compares: bool) -> None:
    """Raises ValueError if a term cannot be compared with that path."""
    root, dot, leaf = str(against).partition(".")
    if not compares and against:
        raise ValueError(f"{loss!r} compares no images; leave out 'against'.")
    if compares and (not root or (dot and (root != "aux" or not leaf))):
        raise ValueError(
            "A loss term is against 'target', 'image' (the input), another image of "
            f"the records by its key, or 'aux.NAME'; got {against!r}."
        )


class WeightedLoss:
    """The sum of weighted loss terms, each averaged over the batch.

    Args:
        terms: name of the term -> spec, see `complete_term`.

    Attributes:
        terms: the complete specs.

    Raises:
        TypeError, ValueError: if a spec is wrong, or all weights are 0.
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

    @property
    def reads_output(self) -> bool:
        """Whether a term needs the output itself, not only an `aux` beside it."""
        return any(not term.on.startswith("aux.") for term in self._active.values())

    def check_keys(self, keys: Sequence[str], where: str) -> None:
        """Checks that the records have the images that the terms compare with.

        Args:
            keys: the images of the records.
            where: the name of the records in the message.

        Raises:
            ValueError: naming the terms whose images are missing, and the remedy.
        """
        absent = {
            name: term.record_key
            for name, term in self._active.items()
            if term.record_key not in (None, *keys)
        }
        if absent:
            terms = ", ".join(f"{name!r} with {key!r}" for name, key in absent.items())
            raise ValueError(
                f"Loss terms compare with images that {where} does not have: {terms}. "
                f"It has: {', '.join(keys)}. Train on data that has them, or set the "
                "'against' of these terms to an image that exists."
            )

    def load_constants(self) -> dict[str, Any]:
        """Loads the weights of the networks behind the terms, {} if there are none.

        Load them once and pass them to every call, as an argument of the compiled step.

        Raises:
            FileNotFoundError, ImportError, ValueError: if a file is missing or does not
                hold its network.
        """
        return {key: loss.load_constants() for key, loss in self._networks().items()}

    def constants_shapes(self) -> dict[str, Any]:
        """Returns the shapes of `load_constants` without needing the files."""
        return {key: loss.constants_shapes() for key, loss in self._networks().items()}

    def _networks(self) -> dict[str, NetworkLoss]:
        losses = [term.loss for term in self._active.values()]
        return {
            loss.constants_key: loss for loss in losses if isinstance(loss, NetworkLoss)
        }

    def __call__(
        self,
        outputs: Outputs,
        batch: Batch,
        constants: Mapping[str, Any],
        step: jax.Array | int,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the total and the weighted value of each term, scalars.

        The total is the sum of the values, so a log shows what each term contributes.

        Args:
            outputs: what the model returned.
            batch: the images of the records [B, H, W, 3] in [0, 1].
            constants: from `load_constants`.
            step: for weights that are schedules.

        Raises:
            ValueError: if a term's path is absent, or sizes differ and `resize` is not
                set.
        """
        terms = {
            name: term.weight(step) * term.values(outputs, batch, constants).mean()
            for name, term in self._active.items()
        }
        return sum(terms.values()), terms


class _Term:
    """One term: picks prediction and target, resizes them to one size, compares them.

    Attributes:
        record_key: the image of the records that it compares with, or None.
    """

    def __init__(self, name: str, spec: Mapping[str, Any]):
        part = registry.get(spec["name"], kind="loss")
        options = {key: spec[key] for key in part.fields() if key in spec}
        self.name = name
        self.card: LossCard = part.card
        self.on = spec["on"]
        self.against = spec["against"]
        self.resize = spec["resize"]
        self.space = spec["space"]
        self.gt_mean = spec["gt_mean"]
        self.weight = _schedule(spec["weight"])
        self.loss = functools.partial(part.make, **options)
        if inspect.isclass(part.make):  # a NetworkLoss
            self.loss = self.loss()

    @property
    def record_key(self) -> str | None:
        if self.card.whole_output:
            return "target" if self.card.needs_target else None
        return self.against if self.against and "." not in self.against else None

    def values(self, outputs: Outputs, batch: Batch, constants: Mapping) -> jax.Array:
        """Returns the loss per image [B], or a scalar that the model computed."""
        loss = self.loss
        if isinstance(loss, NetworkLoss):
            loss = functools.partial(loss, constants=constants[loss.constants_key])
        if self.card.whole_output:
            return loss(outputs, batch)
        prediction = _pick(outputs, self.on, self.name)
        if not self.card.needs_target:
            return loss(prediction)
        images = self._resized(prediction, self._target(outputs, batch), batch)
        if self.space == "hvi":
            loss = _in_hvi(loss, _pick(outputs, "aux.density_k", self.name))
        return gt_mean(loss, *images) if self.gt_mean else loss(*images)

    def _target(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Returns what the prediction is compared with."""
        if self.record_key is None:
            return _pick(outputs, self.against, self.name)
        if self.record_key not in batch:
            raise ValueError(
                f"The loss term {self.name!r} is against {self.against!r}, which the "
                f"batch does not have. It has: {', '.join(batch)}."
            )
        return batch[self.record_key]

    def _resized(
        self, prediction: jax.Array, target: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Returns prediction and target at one size."""
        if prediction.shape == target.shape:
            return prediction, target
        if prediction.ndim != 4 or target.ndim != 4:
            raise ValueError(
                f"The loss term {self.name!r} compares images [B, H, W, C], but "
                f"{self.on} is {prediction.shape} and {self.against} {target.shape}."
            )
        if not self.resize:
            raise ValueError(
                f"The loss term {self.name!r} compares {self.on} {prediction.shape} "
                f"with {self.against} {target.shape}; set its 'resize' to "
                "'target_area' (area-averages the latter), 'target_bicubic' (samples "
                "the latter) or 'prediction_nearest' (repeats pixels of the former)."
            )
        # The factor comes from the model's input, not the target: the prediction of a
        # padded input covers the padding too.
        full = batch["image"].shape
        factor = full[1] // prediction.shape[1]
        if tuple(factor * side for side in prediction.shape[1:3]) != full[1:3]:
            raise ValueError(
                f"The loss term {self.name!r} can only resize by a whole factor; "
                f"{self.on} is {prediction.shape} for an input of {full}."
            )
        height, width = target.shape[1:3]
        if self.resize == "prediction_nearest":
            prediction = nearest_upsample(as_float(prediction), factor)
            return prediction[:, :height, :width], target
        # Cells that the target covers only partly are dropped.
        height, width = height // factor, width // factor
        target = as_float(target[:, : height * factor, : width * factor])
        if self.resize == "target_bicubic":
            target = resize_bicubic(target, (height, width))
        else:
            target = area_downsample(target, factor)
        return prediction[:, :height, :width], target


def _in_hvi(
    loss: Callable[..., jax.Array], density_k: jax.Array
) -> Callable[..., jax.Array]:
    """Returns a loss that converts both RGB images to HVI."""
    return lambda *images: loss(*(rgb_to_hvi(as_float(x), density_k) for x in images))


def _pick(outputs: Outputs, path: str, term: str) -> jax.Array:
    """Returns the output at "image", "aux.NAME" or "losses.NAME"."""
    paths = {"image": outputs.image}
    paths |= {f"aux.{name}": value for name, value in outputs.aux.items()}
    paths |= {f"losses.{name}": value for name, value in outputs.losses.items()}
    if path not in paths:
        raise ValueError(
            f"The loss term {term!r} names {path!r}, which this model does not return."
            f"{messages.suggest(path, paths)} It returns: {', '.join(paths)}."
        )
    return paths[path]


def _complete_weight(weight: Any) -> Any:
    """Returns a term's weight as a float or a complete schedule spec."""
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        if not math.isfinite(weight):
            raise ValueError(f"A loss term's weight is {weight}; give a finite number.")
        return float(weight)
    try:
        spec = dict(weight)
    except (TypeError, ValueError):
        raise TypeError(
            f"A loss term's weight is a number or the spec of a schedule; got "
            f"{weight!r}."
        ) from None
    spec = registry.complete_spec(spec, kind="weight_schedule")
    _schedule(spec)  # checks the values
    return spec


def _schedule(weight: float | Mapping[str, Any]) -> Callable[[Any], Any]:
    """Returns step -> weight."""
    if isinstance(weight, float):
        return lambda step: weight
    part, fields = registry.split_spec(weight, kind="weight_schedule")
    return part.make(**fields)
