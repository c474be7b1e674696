"""The checkpoints of a run: saved with a digest of every array, verified when read.

A checkpoint is a step of an Orbax `CheckpointManager` with the items `state`, the train
state; `digest`, its record (see `llie_jax.weights.record`); and `metrics`, the scores
once more, for Orbax. The position in the data and all random draws follow from the step
and the seed, which the record holds, so nothing else needs saving.

Importing this module takes seconds; code for release files does without it.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from orbax.checkpoint.checkpoint_managers import preservation_policy

from llie_jax import files, parallel
from llie_jax.messages import listed
from llie_jax.weights import record as records
from llie_jax.weights.digest import digests, verify
from llie_jax.weights.fit import check_names, flat, shapes
from llie_jax.weights.noise import quiet, silence
from llie_jax.weights.record import Record

STATE, DIGEST = "state", records.ITEM  # the items of a checkpoint
METRIC = "psnr"
"""The validation score that selects the best checkpoint."""

_LATEST = 2  # so that a damaged one has a fallback, also without validation

_TRASH = ".removed"
"""Where old checkpoints are moved before they are deleted: a run that is killed while
it deletes one must not leave half of it behind."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of one checkpoint.

    Attributes:
        tensors: flat names to arrays.
        step: the step of the checkpoint.
        averaged: whether they are averaged parameters (EMA).
        metrics: the validation scores of that step.
    """

    tensors: dict[str, np.ndarray]
    step: int
    averaged: bool
    metrics: dict[str, float]


class Store:
    """The checkpoints of one run: the last two, and the best by validation PSNR.

    Args:
        folder: their folder.
        writing: True for the run itself, with all its processes; creates the folder if
            it is missing. False reads, in this process alone.
        hint: what to do if the folder is not writable, for the error.
        facts: of the run, saved in the record of every checkpoint; JSON values.

    Raises:
        OSError: if the folder cannot be created or written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        writing: bool = False,
        hint: str = "choose another folder",
        facts: Mapping[str, Any] | None = None,
    ):
        self.folder = files.absolute(folder)
        self._facts = facts or {}
        if writing:
            files.writable_folder(self.folder, hint=hint)
            # Orbax warns of each default on every start, and its threads print
            # tracebacks where `_failed` gives one line.
            silence()
            self._manager = self._writer()
            self._empty_trash()
        else:
            with quiet():
                self._manager = self._reader()

    def _writer(self) -> ocp.CheckpointManager:
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(_LATEST),
                preservation_policy.BestN(
                    get_metric_fn=_score,
                    n=1,
                    # Or every checkpoint between two validations would be kept.
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        return _Manager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                # The policy decides; without this Orbax keeps no scores on disk, and
                # a restarted run would forget which checkpoint is the best.
                best_fn=_score,
                cleanup_tmp_directories=True,
                todelete_subdir=_TRASH,
                create=True,
                async_options=ocp.AsyncOptions(
                    # Called when all of a checkpoint is written, before it is renamed
                    # to its step, and before an older one is deleted.
                    post_finalization_callback=self._sync_unfinished
                ),
            ),
            item_handlers={
                STATE: ocp.StandardCheckpointHandler(),
                DIGEST: ocp.JsonCheckpointHandler(),
            },
        )

    def _reader(self) -> ocp.CheckpointManager:
        alone = _alone()
        return _Manager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                read_only=True, multiprocessing_options=alone
            ),
            item_handlers={
                STATE: ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
                DIGEST: ocp.JsonCheckpointHandler(multiprocessing_options=alone),
            },
        )

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stops the background threads; `wait` is what reports errors of saving."""
        with contextlib.suppress(Exception):
            self._manager.close()

    def steps(self) -> list[int]:
        """Returns the saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: Any, *, step: int, psnr: float | None = None) -> None:
        """Starts saving a state in the background.

        Args:
            state: the train state, the same on every device; its arrays may be donated
                right after.
            step: the state's step, known on the host.
            psnr: its validation PSNR in dB, if measured.

        Raises:
            OSError: if this or the previous save failed; the message names the newest
                complete step.
        """
        metrics = {} if psnr is None else {METRIC: float(psnr)}
        record = Record(digests(state), metrics, self._facts)
        self.wait()  # the previous one is durable before this one may replace it
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(state),
                        # Orbax writes the JSON of the first process only.
                        DIGEST: ocp.args.JsonSave(record.to_json()),
                    }
                ),
                metrics=metrics or None,
                force=True,
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Blocks until everything is on disk, and would survive a loss of power.

        Raises:
            OSError: if a save failed; the message names the newest complete step.
        """
        try:
            self._manager.wait_until_finished()
            if parallel.is_first():
                files.sync(self.folder)  # the names of the checkpoints
                self._empty_trash()
        except Exception as error:
            raise self._failed(error) from error

    def _sync_unfinished(self) -> None:
        """Makes the files of a checkpoint durable that is about to be complete."""
        if isinstance(self.folder, pathlib.Path):  # a bucket's objects are durable
            for folder in self.folder.glob("*.orbax-checkpoint-tmp*"):
                files.sync_tree(folder)

    def _empty_trash(self) -> None:
        if parallel.is_first():
            epath.Path(self.folder / _TRASH).rmtree(missing_ok=True)

    def restore(self, template: Any) -> tuple[Any, int] | None:
        """Returns the newest undamaged state and its step.

        Each damaged checkpoint is named in a warning and moved to `<step>.damaged`
        beside the folder. What else was damaged and is not needed is named too.

        Args:
            template: the state's shapes, dtypes and shardings, as arrays or
                `jax.ShapeDtypeStruct`s.

        Returns:
            None if nothing was saved.

        Raises:
            ValueError: if there are checkpoints but none is usable.
        """
        found, damaged, first = None, {}, None
        for step in reversed(self.steps()):
            state = reason = None
            try:
                if found is None:
                    state = self._restore(step, template)
                else:
                    self.record(step)  # its scores decide what is kept
            except Exception as error:
                first = first or error
                reason = _first_line(error)
            # All processes must resume from the same step.
            reasons = parallel.gather_objects(reason, parallel.make_mesh())
            if any(reasons):
                damaged[step] = _first_reason(reasons)
            elif found is None:
                found = state, step
        if damaged and found is None:
            reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
            raise ValueError(
                f"No checkpoint in {self.folder} can be used ({reasons}). Use another "
                "--workdir to start over."
            ) from first
        for step, reason in damaged.items():
            place = self._set_aside(step)  # the run may reach that step again
            parallel.note(
                f"Checkpoint {step} is left out, and moved to {place}: {reason}."
            )
        return found

    def _restore(self, step: int, template: Any) -> Any:
        """Returns the state of a step.

        Raises:
            ValueError: if it differs from what was saved; Orbax raises other errors.
        """
        record = self.record(step)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(template)}),
        )
        state = jax.block_until_ready(restored[STATE])
        if record is None:
            self._unverified(step)
        else:
            verify(digests(state), record.arrays)
        return state

    def check(self, step: int) -> Record | None:
        """Returns the record of a step whose arrays are all as they were saved.

        Needs no model: the arrays are those that the checkpoint lists.

        Returns:
            None if an older version saved it, without digests; its arrays are readable.

        Raises:
            ValueError: if it is damaged; the message says what.
        """
        try:
            record = self.record(step)
            with quiet():
                saved = self._tree(step)
                as_numpy = jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved
                )
                state = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        **{STATE: ocp.args.PyTreeRestore(restore_args=as_numpy)}
                    ),
                )[STATE]
            if record:
                verify(digests(state), record.arrays)
        except Exception as error:
            raise ValueError(_first_line(error)) from error
        return record

    def read(self, expected: Mapping[str, Any], *, step: int | str = "best") -> Weights:
        """Reads only the weights: no optimizer state, no parameters that EMA replaces.

        Args:
            expected: flat names (`params/...`, `<collection>/...`) to shapes.
            step: "best" (highest validation PSNR, the latest if none was recorded),
                "latest", or a step.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if there is none of that step, it is damaged (the message names
                the arrays), or its names and shapes differ.
        """
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint yet.")
        scores = {}
        for each in steps if step == "best" else ():
            with self._readable(each):
                record = self.record(each)
            scores[each] = record.metrics if record else {}
        chosen = self._choose(step, scores)
        with self._readable(chosen), quiet():
            record = self.record(chosen)
            saved = self._tree(chosen)
            params = "ema_params" if saved.get("ema_params") else "params"
            found = {"params": saved[params], **(saved.get("collections") or {})}
        check_names(
            shapes(flat(found)),
            shapes(expected),
            f"The arrays of {self.folder / str(chosen)}",
        )
        places = {
            name: (params, *name.split("/")[1:])
            if name.startswith("params/")
            else ("collections", *name.split("/"))
            for name in expected
        }
        wanted = {place: expected[name] for name, place in places.items()}
        as_numpy = dict.fromkeys(wanted, ocp.RestoreArgs(restore_type=np.ndarray))
        with self._readable(chosen), quiet():
            state = self._manager.restore(
                chosen,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.PyTreeRestore(
                            traverse_util.unflatten_dict(wanted),
                            restore_args=traverse_util.unflatten_dict(as_numpy),
                            partial_restore=True,
                        )
                    }
                ),
            )[STATE]
            if record is None:
                self._unverified(chosen)
            else:
                names = map("/".join, wanted)
                verify(digests(state), {n: record.arrays.get(n) for n in names})
        state = traverse_util.flatten_dict(state)
        return Weights(
            tensors={name: state[place] for name, place in places.items()},
            step=chosen,
            averaged=params == "ema_params",
            metrics=dict(record.metrics) if record else {},
        )

    def _choose(self, step: int | str, scores: Mapping[int, Mapping]) -> int:
        """Returns the step to read; the best one needs the scores of all steps."""
        steps = self.steps()
        scored = {
            number: _score(metrics)
            for number, metrics in scores.items()
            if not math.isnan(metrics.get(METRIC, math.nan))
        }
        if scored:
            return max(scored, key=scored.get)
        if step in ("best", "latest"):
            return steps[-1]
        if step not in steps:
            raise ValueError(
                f"{self.folder} has no checkpoint of step {step!r}. Steps: "
                f"{listed(steps)}; or 'best', 'latest'."
            )
        return step

    def _tree(self, step: int) -> Any:
        """Returns what arrays a checkpoint has, as nested dicts and lists."""
        # Not the manager's `item_metadata`, which fails on a damaged file of scores.
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
        return handler.metadata(self.folder / str(step) / STATE).tree

    def record(self, step: int) -> Record | None:
        """Returns the record of a step, None if an older version saved it.

        Raises:
            ValueError: if the record is damaged.
        """
        record = records.read(self.folder / str(step))
        if record and record.metrics != records.metrics_beside(self.folder / str(step)):
            parallel.note(
                f"Checkpoint {step}: its file of scores is damaged and ignored; the "
                "record of the checkpoint has them too."
            )
        return record

    def _unverified(self, step: int) -> None:
        parallel.note(
            f"Checkpoint {step} cannot be verified: an older version of llie_jax saved "
            "it, without digests."
        )

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        """Turns any exception for a damaged checkpoint into one clear error."""
        try:
            yield
        except Exception as error:
            others = [other for other in self.steps() if other != step]
            raise ValueError(
                f"The checkpoint {self.folder / str(step)} cannot be read "
                f"({_first_line(error)}). Other steps: {listed(others)}."
            ) from error

    def _set_aside(self, step: int) -> os.PathLike:
        source = epath.Path(self.folder / str(step))
        target = epath.Path(self.folder.parent / f"{step}.damaged")
        if parallel.is_first() and source.is_dir():
            target.rmtree(missing_ok=True)
            source.replace(target)
        parallel.any_process(False)  # all wait until it is moved
        self._manager.reload()
        return target

    def _failed(self, error: Exception) -> OSError:
        # The previous save may be the one that failed: saves run in the background.
        why = _first_line(error)
        if "No space left" in str(error):
            why = "no space left on the device"
        with contextlib.suppress(OSError):  # a bucket has no size
            why += f"; {shutil.disk_usage(self.folder).free / 2**20:.0f} MiB are free"
        # An unfinished save is not listed, so what is listed is complete.
        self._manager.reload()
        steps = self.steps()
        rest = f"step {steps[-1]} is complete" if steps else "no step is complete yet"
        return OSError(
            f"Cannot save a checkpoint in {self.folder} ({why}); "
            f"{rest}. Free some space, then rerun the same command."
        )


def _first_reason(reasons: Sequence[str | None]) -> str:
    """Returns why the first process that cannot read a checkpoint cannot do so."""
    number, reason = next((n, text) for n, text in enumerate(reasons) if text)
    return f"{reason} (in process {number})" if number else reason


class _Manager(ocp.CheckpointManager):
    """Takes the scores from the records; those of a damaged one are missing.

    Orbax reads the scores of all steps before any can be skipped.
    """

    def metrics(self, step: int) -> dict[str, float]:
        try:
            record = records.read(self.directory / str(step))
        except (ValueError, OSError):
            record = None
        return dict(record.metrics) if record else {}


def _alone() -> ocp.options.MultiprocessingOptions:
    """Reading in this process; by default Orbax waits for all processes."""
    return ocp.options.MultiprocessingOptions(
        primary_host=parallel.process_index(),
        active_processes={parallel.process_index()},
    )


def _score(metrics: Mapping[str, float]) -> float:
    """Returns the score that is highest for the best checkpoint."""
    return metrics.get(METRIC, -math.inf)


def _first_line(error: Exception) -> str:
    text = str(error)
    for details in (" [tensorstore_spec", " See full TensorStore details"):
        text = text.partition(details)[0]
    text = text.strip().splitlines()
    return textwrap.shorten(text[0] if text else type(error).__name__, 300)
