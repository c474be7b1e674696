"""Image quality metrics, each named after its definition, and protocols.

    compute("rgb_uint8", image, target)      # PSNR in dB
    compute("gauss11", image, target)        # SSIM

Papers use "PSNR" and "SSIM" for quantities that differ by more than their claimed
gains. Here each definition has its own name, and a `protocol.Protocol` says which ones
a table uses.
"""

import numpy as np

from llie_jax import registry
from llie_jax.metrics import gt_mean, lpips, mae, niqe, psnr, ssim, values
from llie_jax.metrics.base import (
    Metric,
    MetricCard,
    Scorer,
    card,
    loads,
    metric_name,
)

__all__ = [
    "Metric",
    "MetricCard",
    "Scorer",
    "card",
    "compute",
    "gt_mean",
    "loads",
    "lpips",
    "mae",
    "metric_name",
    "niqe",
    "psnr",
    "ssim",
    "values",
]


def compute(
    name: registry.Spec, image: np.ndarray, target: np.ndarray | None = None
) -> float:
    """Returns the value of one metric for one image.

    For many images, use a `Scorer`, which loads the constants of a metric once.

    Args:
        name: a registered metric, or its spec with fields, for example
            `{"name": "rgb_float", "clip": False}`.
        image: RGB [H, W, 3], uint8, uint16 or floats in [0, 1].
        target: the reference, likewise; for metrics that need one.

    Raises:
        TypeError: if an image is neither uint8, uint16 nor floating point.
        ValueError: if the name is unknown, a target is missing or superfluous, shapes
            differ, an image is too small, or values are not finite or out of range.
        FileNotFoundError, ImportError: if the metric's constants cannot be loaded.
    """
    if target is not None and not card(name).needs_target:
        raise ValueError(f"{metric_name(name)} takes no target.")
    targets = None if target is None else [target]
    return Scorer({"value": name})([image], targets)[0]["value"]
