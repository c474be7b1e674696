"""Watches a run: stacks when no step ends, a profiler trace, spikes of the loss."""

import collections
import faulthandler
import pathlib
import statistics
import time
from collections.abc import Sequence

import jax

_WARM = 3
"""Steps before a trace starts: the first compiles, the next fill the pipeline."""

_STDERR = 2


class Watchdog:
    """Prints the stacks of all threads when no step has ended for a while.

    They go to standard error, once for each such while; the run goes on. The first step
    compiles, which may take minutes. Python's `faulthandler` prints from a thread of
    its own, so it works while other code holds the interpreter.

    Args:
        seconds: the while; 0.0 prints nothing.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._armed = float("-inf")

    def start(self) -> None:
        """Starts to watch."""
        self._armed = float("-inf")
        self.step()

    def stop(self) -> None:
        """Stops to watch."""
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def step(self) -> None:
        """Says that a step has ended."""
        now = time.monotonic()
        if self._seconds and now - self._armed > self._seconds / 10:
            faulthandler.dump_traceback_later(self._seconds, repeat=True, file=_STDERR)
            self._armed = now


class Profile:
    """Writes JAX's profiler trace of a few steps of this process.

    Args:
        folder: where the trace goes; TensorBoard and Perfetto show it.
        first: the step that the run starts from.
        steps: number of steps, 0 for no trace.
    """

    def __init__(self, folder: pathlib.Path, *, first: int, steps: int):
        self.folder = folder
        self._start = first + _WARM if steps else None
        self._stop = first + _WARM + steps
        self._running = False

    def step(self, step: int, result) -> bool:
        """Starts or stops the trace after a step; returns whether it is complete.

        Args:
            step: steps done.
            result: what the step returned; the trace ends when it is there.
        """
        if step == self._start:
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(self.folder))
            self._running = True
        if self._running and step == self._stop:
            jax.block_until_ready(result)
            self.close()
            return True
        return False

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class Spikes:
    """Finds losses far above those before.

    Args:
        factor: how many times the median of the `window` is a spike; 0.0 finds none.
        window: number of losses before; half of it must be known.
    """

    def __init__(self, factor: float, window: int):
        self._factor, self._least = factor, (window + 1) // 2
        self._losses = collections.deque(maxlen=window)

    def find(self, losses: Sequence[float]) -> int | None:
        """Returns the place of the first spike in the next losses, None without one.

        Losses before it count as known, those after it do not.
        """
        for place, loss in enumerate(losses):
            known = len(self._losses) >= self._least
            if (
                self._factor
                and known
                and loss > self._factor * statistics.median(self._losses)
            ):
                return place
            self._losses.append(loss)
        return None
