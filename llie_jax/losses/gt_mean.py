"""The GT-mean loss: any loss, also with the brightness of the reference.

Two photos of one scene differ most in brightness, which hides how good the rest is.
Where the brightness of the prediction is far from that of the reference, the loss
counts as it is; the nearer it comes, the more counts the loss of the prediction scaled
to the mean of the reference.

Source: Liao et al., GT-Mean Loss: A Simple Yet Effective Solution for Brightness
Mismatch in Low-Light Image Enhancement, ICCV 2025; the options are those of the
authors' code for Retinexformer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llie_jax.losses.pixel import as_float

_LUMA = (0.2989, 0.587, 0.114)

_SPREAD = 0.1
"""Standard deviation of a brightness, as a share of it."""

_DARKEST = 1e-3
"""Floor of a brightness: a black prediction would be scaled by infinity.

Differs: the authors divide by the brightness as it is.
"""


def gt_mean(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    prediction: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """Returns W L(prediction, target) + (1 - W) L(scaled prediction, target), [B].

    The scaled prediction has the mean luma of the target and is clipped to [0, 1]. W is
    the Bhattacharyya distance of two normal distributions around both means, at most 1;
    it has no gradient.

    Args:
        loss: (prediction, target) -> [B].
        prediction: [B, H, W, 3], RGB.
        target: [B, H, W, 3], RGB in [0, 1].
    """
    prediction, target = as_float(prediction), as_float(target)
    mine, wanted = (_brightness(image) for image in (prediction, target))
    weight = jax.lax.stop_gradient(jnp.clip(_distance(mine, wanted), 0, 1))
    factor = (wanted / mine)[:, None, None, None]
    scaled = jnp.clip(factor * prediction, 0, 1)
    return weight * loss(prediction, target) + (1 - weight) * loss(scaled, target)


def _brightness(image: jax.Array) -> jax.Array:
    """Returns the mean luma of each image, [B], at least `_DARKEST`."""
    if image.shape[-1] != 3:
        raise ValueError(f"The GT-mean loss is for RGB images, not {image.shape}.")
    # Not a matrix product, which accelerators compute with fewer bits.
    luma = (image.mean((1, 2)) * jnp.array(_LUMA)).sum(-1)
    return jnp.maximum(jnp.abs(luma), _DARKEST)


def _distance(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the Bhattacharyya distance of N(m, (0.1 m)^2) for both means m."""
    a, b = jnp.square(_SPREAD * first), jnp.square(_SPREAD * second)
    apart = jnp.square(first - second) / (4 * (a + b))
    return apart + 0.5 * jnp.log((a + b) / (2 * jnp.sqrt(a * b)))
