"""Image quality metrics, each by the name of its definition, and protocols.

    compute("rgb_uint8", image, target)      # PSNR in dB
    compute("gauss11", image, target)        # SSIM

Papers print "PSNR" and "SSIM" for quantities that differ by more than their claimed
gains; here each definition has its own name, and a `protocol.Protocol` says which ones
a table uses.
"""

import numpy as np

from llie_jax import registry
from llie_jax.metrics import psnr, ssim, values

__all__ = ["compute", "psnr", "ssim"]


def compute(
    name: registry.Spec, image: np.ndarray, target: np.ndarray | None = None
) -> float:
    """Returns one metric of one image, computed on the host in float64.

    Args:
        name: a registered metric, or its spec with fields, for example
            `{"name": "rgb_float", "clip": False}`.
        image: RGB [H, W, 3], uint8 or floating point in [0, 1].
        target: the reference, likewise; for metrics that need one.

    Raises:
        TypeError: if an image is neither uint8 nor floating point.
        ValueError: if the name is unknown, a target is missing or superfluous, shapes
            differ, an image is too small, or values are not finite or not in range.
    """
    metric, fields = registry.split_spec(name, kind="metric")
    image = values.check_image(image)
    size = image.shape[:2]
    if min(size) < metric.facts["minimum_size"]:
        raise ValueError(
            f"{metric.name} needs images of at least {metric.facts['minimum_size']} "
            f"pixels a side, got {size[0]} x {size[1]}."
        )
    if not metric.facts["needs_target"]:
        if target is not None:
            raise ValueError(f"{metric.name} takes no target.")
        return float(metric.make(image, **fields))
    if target is None:
        raise ValueError(f"{metric.name} needs a target to compare the image with.")
    target = values.check_image(target, role="target")
    if image.shape != target.shape:
        raise ValueError(
            f"image is {size[0]} x {size[1]} but target is "
            f"{target.shape[0]} x {target.shape[1]} (height x width)."
        )
    return float(metric.make(image, target, **fields))
