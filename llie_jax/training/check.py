"""Verifies the folder of a run: its checkpoints, and every other file."""

import dataclasses
import os
import warnings
from collections.abc import Iterator

from llie_jax import messages
from llie_jax.image import io
from llie_jax.training import integrity
from llie_jax.training.loop import MAY_CHANGE
from llie_jax.weights import record as records
from llie_jax.weights.run import RunFolder, read_log
from llie_jax.weights.store import METRIC, Store


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a run, and whether it is whole.

    Attributes:
        name: e.g. "checkpoint 500" or "log.jsonl".
        whole: False if it is damaged or missing.
        state: what it holds, or what is wrong with it.
    """

    name: str
    whole: bool
    state: str


def check(path: str | os.PathLike) -> Iterator[Part]:
    """Yields the parts of a run; reads every array, changes nothing.

    Args:
        path: the run's folder.

    Raises:
        FileNotFoundError: if it is no run.
    """
    run = RunFolder.at(path)
    if not run.checkpoints.is_dir():
        raise FileNotFoundError(
            f"{path} is not a run: it has no {run.checkpoints.name}/. Name the "
            "--workdir of `llie-jax train`."
        )
    steps = records.saved_steps(run.checkpoints)
    if not steps:
        yield Part("checkpoints", True, "none yet")
    with Store(run.checkpoints) as store:
        for step in steps:
            yield _checkpoint(store, step)
    yield _config(run)
    yield _log(run)
    yield from _samples(run)


def _checkpoint(store: Store, step: int) -> Part:
    name = f"checkpoint {step}"
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", messages.Note)
            record = store.check(step)
    except ValueError as error:
        return Part(name, False, f"damaged: {error}")
    if seen:
        return Part(name, False, f"arrays whole; {seen[0].message}")
    if record is None:
        return Part(name, True, "readable; an older version saved no digests")
    score = f", {record.metrics[METRIC]:.2f} dB" if METRIC in record.metrics else ""
    return Part(name, True, f"whole, {len(record.arrays)} arrays{score}")


def _config(run: RunFolder) -> Part:
    name = run.config.name
    saved = records.newest(run.checkpoints)
    try:
        differing = integrity.damage_to_config(run, saved, may_change=MAY_CHANGE)
    except ValueError as error:
        return Part(name, False, str(error))
    if differing:
        return Part(name, False, f"differs from the config in checkpoint {saved[0]}")
    return Part(name, True, "whole" if saved else "readable")


def _log(run: RunFolder) -> Part:
    name = run.log.name
    if not run.log.is_file():
        return Part(name, False, "missing")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        lines = read_log(run.log)
    if seen:
        return Part(name, False, f"{len(lines)} lines; {seen[0].message}")
    return Part(name, bool(lines), f"{len(lines)} lines")


def _samples(run: RunFolder) -> Iterator[Part]:
    folder = run.sample(0).parent
    if not folder.is_dir():
        return
    paths = sorted(folder.glob("*.png"))
    damaged = 0
    for path in paths:
        try:
            io.read_rgb(path)
        except (ValueError, OSError) as error:
            damaged += 1
            yield Part(f"samples/{path.name}", False, f"damaged: {error}")
    yield Part("samples", not damaged, f"{len(paths) - damaged} pictures are readable")
