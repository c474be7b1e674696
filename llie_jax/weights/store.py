"""The checkpoints of a run: saved with a digest of every array, verified when read.

A checkpoint is a step of an Orbax `CheckpointManager` with the items `state`, the train
state; `digest`, the SHA-256 of each of its arrays and the validation scores; and
`metrics`, the same scores for Orbax. The position in the data and all random draws
follow from the step and the seed, so nothing else needs saving.

Importing this module takes seconds; code for release files does without it.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import traverse_util
from orbax.checkpoint.checkpoint_managers import preservation_policy

from llie_jax import files, parallel
from llie_jax.messages import listed
from llie_jax.weights.fit import check_names, flat, shapes

STATE, DIGEST = "state", "digest"  # the items of a checkpoint
METRIC = "psnr"
"""The validation score that selects the best checkpoint."""

_LATEST = 2  # so that a damaged one has a fallback, also without validation


_before = sys.unraisablehook


def _hook(unraisable) -> None:
    # When one array of a checkpoint cannot be read, Orbax closes its event loop, and
    # every other pending read prints a traceback beside our one clear line.
    if str(unraisable.exc_value) != "Event loop is closed":
        _before(unraisable)


sys.unraisablehook = _hook


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

    Raises:
        OSError: if the folder cannot be created or written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        writing: bool = False,
        hint: str = "choose another folder",
    ):
        self.folder = files.absolute(folder)
        if writing:
            files.writable_folder(self.folder, hint=hint)
            # Orbax warns of each default on every start, and its threads print
            # tracebacks where `_failed` gives one line.
            logging.set_verbosity(logging.FATAL)
            self._manager = self._writer()
        else:
            with _quiet():
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
                create=True,
            ),
            item_handlers={
                STATE: ocp.StandardCheckpointHandler(),
                DIGEST: ocp.JsonCheckpointHandler(),
            },
        )

    def _reader(self) -> ocp.CheckpointManager:
        # By default Orbax waits for all processes; this one may be reading alone.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=parallel.process_index(),
            active_processes={parallel.process_index()},
        )
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
        # Orbax writes the JSON of the first process only.
        arrays = digests(state) if parallel.is_first() else {}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(state),
                        DIGEST: ocp.args.JsonSave(
                            {"arrays": arrays, "metrics": files.plain(metrics)}
                        ),
                    }
                ),
                metrics=metrics or None,
                force=True,
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            OSError: if a save failed; the message names the newest complete step.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, template: Any) -> tuple[Any, int] | None:
        """Returns the newest undamaged state and its step.

        Each damaged checkpoint is named in a warning and moved to `<step>.damaged`
        beside the folder.

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
                    self._record(step)  # its scores decide what is kept
            except Exception as error:
                first = first or error
                reason = _first_line(error)
            # All processes must resume from the same step.
            if parallel.any_process(reason is not None):
                damaged[step] = reason or "another process cannot read it"
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
            warnings.warn(
                f"Checkpoint {step} is left out, and moved to {place}: {reason}.",
                stacklevel=2,
            )
        return found

    def _restore(self, step: int, template: Any) -> Any:
        """Returns the state of a step.

        Raises:
            ValueError: if it differs from what was saved; Orbax raises other errors.
        """
        record = self._record(step)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(template)}),
        )
        state = jax.block_until_ready(restored[STATE])
        _verify(digests(state), record["arrays"])
        return state

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
        records = {}
        for each in steps if step == "best" else ():
            with self._readable(each):
                records[each] = self._record(each)
        chosen = self._choose(step, records)
        with self._readable(chosen), _quiet():
            record = records.get(chosen) or self._record(chosen)
            saved = self._manager.item_metadata(chosen)[STATE].tree
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
        with self._readable(chosen), _quiet():
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
            arrays = record["arrays"]
            _verify(
                digests(state), {"/".join(p): arrays.get("/".join(p)) for p in wanted}
            )
        state = traverse_util.flatten_dict(state)
        return Weights(
            tensors={name: state[place] for name, place in places.items()},
            step=chosen,
            averaged=params == "ema_params",
            metrics=record["metrics"],
        )

    def _choose(self, step: int | str, records: Mapping[int, dict]) -> int:
        """Returns the step to read; the best one needs the records of all steps."""
        steps = self.steps()
        scored = {
            number: _score(record["metrics"])
            for number, record in records.items()
            if not math.isnan(record["metrics"].get(METRIC, math.nan))
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

    def _record(self, step: int) -> dict[str, Any]:
        """Returns the digests and scores that were saved with a step.

        Raises:
            ValueError: if there are none, or the scores beside them differ.
        """
        if not (self.folder / str(step) / DIGEST).exists():
            raise ValueError(
                "it has no digest: an older version wrote it, or it is incomplete"
            )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**{DIGEST: ocp.args.JsonRestore()})
        )
        try:
            record = restored[DIGEST]
            metrics = {k: files.number(v) for k, v in record["metrics"].items()}
            record = {"arrays": dict(record["arrays"]), "metrics": metrics}
        except (TypeError, KeyError, AttributeError, ValueError):
            raise ValueError("its digest is damaged") from None
        beside = self._manager.metrics(step)
        if files.plain(metrics) != files.plain(beside):
            raise ValueError(f"its scores are damaged: {metrics} and {beside}")
        return record

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


class _Manager(ocp.CheckpointManager):
    """Treats damaged scores as missing; `Store` compares them with the digest's.

    Orbax reads the scores of all steps before any can be skipped.
    """

    def metrics(self, step: int) -> dict[str, float]:
        try:
            found = super().metrics(step) or {}
            return {key: float(value) for key, value in found.items()}
        except (ValueError, TypeError, AttributeError):
            return {}


def digests(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of each array of a tree, over dtype, shape and values.

    Args:
        tree: arrays of this process, or global ones that are the same on every device.

    Returns:
        Paths such as `params/first/kernel` to hexadecimal digests.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    # Sequentially: most arrays are small, so threads take longer.
    found = (_digest(leaf) for _, leaf in leaves)
    return dict(zip(names, found, strict=True))


def _digest(leaf: Any) -> str:
    if isinstance(leaf, jax.Array):
        assert leaf.is_fully_replicated, "a state is the same on every device"
        leaf = leaf.addressable_data(0)
    value = np.asarray(leaf)
    digest = hashlib.sha256(f"{value.dtype.name} {value.shape}\n".encode())
    digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _verify(found: Mapping[str, str], saved: Mapping[str, str | None]) -> None:
    """Raises ValueError naming the arrays whose digest differs from the saved one."""
    differing = sorted(
        name
        for name in found.keys() | saved.keys()
        if found.get(name) != saved.get(name)
    )
    if differing:
        raise ValueError(f"not as they were saved: {listed(differing)}")


def _score(metrics: Mapping[str, float]) -> float:
    """Returns the score that is highest for the best checkpoint."""
    return metrics.get(METRIC, -math.inf)


def _first_line(error: Exception) -> str:
    text = str(error).partition(" [tensorstore_spec")[0].strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's warning that a manager for reading is read-only."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
