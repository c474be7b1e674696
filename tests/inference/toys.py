"""Small models that keep the model contract, with known results."""

import jax
import jax.numpy as jnp
from flax import linen as nn

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


class Convolutions(Model):
    """Two convolutions, whose program is large enough to be seen in memory."""

    multiple: int = 8
    pad_mode: str = "reflect"

    @nn.compact
    def __call__(self, image: jax.Array, *, target=None, train=False) -> Outputs:
        x = nn.gelu(nn.Conv(8, (3, 3), name="first")(image))
        return Outputs(image=image + nn.Conv(3, (3, 3), name="last")(x))


class Sampler(Model):
    """Adds noise in `steps` steps, and a map and a level if they are given."""

    steps: int = 1
    multiple: int = 4
    pad_mode: str = "reflect"

    test_options = ("steps",)
    test_streams = ("noise",)

    @nn.compact
    def __call__(
        self, image, *, target=None, train=False, light=0.0, level=None
    ) -> Outputs:
        for _ in range(int(self.steps)):
            noise = jax.random.uniform(self.make_rng("noise"), image.shape)
            image = image + 0.01 * noise
        if level is not None:
            light = light + level[:, None, None, None]
        return Outputs(image=image + light)


def photo(height: int, width: int, *, seed: int = 0):
    """Returns a uint8 photo-like image: smooth light, fine texture, dark."""
    keys = jax.random.split(jax.random.key(seed), 2)
    coarse = jax.random.uniform(keys[0], (4, 4, 3))
    light = jax.image.resize(coarse, (height, width, 3), "cubic")
    grain = 0.05 * jax.random.normal(keys[1], (height, width, 3))
    image = jnp.clip(0.25 * light + 0.1 + grain, 0, 0.45)
    return jax.device_get(jnp.round(image * 255).astype(jnp.uint8))
