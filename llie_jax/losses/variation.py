"""Losses on differences of neighbours, such as of an illumination that is smooth."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, check_shapes, reduce_pixels
from llie_jax.nn.conv_kernels import grouped_conv
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
    size = absolute if power == 1 else jnp.square
    return _mean_of_both(size(x) for x in _differences(as_float(prediction), distance))


@register("gradient", LossCard())
def gradient(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the absolute difference of the sizes of the gradients, [B].

    The mean over the vertical differences of neighbours plus the mean over the
    horizontal ones.

    Source: the authors' code of URetinex-Net++ (Wu et al., TPAMI 2025).

    Args:
        prediction: maps [B, H, W, C].
        target: maps of the same shape.

    Raises:
        ValueError: if the shapes differ.
    """
    check_shapes(prediction, target)
    pairs = _differences_of_both(prediction, target)
    return _mean_of_both(absolute(absolute(x) - absolute(y)) for x, y in pairs)


@register("structure_aware", LossCard())
def structure_aware(
    prediction: jax.Array, target: jax.Array, *, sharpness: float = 10.0
) -> jax.Array:
    """Returns the variation of a map except where an image has edges, [B].

    Source: the authors' code of URetinex-Net++ (Wu et al., TPAMI 2025), after Wei et
    al., Deep Retinex Decomposition, BMVC 2018.

    Args:
        prediction: maps [B, H, W, C], such as illuminations.
        target: images of the same shape, whose edges count; grey for an illumination.
        sharpness: how fast the weight of a difference falls with the mean gradient of
            the image around it.

    Raises:
        ValueError: if the shapes differ.
    """
    check_shapes(prediction, target)
    pairs = _differences_of_both(prediction, target)
    return _mean_of_both(
        absolute(x) * jnp.exp(-sharpness * _blur(absolute(edge))) for x, edge in pairs
    )


def _differences_of_both(prediction: jax.Array, target: jax.Array):
    """Yields (of the prediction, of the target), vertical, then horizontal."""
    both = (_differences(as_float(x), 1) for x in (prediction, target))
    return zip(*both, strict=True)


def _differences(x: jax.Array, distance: int) -> tuple[jax.Array, jax.Array]:
    """Returns the vertical and the horizontal differences of [B, H, W, C]."""
    return x[:, distance:] - x[:, :-distance], x[:, :, distance:] - x[:, :, :-distance]


def _mean_of_both(values: Iterable[jax.Array]) -> jax.Array:
    """Returns the sum of the means over pixels and channels, [B]."""
    return sum(reduce_pixels(each, "mean") for each in values)


def _blur(x: jax.Array) -> jax.Array:
    """Returns the mean of 3x3 pixels, with zeros outside, of [B, H, W, C]."""
    kernel = jnp.full((3, 3, 1, x.shape[-1]), 1 / 9, x.dtype)
    return grouped_conv(x, kernel, groups=x.shape[-1])


def absolute(x: jax.Array) -> jax.Array:
    """Returns |x| with a gradient of 0 at 0; that of `jnp.abs` is 1 there."""
    return jnp.sign(x) * x
