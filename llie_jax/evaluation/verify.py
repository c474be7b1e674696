"""Published checkpoints, scored here and compared with the official code's scores."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llie_jax import convert, data, files, messages
from llie_jax import weights as weight_files
from llie_jax.evaluation import overlap
from llie_jax.evaluation.evaluator import evaluate, references
from llie_jax.metrics import protocol as protocols
from llie_jax.types import SCORE_TOLERANCES, Pretrained

DATA, SPLIT, PROTOCOL = "lol_v1", "test", "default"
"""What all checkpoints are scored on, and how."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """The score of a published checkpoint, and the one that it should have.

    Attributes:
        name: as `llie-jax models` lists it.
        record: what is known about the checkpoint.
        score: measured here, metric to value; empty if the checkpoint was not found.
        marks: what makes the score unlike others: options, an input from the
            reference, images that it was trained on, crops.
    """

    name: str
    record: Pretrained
    score: Mapping[str, float] = dataclasses.field(default_factory=dict)
    marks: tuple[str, ...] = ()

    @property
    def differences(self) -> dict[str, float]:
        """Measured here minus the official code's, per metric."""
        return {
            metric: self.score[metric] - value
            for metric, value in self.record.reference.items()
            if metric in self.score
        }

    @property
    def verdict(self) -> str:
        """The result in a word: "verified", "differs" or "not found"."""
        if not self.score:
            return "not found"
        measured = dataclasses.replace(self.record, measured=self.score)
        return "verified" if measured.verified else "differs"

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it for a JSON file."""
        return {
            "name": self.name,
            "file": self.record.file,
            "published": dict(self.record.score),
            "published_protocol": self.record.protocol,
            "official_code": dict(self.record.reference),
            "measured": dict(self.score),
            "differences": self.differences,
            "verdict": self.verdict,
            "marks": list(self.marks),
        }


def known(patterns: Sequence[str] = ()) -> dict[str, Pretrained]:
    """Returns the checkpoints with a reference score, `model.key` -> record.

    Args:
        patterns: names, or models; none means all.

    Raises:
        ValueError: if a name fits none.
    """
    records = {
        name: record
        for name, record in weight_files.published().items()
        if record.reference
    }
    if not patterns:
        return records
    chosen = {}
    for pattern in patterns:
        found = {
            name: record
            for name, record in records.items()
            if pattern in (name, name.partition(".")[0])
        }
        if not found:
            raise ValueError(
                f"No checkpoint {pattern!r} can be verified."
                f"{messages.suggest(pattern, records)} "
                f"Known: {messages.listed(records)}."
            )
        chosen |= found
    return chosen


def verify(
    records: Mapping[str, Pretrained],
    folder: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    progress: bool = True,
) -> Iterator[Verification]:
    """Scores published checkpoints on the test split of LOL-v1, one after another.

    Args:
        records: the checkpoints, see `known`.
        folder: where the official files are, under any name; they are recognised by
            their hash.
        root: the folder of LOL-v1.
        progress: shows a bar on standard error.

    Raises:
        OSError, ValueError: if the folder, the data or a file cannot be read.
    """
    source = data.open_source(DATA, root=root, split=SPLIT)
    found = _files(files.local(folder).expanduser())
    protocol = protocols.get(PROTOCOL)
    compared = {column: protocol.metrics[column] for column in SCORE_TOLERANCES}
    protocol = dataclasses.replace(protocol, metrics=compared)
    for name, record in records.items():
        hashes = [record.sha256, *record.parts.values()]
        if not all(each in found for each in hashes):
            yield Verification(name, record)
            continue
        parts = [convert.read_checkpoint(found[each]) for each in hashes]
        tensors = convert.join_parts(parts)
        model, variables = convert.from_torch(tensors, record.spec)
        seen = overlap.find(record.trained_on, source)
        scores = evaluate(
            model,
            variables,
            source,
            protocol=protocol,
            max_report_images=0,
            crop_multiple=record.crop_multiple,
            reference_inputs=references(model),
            overlap=str(seen) if seen else "",
            progress=progress,
        )
        options = (f"{k}={v}" for k, v in record.spec.items() if k != "name")
        yield Verification(name, record, scores.mean, (*options, *scores.marks))


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files below a folder by their hash."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} of official checkpoints.")
    return {
        weight_files.file_sha256(path): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
