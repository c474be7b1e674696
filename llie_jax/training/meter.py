"""Training numbers between two reads: loss terms, speed, time spent waiting."""

import contextlib
import time
from collections import deque

import jax
import numpy as np

from llie_jax import parallel
from llie_jax.training.watch import Spikes

_IN_FLIGHT = 2
"""Steps in flight: enough to hide the host's work, few enough to stop promptly."""


class DivergedError(ArithmeticError):
    """The training failed by its numbers."""


class NonFiniteError(DivergedError):
    """The loss or its gradient was not finite."""


class LossSpikeError(DivergedError):
    """The loss rose suddenly, more often than the config allows."""


class Meter:
    """Keeps the terms of the steps on the device until they are read.

    Args:
        config: the experiment.
        skipped: steps skipped so far because a value was not finite.
        devices: number of devices.
        peak_flops: published peak of a device, None if it is not known.

    Attributes:
        spike: (step, loss) of the first spike of the loss in the steps read last, None
            without one.
    """

    def __init__(
        self,
        config,
        *,
        skipped: int,
        devices: int = 1,
        peak_flops: float | None = None,
    ):
        self.spike: tuple[int, float] | None = None
        self._config = config
        self._spikes = Spikes(config.spike.factor, config.spike.window)
        self._devices, self._peak = devices, peak_flops
        self._flops = 0.0
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

    def add(
        self,
        step: int,
        terms: dict[str, jax.Array],
        *,
        images: int,
        flops: float = 0.0,
    ):
        """Keeps the terms of a step; blocks if too many steps are in flight.

        Args:
            step: its number, from 1.
            terms: its terms.
            images: number of images, over all devices.
            flops: floating-point operations of the model, over all devices.
        """
        self._pending.append((step, terms))
        self._images += images
        self._flops += flops
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
        losses = [float(values["loss"]) for values in terms]
        place = self._spikes.find(losses)
        self.spike = None if place is None else (steps[place], losses[place])
        used = [values for values in terms if values["finite"]] or list(terms)
        means = {
            key: float(np.mean([values[key] for values in used]))
            for key in used[0]
            if key != "finite"
        }
        means["rate"] = float(terms[-1]["rate"])
        if self._skipped:
            means["skipped"] = self._skipped
        means["steps_per_second"] = len(steps) / seconds
        means["images_per_second"] = self._images / seconds
        means["images_per_second_per_device"] = self._images / seconds / self._devices
        if self._peak:
            means["mfu"] = self._flops / seconds / (self._devices * self._peak)
        if peak := parallel.peak_memory():
            means["peak_memory_mb"] = peak / 2**20
        means["seconds_per_step"] = seconds / len(steps)
        means["data_wait"] = self._waited / seconds
        means["host_ms"] = 1000 * self._waited / len(steps)
        self._images, self._flops, self._waited = 0, 0.0, 0.0
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
