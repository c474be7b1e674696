"""Small models with the model contract, whose results are known."""

import jax
import jax.numpy as jnp

from llie_jax.models.base import Model
from llie_jax.types import Outputs


class Gain(Model):
    """Multiplies by a factor: pointwise, so that tiles change nothing."""

    gain: float = 2.0
    multiple: int = 8
    pad_mode: str = "reflect"

    def __call__(self, image: jax.Array, *, target=None, train=False) -> Outputs:
        for side in image.shape[1:3]:
            assert side % self.multiple == 0
        return Outputs(image=image * self.gain)


class Blur(Model):
    """A 3x3 box with zero padding: local, so that only tile edges differ."""

    multiple: int = 4
    pad_mode: str = "constant"

    def __call__(self, image: jax.Array, *, target=None, train=False) -> Outputs:
        padded = jnp.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
        height, width = image.shape[1:3]
        total = sum(
            padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)
        )
        return Outputs(image=total / 9)


class Normalize(Model):
    """Brings the mean to 0.5: global, so that neighbouring tiles disagree."""

    multiple: int = 8
    pad_mode: str = "constant"

    def __call__(self, image: jax.Array, *, target=None, train=False) -> Outputs:
        mean = image.mean(axis=(1, 2, 3), keepdims=True)
        return Outputs(image=image * 0.5 / jnp.maximum(mean, 1e-3))


def photo(height: int, width: int, *, seed: int = 0):
    """Returns a uint8 photo-like image: smooth light, fine texture, dark."""
    keys = jax.random.split(jax.random.key(seed), 2)
    coarse = jax.random.uniform(keys[0], (4, 4, 3))
    light = jax.image.resize(coarse, (height, width, 3), "cubic")
    grain = 0.05 * jax.random.normal(keys[1], (height, width, 3))
    image = jnp.clip(0.25 * light + 0.1 + grain, 0, 0.45)
    return jax.device_get(jnp.round(image * 255).astype(jnp.uint8))
