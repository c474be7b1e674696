"""The HVI colour space: intensity, and a colour plane that shrinks where it is dark.

Hue and saturation are polar coordinates of that plane, so that red, at both ends of the
hue range, is a single point. Black pixels, whose colour is noise, lie close together.

All computation is in float32, whatever the dtype of the images, and all gradients are
finite on images in [0, 1].

Source: Yan, Feng et al., HVI: A New Color Space for Low-light Image Enhancement, CVPR
2025, Section 3. Their k is the reciprocal of `density_k`, as in their code.
"""

import jax
import jax.numpy as jnp
import numpy as np

_EPS = 1e-8


def rgb_to_hvi(image: jax.Array, density_k: jax.Array | float) -> jax.Array:
    """Returns the HVI form of RGB images, [..., 3] in float32.

    The first two channels span the colour plane in [-1, 1]; the third is the intensity
    in [0, 1], the largest of R, G and B.

    Differs: where R, G and B tie for the largest or the smallest, the tied channels
    share the gradient that the authors' code gives to one of them.

    Args:
        image: RGB [..., 3] in [0, 1].
        density_k: the learned exponent with which colour shrinks as intensity falls, a
            scalar or [1].
    """
    image = image.astype(jnp.float32)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, axis=-1)
    chroma = value - jnp.min(image, axis=-1)

    # Divisors are masked too: masking only a result does not mask its gradient.
    coloured = chroma > 0
    divisor = jnp.where(coloured, chroma, 1.0) + _EPS
    # In sixths of the circle, counted from red. Ties go to red, then to green.
    hue = jnp.where(
        red == value,
        (green - blue) / divisor,
        jnp.where(
            green == value, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
        ),
    )
    lit = value > 0
    radius = jnp.where(lit, chroma / (jnp.where(lit, value, 1.0) + _EPS), 0.0)
    radius = radius * _density(value, density_k)
    angle = jnp.where(coloured, hue * (np.pi / 3), 0.0)
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle), value], axis=-1)


def hvi_to_rgb(
    hvi: jax.Array,
    density_k: jax.Array | float,
    *,
    saturation: float = 1.0,
    alpha: float = 1.0,
) -> jax.Array:
    """Returns the RGB form of HVI images, [..., 3] in [0, `alpha`], float32.

    The inverse of `rgb_to_hvi` up to 1e-4: a grey pixel gets at least that saturation.
    No gradient reaches `density_k` through it, as in the authors' code.

    Differs: hues are continuous at red. The authors' code turns a pixel black if its
    hue is a rounding error below red.

    Args:
        hvi: [..., 3]; values outside the range of `rgb_to_hvi` are clipped to it.
        density_k: the exponent, a scalar or [1].
        saturation: factor on the saturation, which is then clipped to 1.
        alpha: factor on the result, which is not clipped.
    """
    hvi = hvi.astype(jnp.float32)
    value = jnp.clip(hvi[..., 2], 0, 1)
    density = _density(value, jax.lax.stop_gradient(density_k)) + _EPS
    plane = jnp.clip(jnp.clip(hvi[..., :2], -1, 1) / density[..., None], -1, 1)

    length = jnp.sqrt(jnp.sum(jnp.square(plane), axis=-1) + _EPS)
    colour = jnp.clip(length * saturation, 0, 1)
    x, y = plane[..., 0] + _EPS, plane[..., 1] + _EPS
    x = jnp.where((x == 0) & (y == 0), _EPS, x)  # the angle has no gradient there
    hue = jnp.arctan2(y, x) * (3 / np.pi)

    # The distance of the hue from red, green and blue: a channel has its full value up
    # to one sixth of the circle and its smallest from two sixths on. This is the usual
    # table of six sectors, without its jumps.
    place = jnp.mod(hue[..., None] + np.array([5, 3, 1], np.float32), 6)
    share = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    value, colour = value[..., None], colour[..., None]
    return (value - value * colour * share) * alpha


def _density(value: jax.Array, density_k: jax.Array | float) -> jax.Array:
    """Returns C_k, the radius of the colour plane at an intensity."""
    sine = jnp.sin(jnp.clip(value, 0, 1) * (np.pi / 2))
    return (sine + _EPS) ** jnp.asarray(density_k, jnp.float32)
