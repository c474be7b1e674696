"""A metric without a reference, and one with constants that takes several images."""

import contextlib
import dataclasses

import numpy as np

from llie_jax import metrics, registry

LOADED = []
"""The files that `Distance` has loaded."""

CALLS = []
"""How many images each call of `Distance` received."""


@dataclasses.dataclass(frozen=True)
class Distance(metrics.Metric):
    """The mean difference times a factor, as a network would take it."""

    file: str = "network"

    batch = 3

    def load_constants(self):
        LOADED.append(self.file)
        return {"factor": 10.0}

    def __call__(self, images, targets, constants):
        CALLS.append(len(images))
        difference = np.stack(images).astype(float) - np.stack(targets)
        return constants["factor"] * np.abs(difference).mean((1, 2, 3))


def level(image, *, white: float = 255.0):
    """Returns the mean level of an image, with `white` as 1."""
    return metrics.values.to_levels(image).mean() / white


@contextlib.contextmanager
def registered(monkeypatch):
    """Registers `toy_level` and `toy_distance` for one test."""
    with monkeypatch.context() as patch:
        table = dict(registry._PARTS["metric"])
        patch.setitem(registry._PARTS, "metric", table)
        card = metrics.MetricCard(used_by="tests", needs_target=False, unit="levels")
        registry.register("toy_level", card)(level)
        card = metrics.MetricCard(used_by="tests", higher_is_better=False)
        registry.register("toy_distance", card)(Distance)
        LOADED.clear()
        CALLS.clear()
        yield
