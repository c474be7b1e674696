"""Several data sets as one, for training on several tasks.

Each set has a `repeat`: how often an epoch shows each of its records; 2.5 is twice, and
half of them, chosen anew in each epoch, a third time. Instead, all sets may have a
`weight`: their shares of the samples, whatever their sizes.

Source: DarkIR's multi-task training, one shuffled list in which small sets are repeated
to balance LOL-Blur, without a label of the task.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax import messages, types
from llie_jax.data import opening
from llie_jax.data.sources import Group, Source
from llie_jax.image import levels
from llie_jax.image.reading import Header

NAME = "mixture"
"""What configs have as the name of the training data."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Attributes:
        name: as in `open_source`.
        root: as in `open_source`; "" for the default.
        split: as in `open_source`.
        repeat: how often an epoch shows each record.
        weight: share of the samples, relative to the other sets; 0 uses `repeat`.

    Raises:
        ValueError: if `repeat` is not above 0, or `weight` is negative.
    """

    name: str
    root: str = ""
    split: str = "train"
    repeat: float = 1.0
    weight: float = 0.0

    def __post_init__(self):
        if not 0 < self.repeat < math.inf or not 0 <= self.weight < math.inf:
            raise ValueError(
                f"{self.name} has repeat={self.repeat} and weight={self.weight}; give "
                "repeat above 0, and weight above 0 or 0.0 to use repeat."
            )


def parse(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Part]:
    """Returns the parts of a mixture from a table of their fields.

    Raises:
        ValueError: if the table is empty, a field is unknown or out of range, or only
            some parts have a weight.
    """
    if not table:
        raise ValueError(
            "The mixture has no data sets; give config.data.mixture an entry for each."
        )
    known = [field.name for field in dataclasses.fields(Part)]
    for label, fields in table.items():
        for key in fields:
            if key not in known:
                raise ValueError(
                    f"The mixture's {label!r} has an unknown field {key!r}."
                    f"{messages.suggest(key, known)} Fields: {', '.join(known)}."
                )
    parts = {label: Part(**fields) for label, fields in table.items()}
    weighted = [label for label, part in parts.items() if part.weight]
    if weighted and len(weighted) < len(parts):
        rest = [label for label in parts if label not in weighted]
        raise ValueError(
            f"Of the mixture, {messages.listed(weighted)} has a weight and "
            f"{messages.listed(rest)} has none; give all sets a weight, or none."
        )
    return parts


def trained_on(config: Mapping[str, Any]) -> str:
    """Returns the names and splits of the training data, "lol_v1 train, smid train".

    Args:
        config: the table `data` of a config.
    """
    mixed = config["train"]["name"] == NAME
    parts = config["mixture"].values() if mixed else [config["train"]]
    return ", ".join(f"{part['name']} {part['split']}" for part in parts)


def open_mixture(table: Mapping[str, Mapping[str, Any]]) -> "MixtureSource":
    """Opens the data sets of a mixture.

    Args:
        table: label -> the fields of a `Part`; labels begin the names of records.

    Raises:
        FileNotFoundError, ValueError: as `parse` and `open_source`, or if the records
            of two sets have different images.
    """
    parts = parse(table)
    opened = {
        label: opening.open_source(
            part.name, root=part.root or None, split=part.split or None
        )
        for label, part in parts.items()
    }
    (first, one), *others = opened.items()
    for label, other in others:
        if set(other.keys) != set(one.keys):
            raise ValueError(
                f"The records of {first} have {messages.listed(one.keys)}, those of "
                f"{label} have {messages.listed(other.keys)}; a mixture needs the same."
            )
    return MixtureSource(opened, parts)


class MixtureSource(Source):
    """The records of several sources, one after the other; made by `open_mixture`."""

    def __init__(self, opened: Mapping[str, Source], parts: Mapping[str, Part]):
        self._sources = tuple(opened.values())
        self._starts = np.cumsum([0, *map(len, self._sources)])
        labels = tuple(opened)
        self.name = f"{NAME} of {', '.join(each.name for each in self._sources)}"
        self.split = "train"
        self.keys = self._sources[0].keys
        self.expected_counts = {}
        self._groups = tuple(
            Group(label, len(opened[label]), part.repeat, part.weight)
            for label, part in parts.items()
        )

        def prefixed(names: Sequence[Sequence[str]]) -> tuple[str, ...]:
            return tuple(
                f"{label}/{name}"
                for label, part in zip(labels, names, strict=True)
                for name in part
            )

        self.names = prefixed([each.names for each in self._sources])
        self.scenes = prefixed([each.scenes for each in self._sources])

    @property
    def groups(self) -> tuple[Group, ...]:
        """One group for each set."""
        return self._groups

    def _place(self, index: int) -> tuple[Source, int]:
        """Returns the source of a record, and the index there."""
        index = range(len(self))[index]
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[number], index - int(self._starts[number])

    def __getitem__(self, index: int) -> types.Record:
        """Returns the record as its source has it, named by the mixture."""
        source, place = self._place(index)
        record = source[place]
        return record | {"name": self.names[index], "scene": self.scenes[index]}

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        source, place = self._place(index)
        return source._read(place, key)

    def image(self, index: int, key: str) -> np.ndarray:
        """Returns a single image of a record, as `source[index]` has it."""
        source, place = self._place(index)
        return source.image(place, key)

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image, as its source reads it."""
        source, place = self._place(index)
        return source.header(place, key)

    def byte_size(self, index: int, key: str) -> int | None:
        """Returns the size of an image file, as its source knows it."""
        source, place = self._place(index)
        return source.byte_size(place, key)

    def content_digest(self, index: int, key: str) -> str:
        """Returns a hash of an image, as its source computes it."""
        source, place = self._place(index)
        return source.content_digest(place, key)

    def identity(self, index: int, key: str) -> Hashable:
        """Returns what is equal for records that share an image's file."""
        source, place = self._place(index)
        return self._sources.index(source), source.identity(place, key)

    def sizes(self) -> np.ndarray:
        """Returns the sizes of all records, int32 [N, 2] of (H, W)."""
        return np.concatenate([each.sizes() for each in self._sources])

    def dtypes(self) -> dict[str, np.dtype]:
        """Returns the dtype that holds the images of all records, by key."""
        every = [each.dtypes() for each in self._sources]
        return {key: levels.deepest([each[key] for each in every]) for key in self.keys}
