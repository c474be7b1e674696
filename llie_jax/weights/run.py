"""The folder of a run: every path in it, its config, its log and its weights."""

import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from llie_jax import files, messages, parallel, registry
from llie_jax.models.base import variable_shapes
from llie_jax.weights import record as records
from llie_jax.weights.fit import flat


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The --workdir of `llie-jax train`.

    Attributes:
        path: the folder.
    """

    path: pathlib.Path

    @classmethod
    def at(cls, path: str | os.PathLike) -> "RunFolder":
        """Returns the run in a folder, local or in a bucket."""
        return cls(files.path(path))

    @classmethod
    def of_checkpoint(cls, path: str | os.PathLike) -> "RunFolder":
        """Returns the run that a checkpoint's folder belongs to."""
        return cls(files.path(path).parent.parent)

    @property
    def config(self) -> pathlib.Path:
        """The complete configuration."""
        return self.path / "config.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of the checkpoints, see `llie_jax.weights.store`."""
        return self.path / "checkpoints"

    @property
    def log(self) -> pathlib.Path:
        """The numbers of the run, see `read_log`."""
        return self.path / "log.jsonl"

    @property
    def events(self) -> pathlib.Path:
        """The folder of TensorBoard's events."""
        return self.path / "events"

    @property
    def profile(self) -> pathlib.Path:
        """The folder of traces of JAX's profiler."""
        return self.path / "profile"

    @property
    def report(self) -> pathlib.Path:
        """The page that a finished run writes."""
        return self.path / "report.html"

    def sample(self, step: int) -> pathlib.Path:
        """The picture of the validation at a step."""
        return self.path / "samples" / f"step_{step:07d}.png"

    def set_obstacles_aside(self) -> None:
        """Moves away what a run cannot write to: files for folders, and the reverse.

        Each is named in a warning, and moved to `<name>.damaged` beside it.
        """
        folders = (self.events, self.sample(0).parent)
        for path in (self.config, self.log, self.report, *folders):
            if path.exists() and path.is_dir() != (path in folders):
                place = path.with_name(f"{path.name}.damaged")
                path.rename(place)
                kind = "folder" if path in folders else "file"
                messages.note(f"{path} is no {kind}; it is moved to {place}.")

    def read_config(self) -> dict[str, Any]:
        """Returns the configuration, nested, as it was written.

        If the file is damaged, the newest checkpoint's copy, with a warning.

        Raises:
            ValueError: if there is no copy either.
        """
        try:
            config = json.loads(self.config.read_bytes())
        except (ValueError, OSError, RecursionError):
            config = None
        if isinstance(config, dict):
            return config
        if (found := records.newest(self.checkpoints)) is None:
            raise ValueError(f"{self.config} is not the config of a run.")
        step, record = found
        parallel.note(
            f"{self.config} is damaged or missing; the config in checkpoint {step} is "
            "used."
        )
        return record.facts["config"]

    def spec(self) -> dict[str, Any]:
        """Returns the complete spec of the model.

        Raises:
            ValueError: if there is none, or this version has no such model.
        """
        spec = self.read_config().get("model")
        if not isinstance(spec, dict) or "name" not in spec:
            raise ValueError(
                f"{self.config} is not the config of a run: no spec under `model`."
            )
        try:
            return registry.complete_spec(spec)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.config} is from an older version, or its model is not "
                f"registered: {error} Train again, or use the version that wrote it."
            ) from None


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
    """One checkpoint of a run."""

    run: RunFolder
    step: int | str

    @property
    def spec(self) -> dict[str, Any]:
        """The complete spec of the model."""
        return self.run.spec()

    def _read(self, expected: Mapping[str, Any]):
        # Imported here because it takes seconds, and release files do not need it.
        from llie_jax.weights.store import Store

        with Store(self.run.checkpoints) as store:
            return store.read(expected, step=self.step)

    def tensors(self, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the arrays of a model, given its names and shapes."""
        return self._read(expected).tensors

    def describe(self) -> dict[str, Any]:
        """Returns what is known about the weights, see `llie_jax.weights.describe`."""
        spec = self.spec
        found = self._read(flat(variable_shapes(registry.build(spec))))
        return {
            "source": "run",
            "path": str(self.run.checkpoints / str(found.step)),
            "spec": spec,
            "weights_sha256": _digest(found.tensors),
            "step": found.step,
            "averaged": found.averaged,
            "metadata": found.metrics,
        }


def find(path: pathlib.Path, step: int | str) -> RunCheckpoint:
    """Returns the checkpoint of the run that `path` is, or is inside of."""
    if RunFolder(path).checkpoints.is_dir():
        run = RunFolder(path)
    elif path.name.isdecimal():
        run, step = RunFolder.of_checkpoint(files.absolute(path)), int(path.name)
    else:
        run = RunFolder(files.absolute(path).parent)
    if not (
        run.checkpoints.is_dir()
        and (run.config.is_file() or records.newest(run.checkpoints))
    ):
        raise FileNotFoundError(
            f"{path} is neither a run nor inside one; expected a workdir with "
            f"{run.config.name} and {run.checkpoints.name}/, or a folder inside that "
            f"{run.checkpoints.name}/."
        )
    return RunCheckpoint(run, step)


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a `log.jsonl`; none if it is missing.

    A line is an object with an integer `step`. Others are left out, with a warning: a
    kill can truncate a line, and a disk can damage it. Non-finite values are floats
    again, as before they were written.
    """
    path = files.path(path)
    lines, left_out = [], 0
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        if not text.strip():
            continue
        if (line := _log_line(text)) is None:
            left_out += 1
        else:
            lines.append(line)
    if left_out:
        what = "line is" if left_out == 1 else "lines are"
        warnings.warn(
            f"{left_out} {what} left out of {path}: damaged or without a step.",
            stacklevel=2,
        )
    return lines


def _log_line(text: bytes) -> dict[str, Any] | None:
    """Returns a line of a log, None if it is invalid."""
    try:
        line = json.loads(text)
        step = line["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # text that is not UTF-8 raises ValueError too
    if type(step) is not int or not 0 <= step < 2**63:
        return None
    return {key: files.number(value) for key, value in line.items()}


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a SHA-256 over names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
