"""Saving and restoring the state of a run with Orbax.

A checkpoint is one Orbax item `state`, the `TrainState`. The position in the data and
all random draws follow from the step and the seed, so nothing else needs saving.
"""

import contextlib
import os
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from llie_jax import files
from llie_jax.training.state import TrainState
from llie_jax.weights import METRIC, STATE

HINT = "choose another --workdir"


class Checkpoints:
    """The checkpoints of one run: the latest, and the best by validation PSNR.

    Args:
        folder: where they are kept, made if it is missing.

    Raises:
        OSError: if the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder).resolve()
        files.writable_folder(self.folder, hint=HINT)
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[METRIC],
                    n=1,
                    # Else every checkpoint between two validations would be kept.
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        # Orbax warns of each settled default on every start, and prints a traceback
        # from each of its threads where `_failed` says one line.
        logging.set_verbosity(logging.FATAL)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                # The policy decides; without this Orbax keeps no scores on disk, and
                # a restarted run would forget which checkpoint is the best.
                best_fn=lambda metrics: metrics[METRIC],
                cleanup_tmp_directories=True,
                create=True,
            ),
            item_names=(STATE,),
        )

    def steps(self) -> list[int]:
        """Returns the steps saved, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, *, step: int, psnr: float | None = None) -> None:
        """Begins to save a state; the work goes on in the background.

        Args:
            state: the state; the arrays may be given up right after.
            step: the state's step, known on the host.
            psnr: its validation PSNR in dB, where it was measured.

        Raises:
            OSError: if this or the previous save failed, saying what is still there.
        """
        metrics = None if psnr is None else {METRIC: float(psnr)}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(**{STATE: ocp.args.StandardSave(state)}),
                metrics=metrics,
                force=True,
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            OSError: if a save failed, saying what is still there.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, template: Any) -> tuple[TrainState, int, list[str]] | None:
        """Returns the newest state that can be read, its step, and notes.

        Args:
            template: the state's shapes, dtypes and shardings, as arrays or
                `jax.ShapeDtypeStruct`s.

        Returns:
            None if nothing was saved. The notes name each damaged checkpoint that was
            passed over; it is moved to `<step>.damaged` beside `checkpoints/`.

        Raises:
            ValueError: if there are checkpoints and none can be read.
        """
        damaged, notes, first = [], [], None
        for step in reversed(self.steps()):
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        **{STATE: ocp.args.StandardRestore(template)}
                    ),
                )
                state = jax.block_until_ready(restored[STATE])
            except Exception as error:
                first = first or error
                damaged.append(step)
                notes.append(f"checkpoint {step} cannot be read ({_first_line(error)})")
            else:
                # Its place is needed when the run reaches that step again.
                for other in damaged:
                    self._set_aside(other)
                return state, step, notes
        if notes:
            raise ValueError(
                f"No checkpoint in {self.folder} can be read: {'; '.join(notes)}. "
                "Use another --workdir to start again."
            ) from first
        return None

    def close(self) -> None:
        """Stops the background threads; errors of saving are what `wait` reports."""
        with contextlib.suppress(Exception):
            self._manager.close()

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            source = self.folder / str(step)
            target = self.folder.parent / f"{step}.damaged"
            shutil.rmtree(target, ignore_errors=True)
            if source.is_dir():
                os.replace(source, target)
        self._manager.reload()

    def _failed(self, error: Exception) -> OSError:
        # It may be the previous save that failed: they go on in the background.
        why = _first_line(error)
        if "No space left" in str(error):
            why = "no space left on the device"
        free = shutil.disk_usage(self.folder).free / 2**20
        # An unfinished save is not listed, so what is listed is complete.
        self._manager.reload()
        steps = self.steps()
        rest = f"step {steps[-1]} is complete" if steps else "none is complete yet"
        return OSError(
            f"Cannot save a checkpoint in {self.folder} ({why}; {free:.0f} MiB are "
            f"free). Of the saved ones {rest}. Make room, then run the same command."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
