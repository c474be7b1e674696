"""A model with a known result, and pairs in memory."""

import hashlib

import numpy as np
from flax import linen as nn

from llie_jax.models.base import Model
from llie_jax.types import Outputs


class Gain(Model):
    """Multiplies the image; needs sides that are multiples of four."""

    value: float = 2.0
    pad_mode: str = "reflect"

    multiple = 4

    @nn.compact
    def __call__(self, image, *, target=None, train=False):
        if image.shape[1] % self.multiple or image.shape[2] % self.multiple:
            raise ValueError("not padded")
        SHAPES.append(image.shape)
        gain = self.param("gain", nn.initializers.constant(self.value), ())
        return Outputs(gain * image)


class Shade(Gain):
    """Also multiplies by a map that is computed from the image at its original size."""

    @staticmethod
    def native_inputs(image):
        return {"shade": image[..., :1] ** 2}

    @nn.compact
    def __call__(self, image, *, target=None, train=False, shade=1.0):
        outputs = super().__call__(image)
        return outputs.replace(image=outputs.image * shade)


SHAPES = []
"""The image shape each time that `Gain` is traced."""


class MemorySource:
    """Pairs whose target is twice the image, or images alone."""

    name, split = "toys", "test"

    def __init__(self, sizes, seed=0, *, paired=True):
        self.keys = ("image", "target") if paired else ("image",)
        rng = np.random.default_rng(seed)
        self.images = [
            rng.integers(0, 100, (*size, 3)).astype(np.uint8) for size in sizes
        ]
        self.names = [f"{index}" for index in range(len(sizes))]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        record = {"name": self.names[index], "image": image}
        return record | ({"target": 2 * image} if "target" in self.keys else {})

    def sizes(self):
        return np.array([image.shape[:2] for image in self.images]).reshape(-1, 2)

    def fingerprint(self):
        return hashlib.sha256("".join(self.names).encode()).hexdigest()[:16]

    def note(self):
        return ""
