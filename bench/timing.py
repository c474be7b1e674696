"""What the benchmarks share: measuring in turns, ratios with spread, result files."""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llie_jax.files import atomic, plain

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RESULTS = pathlib.Path(__file__).parent / "results"


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Adds the option --clock."""
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu adds up all threads and is less sensitive to other programs",
    )


def in_turns(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    clock: str = "wall",
    seconds: float = math.inf,
    pause: float = 0.0,
    in_a_row: int = 1,
) -> dict[str, list[float]]:
    """Returns the times of functions in milliseconds, running them alternately.

    Args:
        functions: name to function; what it returns is waited for.
        repeats: runs of each after the first, which compiles and is not counted.
        clock: a name of `CLOCKS`.
        seconds: a function is not repeated once its turns have taken so long; if its
            first did, that one is counted.
        pause: seconds of rest before each run. Threads of other libraries keep a core
            busy for a moment after their work.
        in_a_row: runs of a function before the next one's turn. Of several, the first
            is not counted, since memory may have gone back to the system meanwhile;
            the mean of the others is the time of the turn.
    """
    now = CLOCKS[clock]
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            if in_a_row * (first.get(name, 0.0) + sum(times[name])) > 1e3 * seconds:
                continue
            time.sleep(pause)
            if in_a_row > 1:
                jax.block_until_ready(function())
            counted = max(1, in_a_row - 1)
            start = now()
            for _ in range(counted):
                jax.block_until_ready(function())
            elapsed = 1e3 * (now() - start) / counted
            if name in first:
                times[name].append(elapsed)
            else:
                first[name] = elapsed
    return {name: values or [first[name]] for name, values in times.items()}


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How two forms compare: quartiles of the ratios of neighbouring runs.

    Attributes:
        median: the ratio.
        low: lower quartile.
        high: upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: list[float], reference: list[float]) -> "Ratio":
        """Returns `times` over `reference`, pair by pair of a run in turns."""
        ratios = [a / b for a, b in zip(times, reference, strict=True)]
        if len(ratios) == 1:
            return cls(*ratios * 3)
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def machine() -> dict[str, Any]:
    """Returns what a result says about the machine and the software."""
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
    }


def write(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes a JSON file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(plain(result), indent=2) + "\n")
