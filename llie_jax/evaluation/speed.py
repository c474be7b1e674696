"""Time and memory of a model for one image, measured."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from llie_jax import parallel
from llie_jax.inference.enhancer import Enhancer
from llie_jax.metrics.protocol import Protocol
from llie_jax.models.base import Model

_RUNS = 7
_PATIENCE = 30.0
"""Seconds after which no further run is started."""


def measure(
    model: Model,
    variables: Mapping[str, Any],
    image: np.ndarray,
    *,
    protocol: Protocol,
) -> dict[str, Any]:
    """Times a model on one image, after one run that compiles and warms up.

    Args:
        model: the model.
        variables: its variables.
        image: RGB [H, W, 3].
        protocol: pads or resizes the image.

    Returns:
        `seconds`, the median of the `runs`, from pixels in memory to pixels in memory
        on one device; `size` [H, W]; `memory_bytes`, what the compiled program
        allocates on the device for the image (arguments, temporaries, output, code);
        and `device`. Other processes slow it down.
    """
    multiple, pad_mode = protocol.padding(model.multiple, model.pad_mode)
    enhancer = Enhancer(
        model,
        variables,
        multiple=multiple,
        pad_mode=pad_mode,
        size=protocol.size,
        limit=float("inf"),
    )
    enhancer(image, raw=True)
    started = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < _RUNS and time.perf_counter() - started < _PATIENCE:
        before = time.perf_counter()
        enhancer(image, raw=True)
        seconds.append(time.perf_counter() - before)
    return {
        "seconds": statistics.median(seconds),
        "runs": len(seconds),
        "size": list(image.shape[:2]),
        "memory_bytes": enhancer.plan(image.shape[:2]).memory,
        "device": parallel.one_device().devices.flat[0].device_kind,
    }
