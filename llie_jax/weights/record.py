"""What a checkpoint says about itself: digests, scores, and facts of its run.

The record is JSON beside the state, and carries a digest of its own. It is read without
Orbax, so that a run can be looked at before anything slow is imported.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from llie_jax import files

ITEM = "digest"
"""The item of a checkpoint that holds its record."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a checkpoint.

    Attributes:
        arrays: names of the state's arrays to their SHA-256.
        metrics: the validation scores of that step.
        facts: of the run: `config`, `data`, `versions`, ...; {} if an older version
            wrote the checkpoint.
    """

    arrays: Mapping[str, str]
    metrics: Mapping[str, float]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON values, with their digest."""
        content = {
            "arrays": dict(self.arrays),
            "metrics": files.plain(self.metrics),
            "facts": files.plain(self.facts),
        }
        return {**content, "sha256": _digest(content)}


def read(checkpoint: str | os.PathLike) -> Record | None:
    """Returns the record of a checkpoint.

    Args:
        checkpoint: its folder, `checkpoints/<step>`.

    Returns:
        None if a version that wrote no digests saved the checkpoint.

    Raises:
        ValueError: if the record is damaged or missing.
    """
    checkpoint = files.path(checkpoint)
    path = checkpoint / ITEM / "metadata"
    if not path.is_file():
        if _is_older(checkpoint):
            return None
        raise ValueError("its digest is missing")
    try:
        content = json.loads(path.read_bytes())
        sealed = content.pop("sha256", None)
        metrics = {k: files.number(v) for k, v in content["metrics"].items()}
        record = Record(dict(content["arrays"]), metrics, content.get("facts", {}))
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError):
        raise ValueError("its digest is damaged") from None
    if sealed is None:  # before records had a digest, the scores were compared
        beside = metrics_beside(checkpoint)
        if files.plain(metrics) != files.plain(beside):
            raise ValueError(f"its scores are damaged: {metrics} and {beside}")
    elif sealed != _digest(content):
        raise ValueError("its digest is damaged")
    return record


def metrics_beside(checkpoint: str | os.PathLike) -> dict[str, float] | None:
    """Returns Orbax's copy of the scores: {} if there is none, None if damaged."""
    path = files.path(checkpoint) / "metrics" / "metrics"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
        return {key: float(value) for key, value in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def newest(checkpoints: str | os.PathLike) -> tuple[int, Record] | None:
    """Returns the newest step of a run whose record is whole, and the record.

    Args:
        checkpoints: the folder of the run's checkpoints; it may be missing.
    """
    for step in reversed(saved_steps(checkpoints)):
        try:
            record = read(files.path(checkpoints) / str(step))
        except (ValueError, OSError):
            continue  # restoring says what is wrong with it
        if record and record.facts:
            return step, record
    return None


def saved_steps(checkpoints: str | os.PathLike) -> list[int]:
    """Returns the steps that have a folder, oldest first, whole or not."""
    folder = files.path(checkpoints)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _is_older(checkpoint: pathlib.Path) -> bool:
    """Returns whether Orbax's own list of items names no record."""
    try:
        found = json.loads((checkpoint / "_CHECKPOINT_METADATA").read_bytes())
        return ITEM not in found["item_handlers"]
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return False


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
