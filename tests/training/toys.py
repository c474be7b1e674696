"""A model, a config and a data set that train in a second."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from llie_jax.configs import base
from llie_jax.image import io
from llie_jax.models.base import Backbone, Model, ModelCard
from llie_jax.nn.layers import pixel_shuffle
from llie_jax.registry import register
from llie_jax.types import Outputs


@register("toy", ModelCard())
class Toy(Model):
    """Two or three convolutions, batch statistics and a step counter."""

    width: int = 4
    extra: bool = False
    axis_name: str | None = None

    multiple = 2
    pad_mode = "reflect"

    @nn.nowrap
    def with_axis(self, axis_name):
        return self.clone(axis_name=axis_name)

    @nn.compact
    def __call__(self, image, *, target=None, train=False):
        x = nn.Conv(self.width, (3, 3), name="first")(image)
        mean = self.variable(
            "batch_stats", "mean", lambda: jnp.zeros((self.width,), jnp.float32)
        )
        count = self.variable("counters", "steps", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            now = jnp.mean(x, axis=(0, 1, 2))
            if self.axis_name is not None:
                now = jax.lax.pmean(now, self.axis_name)
            mean.value = 0.9 * mean.value + 0.1 * now
            count.value = count.value + 1
        x = nn.relu(x - mean.value)
        if self.extra:
            x = nn.Conv(self.width, (1, 1), name="extra")(x)
        y = nn.Conv(3, (3, 3), name="last")(x)
        return Outputs(image + y, {"features": x})


@register("toy_backbone", ModelCard())
class ToyBackbone(Backbone):
    """The minimum that a wrapper needs: an encoder and a decoder convolution."""

    width: int = 4

    multiple = 2
    pad_mode = "reflect"

    def setup(self):
        self.first = nn.Conv(self.width, (2, 2), strides=2)
        self.last = nn.Conv(12, (1, 1))

    def encode(self, image, *, target=None, train=False):
        return self.first(image), image

    def decode(self, features, context, *, train=False):
        y = pixel_shuffle(self.last(nn.relu(features)), 2)
        return Outputs(context + y)


@register("toy_curve", ModelCard())
class ToyCurve(Model):
    """Learns without references: one brightness curve, and its own loss."""

    exposure: float = 0.6

    multiple = 2
    pad_mode = "reflect"

    @nn.compact
    def __call__(self, image, *, target=None, train=False):
        assert target is None
        maps = jnp.tanh(nn.Conv(3, (3, 3), name="curve")(image))
        y = image + maps * (image * image - image)
        return Outputs(
            y,
            aux={"maps": maps},
            losses={"exposure": jnp.square(y.mean((1, 2, 3)) - self.exposure)},
        )


def write_photos(folder, count=6, size=(24, 20)):
    """Writes dark photos without references."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        io.write_image(folder / f"{i}.png", rng.integers(0, 60, (*size, 3), np.uint8))
    return folder


def write_pairs(folder, count=6, size=(24, 20)):
    """Writes `low` and `high` folders with smooth random pairs."""
    rng = np.random.default_rng(0)
    for name in ("low", "high"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        high = rng.integers(40, 250, (*size, 3), np.uint8)
        io.write_image(folder / "high" / f"{i}.png", high)
        io.write_image(folder / "low" / f"{i}.png", (high // 8).astype(np.uint8))
    return folder


def config(root, **changes):
    """An unchecked config for `write_pairs`, with changes by dotted keys."""
    found = base.get_config()
    found.model = base.spec("toy")
    found.data.train.name = "paired_folder"
    found.data.train.root = str(root)
    found.data.validation.fraction = 0.34
    found.stages.s0.update(dict(steps=8, patch_size=16, batch_size=4))
    found.optimizer.learning_rate = 1e-2
    found.log.every_steps = 2
    found.evaluate.every_steps = 4
    found.checkpoint.every_steps = 2
    found.ema.decay = 0.9
    base.override(found, changes)
    return found
