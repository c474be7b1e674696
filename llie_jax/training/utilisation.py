"""How much of the devices' arithmetic a run uses."""

import functools
from collections.abc import Callable

from llie_jax import costs, parallel
from llie_jax.data import Stage
from llie_jax.training import chips

_FORWARD_PASSES = 3
"""A gradient takes two; rematerialisation does not count as useful work."""


def peak_flops() -> float | None:
    """Returns the published peak of a device in bfloat16; None if it is not known."""
    chip = chips.find(parallel.device_kind())
    return chip and chip.flops


def step_flops(config) -> Callable[[int], float]:
    """Returns a function from a step, from 0, to its floating-point operations.

    They are those of the model, two for each multiply-accumulate, over all devices;
    not those of the loss and the optimizer. Counting traces the model once for each
    size of crops.
    """
    spec = config.model.to_dict()
    stages = [Stage(**stage) for stage in config.stages.to_dict().values()]

    @functools.cache
    def macs(crop: tuple[int, int]) -> int:
        return costs.count(spec, crop).macs

    def flops(step: int) -> float:
        for stage in stages:
            if step < stage.steps:
                break
            step -= stage.steps
        return 2.0 * _FORWARD_PASSES * macs(stage.crop) * stage.batch_size

    return flops
