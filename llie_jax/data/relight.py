"""Training inputs made of the references in the compiled step: darker photos.

The sensor model of `synthetic.darken` with a normal distribution in place of Poisson's,
so that it runs on the device. Each record has an exposure of its own; in some, one side
of the photo is darker than the other, as in backlit photos; some keep their light. The
references get colours of other strength and hue first, since those of low-light sets
are pale, and a model would learn to turn colours to grey.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.image import color, levels
from llie_jax.image.overview import coordinates

DRAWS = 11
"""Random numbers per record."""

_READ_NOISE = 3.0
_FULL_WELL = (1000.0, 10000.0)
_SATURATION = (0.7, 2.5)


def plan(draws: np.ndarray, share: float, exposures: tuple[float, float]):
    """Returns what happens to each record, as entries of a batch.

    A quarter of the relit records stay as bright as their references, and three tenths
    have two exposures.

    Args:
        draws: uniform in [0, 1), [DRAWS, B].
        share: how many of the records are relit.
        exposures: the lowest and the highest factor on linear light, above 0 and at
            most 1.

    Returns:
        `relit` bool [B]; `light` float32 [B, 6], logarithms of both exposures, then
        direction (2), place and width of the passage from one to the other; `sensor`
        float32 [B], electrons at white, 0 for no noise; `noise` uint32 [B], a seed;
        `colours` float32 [B, 3, 3], the matrix that changes the reference's colours.
    """
    chosen, kind, first, second, angle, place, width, well, noise, *colours = draws
    low, high = np.log(exposures)
    first, second = (low + (high - low) * x for x in (first, second))
    first = np.where(kind < 0.25, 0.0, first)
    second = np.where(kind < 0.7, first, second)
    angle = 2 * np.pi * angle
    light = [
        first,
        second,
        np.cos(angle),
        np.sin(angle),
        0.6 * (place - 0.5),
        0.02 + 0.3 * width**2,
    ]
    few, many = np.log(_FULL_WELL)
    return {
        "relit": chosen < share,
        "light": np.stack(light, -1).astype(np.float32),
        "sensor": np.where(kind < 0.25, 0.0, np.exp(few + (many - few) * well)).astype(
            np.float32
        ),
        "noise": (noise * 2**32).astype(np.uint32),
        "colours": _colours(*colours),
    }


def _colours(strength: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns matrices that keep grey: of other saturation, half with other hues."""
    low, high = np.log(_SATURATION)
    saturation = np.exp(low + (high - low) * strength)[:, None, None]
    matrices = np.full((len(order), 3, 3), 1 / 3)
    matrices = matrices + saturation * (np.eye(3) - matrices)
    orders = np.array(list(itertools.permutations(range(3))))
    # The first order, which keeps the hues, is as frequent as all others together.
    chosen = np.maximum(np.floor(10 * order) - 4, 0).astype(int)
    places = orders[chosen]
    return np.take_along_axis(matrices, places[:, :, None], 1).astype(np.float32)


def relight(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Replaces relit records by their references, in other colours and other light.

    Args:
        batch: `image` and `target` [B, P, Q, 3], the entries of `plan`, and `window`,
            `overview` and `overview_target` if the model takes an overview.

    Returns:
        `image`, `target` and, if it was given, `overview`, float32 in [0, 1].
    """
    relit = batch["relit"][:, None, None, None]
    target = levels.to_float(batch["target"])
    target = jnp.where(relit, _coloured(target, batch["colours"]), target)
    size = target.shape[1:3]
    window = batch.get("window")
    if window is None:
        window = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (len(target), 4))
    exposure = _exposure(batch["light"], window, size)
    dark = jax.vmap(_photograph)(target, exposure, batch["sensor"], batch["noise"])
    found = {
        "image": jnp.where(relit, dark, levels.to_float(batch["image"])),
        "target": target,
    }
    if "overview" in batch:
        whole = _coloured(batch["overview_target"], batch["colours"])
        everything = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), window.shape)
        exposure = _exposure(batch["light"], everything, whole.shape[1:3])
        dark = color.linear_to_srgb(exposure[..., None] * color.srgb_to_linear(whole))
        found["overview"] = jnp.where(relit, dark, batch["overview"])
    return found


def _coloured(image, matrices):
    return jnp.clip(jnp.einsum("bhwc,bdc->bhwd", image, matrices), 0, 1)


def _exposure(light, window, size):
    """Returns the exposure of each pixel, [B, P, Q]."""
    rows, columns = coordinates(window, size)
    first, second, cosine, sine, place, width = light.T[..., None, None]
    along = cosine * (columns[:, None, :] - 0.5) + sine * (rows[:, :, None] - 0.5)
    share = jax.nn.sigmoid((along - place) / width)
    return jnp.exp(first + share * (second - first))


def _photograph(image, exposure, full_well, seed):
    """Returns an image [P, Q, 3] as the sensor sees it, in 256 levels."""
    signal = exposure[..., None] * color.srgb_to_linear(image)
    electrons = full_well * signal
    spread = jnp.sqrt(electrons + _READ_NOISE**2) / jnp.maximum(full_well, 1.0)
    noise = jax.random.normal(jax.random.key(seed), image.shape)
    noisy = signal + jnp.where(full_well > 0, spread, 0.0) * noise
    seen = color.linear_to_srgb(jnp.clip(noisy, 0, 1))
    return jnp.where(full_well > 0, jnp.round(255 * seen) / 255, image)
