"""A run's output: progress line, `log.jsonl`, TensorBoard events, picture strips."""

import json
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from llie_jax import files, messages
from llie_jax.image import io
from llie_jax.training.events import Events
from llie_jax.training.wandb_log import WandbLog
from llie_jax.weights.run import RunFolder, read_log

BUCKET_SECONDS = 60.0
"""A bucket gets new lines so often, as each time means writing the whole log again."""


class RunLog:
    """Writes the numbers of a run; only the first process should create one.

    Lines are in the file at once; in a bucket after `BUCKET_SECONDS`, and before each
    checkpoint.

    Args:
        run: the run's folder.
        step: the step that the run resumes from. Lines of later steps, from a run that
            was interrupted before it could save, are removed: those steps run again.
        wandb: where numbers and pictures go too, None for nowhere.
    """

    def __init__(self, run: RunFolder, *, step: int, wandb: WandbLog | None = None):
        self.path = run.log
        self._wandb = wandb
        kept = [line for line in read_log(self.path) if line["step"] <= step]
        if self.path.exists():
            with files.atomic(self.path, durable=True) as path:
                path.write_text("".join(map(_text, kept)))
        if step and not kept:
            messages.note(
                f"{self.path} has no line of the {step} steps before; the curves begin "
                "here."
            )
        self._pending = ""
        self._interval = 0.0 if files.is_local(self.path) else BUCKET_SECONDS
        self._written = time.monotonic()
        self._events = Events(run.events, purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Writes one line; numbers also go to TensorBoard."""
        line = {"step": step, **values, "time": round(time.time(), 3)}
        self._pending += _text(line)
        if time.monotonic() - self._written >= self._interval:
            self._write_pending()
        for key, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(key, value, step)
        if self._wandb:
            self._wandb.write(step, values)

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        self._write_pending()
        self._events.flush()
        if self.path.exists():
            files.sync(self.path)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Sends a uint8 picture [H, W, 3] to TensorBoard."""
        self._events.add_image(name, image, step)
        if self._wandb:
            self._wandb.picture(step, name, image)

    def close(self) -> None:
        """Writes what is left, and closes the files."""
        try:
            self._write_pending()
        finally:
            self._events.close()
            if self._wandb:
                self._wandb.close()

    def _write_pending(self) -> None:
        # Not tried again after a failure, which may have written a part of it.
        text, self._pending, self._written = self._pending, "", time.monotonic()
        if text:
            files.append(self.path, text)


def _text(line: Mapping[str, float | str]) -> str:
    return json.dumps(files.plain(line), allow_nan=False) + "\n"


def write_strip(path: pathlib.Path, rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Writes rows of uint8 images of equal size as one picture; returns it."""
    gap = 6
    lines = []
    for row in rows:
        spaced = [row[0]]
        for image in row[1:]:
            spaced += [np.full((image.shape[0], gap, 3), 255, np.uint8), image]
        lines.append(np.concatenate(spaced, axis=1))
    picture = lines[0]
    for line in lines[1:]:
        border = np.full((gap, picture.shape[1], 3), 255, np.uint8)
        picture = np.concatenate([picture, border, line], axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write_image(path, picture)
    return picture


class ProgressLine:
    """Shows progress on standard error: a bar in a terminal, otherwise lines.

    Args:
        first: the step that the run starts from.
        total: number of steps of the run.
        shown: False shows nothing (processes other than the first).
    """

    def __init__(self, *, first: int, total: int, shown: bool = True):
        self._console = Console(stderr=True, quiet=not shown)
        self._first, self._total = first, total
        self._step = first
        self._bar = None
        if self._console.is_terminal and shown:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=False,
            )
            self._task = self._bar.add_task(
                "", completed=first, total=total, text="compiling"
            )
            self._bar.start()

    def note(self, text: str) -> None:
        """Prints one line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the numbers of the last interval.

        Args:
            step: steps done.
            values: `loss`, `psnr` (if there are references), `images_per_second`,
                `data_wait` (share of the time), `seconds_per_step`, and `mfu` (if the
                peak of the devices is known).
        """
        left = (self._total - step) * values["seconds_per_step"]
        psnr = f"PSNR {values['psnr']:.2f} dB  " if "psnr" in values else ""
        used = f"MFU {100 * values['mfu']:.1f} %  " if "mfu" in values else ""
        text = (
            f"loss {values['loss']:.4f}  {psnr}"
            f"{values['images_per_second']:.1f} images/s  "
            f"wait {100 * values['data_wait']:.1f} %  {used}left {_clock(left)}"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        else:
            self.note(f"step {step}/{self._total}  {text}")

    def close(self) -> None:
        """Stops the bar, leaving it on the screen."""
        if self._bar:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )
