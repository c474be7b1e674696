"""Mean absolute error."""

import numpy as np

from llie_jax.metrics import values
from llie_jax.metrics.base import MetricCard
from llie_jax.registry import register


@register("mae", MetricCard(used_by="LLFormer", higher_is_better=False))
def mae(image: np.ndarray, target: np.ndarray) -> float:
    """Returns the mean |image - target| over pixels and channels, in [0, 1].

    Args:
        image: RGB [H, W, 3], uint8, uint16 or floats in [0, 1]; clipped, not rounded.
        target: the reference, likewise.
    """
    return float(np.mean(np.abs(values.to_unit(image) - values.to_unit(target))))
