"""The numbers that papers print, from `published.json`."""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How published numbers were computed.

    Attributes:
        name: a protocol of `llie_jax.metrics.protocol`, or a name of `published.json`.
        description: in a line.
        metrics: column -> the definition, as far as it is known.
        uses_reference: whether the reference changes the output (GT mean and the like).
    """

    name: str
    description: str
    metrics: Mapping[str, str]
    uses_reference: bool


@dataclasses.dataclass(frozen=True)
class Entry:
    """The published scores of one checkpoint on one data set.

    Attributes:
        model: as the paper writes it.
        data: the data set, by its name in the catalogue.
        values: column -> value.
        protocol: a name of `protocols`.
        gt_mean: whether the output was scaled to the mean of the reference.
        source: who printed them.
        variant: which of several checkpoints.
        spec: the model here, as far as the entry fixes it; empty if there is none.
        note: what else to know.
        uses_reference: whether the model was given the reference.
        selected_on_test: whether the checkpoint or its options are known to have been
            chosen on the test images.
    """

    model: str
    data: str
    values: Mapping[str, float]
    protocol: str
    gt_mean: bool
    source: str
    variant: str = ""
    spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    uses_reference: bool = False
    selected_on_test: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """What makes the scores unlike others."""
        found = []
        if self.gt_mean:
            found.append("uses the reference (GT mean)")
        if self.uses_reference:
            found.append("uses the reference")
        if self.selected_on_test:
            found.append("selected on the test split")
        return tuple(found)

    def fits(self, spec: Mapping[str, Any] | None) -> bool:
        """Returns whether a model's complete spec is that of this entry."""
        return bool(self.spec) and _within(self.spec, spec)


def _within(part: Any, whole: Any) -> bool:
    """Returns whether a nested mapping holds all of another."""
    if not isinstance(part, Mapping):
        return part == whole
    return isinstance(whole, Mapping) and all(
        key in whole and _within(value, whole[key]) for key, value in part.items()
    )


@functools.cache
def protocols() -> dict[str, Protocol]:
    """Returns the protocols of the published numbers, by name."""
    return {
        name: Protocol(name, **facts) for name, facts in _content()["protocols"].items()
    }


@functools.cache
def entries() -> list[Entry]:
    """Returns all published numbers."""
    return [Entry(**fields) for fields in _content()["entries"]]


@functools.cache
def _content() -> dict[str, Any]:
    file = importlib.resources.files(__package__) / "published.json"
    return json.loads(file.read_text(encoding="utf-8"))
