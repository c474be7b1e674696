"""What every metric promises, and how metrics receive their images.

A metric is registered with its card as a function of one image with keyword-only
options, or as a `Metric` class if it needs more, such as a network:

    @register("rgb_uint8", MetricCard(unit="dB", used_by="BasicSR"))
    def rgb_uint8(image, target) -> float: ...
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llie_jax import registry
from llie_jax.metrics import values

ORIGIN = "origin"
"""The constant that says in words where the others come from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricCard(registry.Card):
    """What is known about a metric.

    Attributes:
        used_by: the papers and tools whose numbers it reproduces.
        unit: of its values, "" if they have none.
        higher_is_better: whether larger values are better.
        needs_target: whether it compares with a reference; otherwise it takes none.
        uses_reference: whether it changes the image by what the reference shows before
            it compares them; tables mark such columns.
        takes_raw: whether it gets the model's output as it is, because it has a
            conversion of its own; others get what the protocol makes of it.
        minimum_size: the smallest height and width of its images, in pixels.
    """

    kind: str = "metric"
    used_by: str
    unit: str = ""
    higher_is_better: bool = True
    needs_target: bool = True
    uses_reference: bool = False
    takes_raw: bool = False
    minimum_size: int = 1


class Metric(abc.ABC):
    """A metric with its options set. Subclasses are frozen dataclasses of the options.

    Attributes:
        batch: how many images it takes per call.
    """

    batch: ClassVar[int] = 1

    def load_constants(self) -> dict[str, Any]:
        """Loads the constants of the metric from files, such as a network's weights.

        They are loaded once for many images and passed to each call. An entry `ORIGIN`
        says where they come from, in words; results record it.

        Raises:
            FileNotFoundError, ImportError, ValueError: if a file is missing or does not
                hold what the metric needs.
        """
        return {}

    @abc.abstractmethod
    def __call__(
        self,
        images: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        constants: Mapping[str, Any],
    ) -> Sequence[float]:
        """Returns one value for each image.

        Args:
            images: at most `batch` RGB images [H, W, 3] of one size, uint8 or floating
                point in [0, 1].
            targets: the reference of each; empty if the metric takes none.
            constants: from `load_constants`.
        """


@dataclasses.dataclass(frozen=True)
class _Function(Metric):
    """A metric that is a function of one image."""

    function: Callable[..., float]
    options: tuple[tuple[str, Any], ...]

    def __call__(self, images, targets, constants):
        options = dict(self.options)
        return [
            self.function(*arguments, **options)
            for arguments in zip(images, *([targets] if targets else ()), strict=True)
        ]


def build(spec: registry.Spec) -> tuple[MetricCard, Metric]:
    """Returns the card of a spec's metric, and the metric with its options set.

    Args:
        spec: a registered metric, or its spec with fields, for example
            `{"name": "rgb_float", "clip": False}`.

    Raises:
        TypeError, ValueError: if the spec has an unknown name or field, see
            `registry.split_spec`.
    """
    part, options = registry.split_spec(spec, kind="metric")
    if inspect.isclass(part.make):
        return part.card, part.make(**options)
    return part.card, _Function(part.make, tuple(sorted(options.items())))


def card(spec: registry.Spec) -> MetricCard:
    """Returns the card of the metric of a spec.

    Raises:
        TypeError, ValueError: as `build`.
    """
    return registry.split_spec(spec, kind="metric")[0].card


def metric_name(spec: registry.Spec) -> str:
    """Returns a metric's name and the fields that are set, for display."""
    if isinstance(spec, str):
        return spec
    fields = ", ".join(f"{k}={v}" for k, v in spec.items() if k != "name")
    return f"{spec['name']}({fields})" if fields else spec["name"]


def loads(spec: registry.Spec, constants: dict[Metric, dict[str, Any]]) -> bool:
    """Returns whether a metric's constants can be loaded, and keeps them.

    Args:
        spec: the metric.
        constants: metric -> constants, which a `Scorer` reads.

    Raises:
        TypeError, ValueError: as `build`; and if a file is there, but damaged.
    """
    _, metric = build(spec)
    if metric not in constants:
        try:
            constants[metric] = metric.load_constants()
        except (FileNotFoundError, ImportError):
            return False
    return True


class Scorer:
    """Metrics with their constants loaded, ready for many images.

    Args:
        metrics: column -> metric, by name or spec.
        prepare: applied to each image before it is checked, for metrics that do not
            take it raw.
        constants: a cache shared between scorers, metric -> constants; this scorer adds
            what it loads.

    Attributes:
        batch: how many images of one size to pass per call.
        origins: column -> where the constants of its metric come from; only those that
            say so.

    Raises:
        TypeError, ValueError: as `build`.
        FileNotFoundError, ImportError: if a metric's constants cannot be loaded.
    """

    def __init__(
        self,
        metrics: Mapping[str, registry.Spec],
        *,
        prepare: Callable[[np.ndarray], np.ndarray] = np.asarray,
        constants: dict[Metric, dict[str, Any]] | None = None,
    ):
        self._specs, self._prepare = metrics, prepare
        self._metrics = {column: build(spec) for column, spec in metrics.items()}
        self._constants = {} if constants is None else constants
        for _, metric in self._metrics.values():
            if metric not in self._constants:
                self._constants[metric] = metric.load_constants()
        self.origins = {
            column: self._constants[metric][ORIGIN]
            for column, (_, metric) in self._metrics.items()
            if ORIGIN in self._constants[metric]
        }
        self.batch = max((m.batch for _, m in self._metrics.values()), default=1)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        targets: Sequence[np.ndarray] | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> list[dict[str, float]]:
        """Returns the value of each column, for each image.

        Args:
            images: RGB images [H, W, 3] of one size, uint8, uint16 or floats in [0, 1].
            targets: the reference of each, likewise; for metrics that compare.
            names: names of the images for error messages.

        Raises:
            TypeError: if an image is neither uint8, uint16 nor floating point.
            ValueError: if targets are missing, shapes differ, an image is too small, or
                values are not finite or out of range.
        """
        targets = [None] * len(images) if targets is None else list(targets)
        pairs: dict[bool, list] = {
            card.takes_raw: [] for card, _ in self._metrics.values()
        }
        for k, (image, target) in enumerate(zip(images, targets, strict=True)):
            try:
                for raw, found in pairs.items():
                    given = np.asarray(image) if raw else self._prepare(image)
                    found.append(self._checked(given, target, raw=raw))
            except ValueError as error:
                if names is None:
                    raise
                raise ValueError(f"{names[k]}: {error}") from error
        rows: list[dict[str, float]] = [{} for _ in images]
        for column, (card, metric) in self._metrics.items():
            constants = self._constants[metric]
            for start in range(0, len(images), metric.batch):
                part = slice(start, start + metric.batch)
                ours, references = zip(*pairs[card.takes_raw][part], strict=True)
                found = metric(ours, references if card.needs_target else (), constants)
                for row, value in zip(rows[part], found, strict=True):
                    row[column] = float(value)
        return rows

    def _checked(
        self, image: np.ndarray, target: np.ndarray | None, *, raw: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns an image and its target, checked for the metrics that get them."""
        image = values.check_image(image)
        if target is not None:
            target = values.check_image(target, role="target")
        height, width = image.shape[:2]
        for column, (card, _) in self._metrics.items():
            if card.takes_raw != raw:
                continue
            name = metric_name(self._specs[column])
            if min(height, width) < card.minimum_size:
                raise ValueError(
                    f"{name} needs images of at least {card.minimum_size} x "
                    f"{card.minimum_size} pixels; got {height} x {width}."
                )
            if not card.needs_target:
                continue
            if target is None:
                raise ValueError(f"{name} needs a target to compare the image with.")
            if image.shape != target.shape:
                raise ValueError(
                    f"image is {height} x {width} but target is {target.shape[0]} x "
                    f"{target.shape[1]} (height x width)."
                )
        return image, target
