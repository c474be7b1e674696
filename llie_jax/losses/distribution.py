"""Losses that compare how values are distributed, not where they are."""

import math

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, check_shapes, difference
from llie_jax.registry import register


@register("brightness", LossCard())
def brightness(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the absolute difference of the mean values per image, [B].

    Source: the official code of LYT-Net (Brateanu et al., SPL 2025), which calls it the
    colour loss.

    Args:
        prediction: images [B, H, W, C].
        target: images of the same shape.

    Raises:
        ValueError: if the shapes differ.
    """
    return jnp.abs(difference(prediction, target).mean((1, 2, 3)))


@register("soft_histogram", LossCard())
def soft_histogram(
    prediction: jax.Array,
    target: jax.Array,
    *,
    bins: int = 256,
    sigma: float = 0.01,
) -> jax.Array:
    """Returns the distance of each value's soft membership in bins, per image, [B].

    Every value of every pixel and channel belongs to each bin by a Gaussian weight. The
    weights of an image are divided by their sum; the loss is the mean absolute
    difference over pixels, channels and bins. Only one bin at a time is in memory.

    Source: the official code of LYT-Net (Brateanu et al., SPL 2025). The paper
    describes histograms of whole images; in the code, each pixel has its own.
    Differs: the authors also add the weights of the images in a batch, which is one
    image in their training.

    Args:
        prediction: images [B, H, W, C] in [0, 1].
        target: images of the same shape.
        bins: number of bins, whose centres divide [0, 1] evenly.
        sigma: standard deviation of the Gaussian.

    Raises:
        ValueError: if the shapes differ, or `bins` or `sigma` is too small.
    """
    check_shapes(prediction, target)
    if bins < 2 or not sigma > 0:
        raise ValueError(
            f"soft_histogram has bins={bins} and sigma={sigma}; give at least 2 bins "
            "and a positive sigma."
        )
    x, y = as_float(prediction), as_float(target)
    centres = jnp.linspace(0, 1, bins, dtype=x.dtype)

    def weights(values, centre):
        return jnp.exp(-0.5 * jnp.square((values - centre) / sigma))

    def over_bins(function):
        # Recomputed in the gradient, which would otherwise keep all bins.
        step = jax.checkpoint(lambda total, centre: (total + function(centre), None))
        return jax.lax.scan(step, jnp.zeros(x.shape[0], x.dtype), centres)[0]

    def scale(values):
        total = over_bins(lambda centre: weights(values, centre).mean((1, 2, 3)))
        # All weights are 0 if all values are far outside [0, 1].
        return 1 / jnp.maximum(total, 1e-12)[:, None, None, None]

    x_scale, y_scale = scale(x), scale(y)

    def distance(centre):
        apart = weights(x, centre) * x_scale - weights(y, centre) * y_scale
        return jnp.abs(apart).mean((1, 2, 3))

    # Means, which keep float32 accurate, stood for sums until here.
    return over_bins(distance) / (bins * math.prod(x.shape[1:]))
