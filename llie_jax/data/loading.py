"""Loading ahead in grain's threads, which survives the death of a thread.

A thread pool of Python never replaces a thread that an exception ended from outside,
and whoever waits for the result that it was to compute waits for ever. What is loaded
depends on the step alone, so loading starts again at the step that is missing.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain

from llie_jax import messages

PATIENCE = 2.0
"""Seconds of waiting for a step after which its thread is looked for."""

_RESTARTS = 3
"""How often loading starts again without any progress."""


def load_ahead(
    load: Callable[[int], Any],
    steps: range,
    *,
    threads: int,
    patience: float = PATIENCE,
) -> Iterator[Any]:
    """Yields `load(step)` for each step, in order, computed ahead in threads.

    Args:
        load: depends on nothing but the step; is called from the threads, and again if
            the thread that it ran in has died.
        steps: consecutive steps.
        threads: their number.
        patience: see `PATIENCE`; slow loading alone restarts nothing.

    Raises:
        Exception: that `load` raises.
        OSError: if threads die again and again at one step.
    """
    step, failures = steps.start, 0
    while step < steps.stop:
        ahead = _Ahead(load, range(step, steps.stop), threads)
        try:
            while step < steps.stop:
                item = ahead.next(step, patience)
                yield item
                step, failures = step + 1, 0
        except _ThreadDied:
            failures += 1
            if failures > _RESTARTS:
                raise OSError(
                    f"Threads of the loader died {failures} times while they loaded "
                    f"the batch of step {step}. Rerun the same command."
                ) from None
            messages.note(
                f"A thread of the loader died; loading starts again at step {step}."
            )
        finally:
            ahead.close()


class _ThreadDied(Exception):
    """The thread that was to load the next step is gone."""


class _Ahead:
    """Grain's iterator over steps, and which thread loads which of them."""

    def __init__(self, load: Callable[[int], Any], steps: range, threads: int):
        self._load = load
        self._loading: dict[int, threading.Thread] = {}
        self._iterator = iter(
            grain.MapDataset.range(steps.start, steps.stop)
            .map(self._load_noted)
            .to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
            )
        )

    def _load_noted(self, step: int) -> Any:
        self._loading[step] = threading.current_thread()
        try:
            return self._load(step)
        finally:
            del self._loading[step]

    def next(self, step: int, patience: float) -> Any:
        """Returns what grain yields next, which is of this step.

        Raises:
            _ThreadDied: if no thread will ever load it.
        """
        answers = queue.SimpleQueue()

        def ask():
            try:
                answers.put((next(self._iterator), None))
            except BaseException as error:
                answers.put((None, error))

        # Grain waits without a limit, so not in this thread.
        asking = threading.Thread(target=ask, daemon=True, name="batch")
        asking.start()
        missing = False
        while True:
            try:
                item, error = answers.get(timeout=patience)
                break
            except queue.Empty:
                # The oldest step is the first that a free thread takes. Twice, since
                # this process may have been suspended while it was handed over.
                was_missing, missing = missing, not self._is_coming(step, asking)
                if missing and was_missing:
                    raise _ThreadDied from None
        if isinstance(error, Exception):
            raise error
        if error is not None:  # meant to end the thread that it was raised in
            raise _ThreadDied from error
        return item

    def _is_coming(self, step: int, asking: threading.Thread) -> bool:
        thread = self._loading.get(step)
        return asking.is_alive() and thread is not None and thread.is_alive()

    def close(self) -> None:
        """Ends the threads."""
        self._iterator.close()
