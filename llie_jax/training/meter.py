"""Training numbers between two reads: loss terms, speed, time spent waiting."""

import contextlib
import time
from collections import deque

import jax
import numpy as np

_IN_FLIGHT = 2
"""Steps in flight: enough to hide the host's work, few enough to stop promptly."""


class NonFiniteError(ArithmeticError):
    """The loss or its gradient was not finite."""


class Meter:
    """Keeps the terms of the steps on the device until they are read."""

    def __init__(self, config, *, skipped: int):
        self._config = config
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        self._flight: deque = deque()
        self._images = 0
        self._waited = 0.0
        self._skipped = skipped
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self):
        """Counts the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self):
        """Excludes the time inside, which is not spent on training."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, step: int, terms: dict[str, jax.Array], *, images: int):
        """Keeps the terms of a step; blocks if too many steps are in flight."""
        self._pending.append((step, terms))
        self._images += images
        self._flight.append(terms["loss"])
        if len(self._flight) > _IN_FLIGHT:
            self._flight.popleft().block_until_ready()

    def read(self) -> dict[str, float]:
        """Returns the means since the last call, with speed and time spent waiting.

        Raises:
            NonFiniteError: as `config.nonfinite` says, naming the step.
        """
        if not self._pending:
            return {}
        steps, terms = zip(*jax.device_get(self._pending), strict=True)
        self._pending.clear()
        seconds = time.perf_counter() - self._start
        for step, values in zip(steps, terms, strict=True):
            if not values["finite"]:
                self._not_finite(step, values)
        used = [values for values in terms if values["finite"]] or list(terms)
        means = {
            key: float(np.mean([values[key] for values in used]))
            for key in used[0]
            if key != "finite"
        }
        means["rate"] = float(terms[-1]["rate"])
        if self._skipped:
            means["skipped"] = self._skipped
        means["images_per_second"] = self._images / seconds
        means["seconds_per_step"] = seconds / len(steps)
        means["data_wait"] = self._waited / seconds
        means["host_ms"] = 1000 * self._waited / len(steps)
        self._images, self._waited = 0, 0.0
        self._start = time.perf_counter()
        return means

    def _not_finite(self, step: int, values: dict[str, np.ndarray]):
        self._skipped += 1
        if self._config.nonfinite == "skip":
            if self._skipped <= self._config.max_skipped:
                return
            limit = f"; at most {self._config.max_skipped} steps may be skipped"
        else:
            limit = ""
        found = ", ".join(
            f"{key} {float(value):.4g}"
            for key, value in values.items()
            if key not in ("finite", "rate", "psnr")
        )
        raise NonFiniteError(
            f"Step {step}: the loss or its gradient is not finite ({found}){limit}. "
            "The last checkpoint is intact. Try a lower "
            "config.optimizer.learning_rate, config.optimizer.clip_norm, or "
            "config.nonfinite=skip."
        )
