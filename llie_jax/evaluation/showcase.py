"""What the weights that ship do to photographs that come with scikit-image.

All of them carry a free licence. They are darkened by the sensor model, except for the
last picture, which is shown to the gate as it is.
"""

import dataclasses

import numpy as np

from llie_jax import weights
from llie_jax.data import synthetic
from llie_jax.evaluation.scores import Picture
from llie_jax.image import io
from llie_jax.inference.enhancer import Enhancer


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph of the scikit-image package, and how it is shown.

    Attributes:
        file: its file in the package.
        credit: what it shows, whose it is, and its licence.
        exposure: factor on its light, see `llie_jax.data.darken`.
    """

    file: str
    credit: str
    exposure: float


PHOTOGRAPHS = (
    Photograph("coffee.png", "a cup of coffee, Rachel Michetti, CC0", 0.05),
    Photograph("chelsea.png", "Chelsea the cat, Stefan van der Walt, CC0", 0.08),
    Photograph("astronaut.png", "Eileen Collins, NASA, public domain", 0.03),
    Photograph("coffee.png", "a cup of coffee, Rachel Michetti, CC0", 1.0),
)


def darkened(photograph: Photograph) -> tuple[np.ndarray, np.ndarray]:
    """Returns the darkened photograph and the original, uint8 [H, W, 3].

    Raises:
        ModuleNotFoundError: if scikit-image is not installed.
    """
    original = io.read_rgb(synthetic.photographs() / photograph.file)
    if photograph.exposure == 1:
        return original, original
    return synthetic.darken(original, exposure=photograph.exposure), original


def show_shipped() -> list[Picture]:
    """Returns the photographs with the results of the default weights that ship.

    Empty in a copy of the package without them.

    Raises:
        ModuleNotFoundError: if scikit-image is not installed.
    """
    if not weights.shipped.names():
        return []
    enhancer = Enhancer(*weights.load(), gate=True)
    pictures = []
    for photograph in PHOTOGRAPHS:
        image, original = darkened(photograph)
        exposures = []
        output = enhancer(image, measured=exposures.append)
        note = f"{exposures[0].share:.0%} of the effect"
        if photograph.exposure < 1:
            note = f"{photograph.exposure:.0%} of its light, {note}"
        name = f"{photograph.credit} ({note})"
        pictures.append(Picture(name, image, output, original))
    return pictures
