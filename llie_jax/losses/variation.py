"""Loss on the variation of a map, such as an illumination that has to be smooth."""

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, reduce_pixels
from llie_jax.registry import register

POWERS = (1, 2)


@register("variation", LossCard(needs_target=False))
def variation(prediction: jax.Array, *, distance: int = 1, power: int = 1) -> jax.Array:
    """Returns the total variation per map, [B]: 0 for constant maps.

    The mean over the vertical differences plus the mean over the horizontal ones.

    Source: Rudin, Osher and Fatemi, Physica D 1992, in the anisotropic form common in
    image restoration.

    Args:
        prediction: maps [B, H, W, C].
        distance: of the pixels that are compared; PairLIE's code has 2.
        power: 1 for absolute differences, 2 for squared ones, as in URetinex-Net.

    Raises:
        ValueError: if an option is out of range, or a map is not larger than
            `distance`.
    """
    if power not in POWERS or distance < 1:
        raise ValueError(
            f"variation has power={power!r} and distance={distance!r}; the power is "
            "1 or 2, the distance at least 1."
        )
    if min(prediction.shape[1:3]) <= distance:
        raise ValueError(
            f"variation compares pixels at a distance of {distance}; a map of "
            f"{prediction.shape[1]} x {prediction.shape[2]} is too small."
        )
    x = as_float(prediction)
    size = _absolute if power == 1 else jnp.square
    rows = size(x[:, distance:] - x[:, :-distance])
    columns = size(x[:, :, distance:] - x[:, :, :-distance])
    return reduce_pixels(rows, "mean") + reduce_pixels(columns, "mean")


def _absolute(x: jax.Array) -> jax.Array:
    """Returns |x| with a gradient of 0 at 0; that of `jnp.abs` is 1 there."""
    return jnp.sign(x) * x
