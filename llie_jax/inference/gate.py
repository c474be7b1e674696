"""The exposure gate: a photo that is well exposed stays as it is.

It is measured on the whole photo, so that all its tiles get the same share of the
model's result, and continuous in the exposure.
"""

import dataclasses

import numpy as np

OPEN = 0.20
"""Photos up to this brightness get the full result; see docs/photos.md for why."""

CLOSED = 0.40
"""Photos from this brightness on stay as they are."""


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How well a photo is exposed.

    Attributes:
        brightness: the mean over all pixels of the largest of red, green and blue, in
            [0, 1]: HSV's value.
    """

    brightness: float

    @property
    def share(self) -> float:
        """The share of the model's result: 1 for dark photos, 0 for well-exposed ones.

        Falls along a cubic in the logarithm of the brightness, without a kink.
        """
        stops = np.log(max(self.brightness, OPEN) / OPEN) / np.log(CLOSED / OPEN)
        place = min(float(stops), 1.0)
        return 1 - place * place * (3 - 2 * place)


def measure(image: np.ndarray) -> Exposure:
    """Measures a whole photo.

    Args:
        image: RGB [H, W, 3], uint8, or float in [0, 1].
    """
    red, green, blue = (image[..., i] for i in range(3))
    mean = np.maximum(np.maximum(red, green), blue).mean(dtype=np.float64)
    return Exposure(float(mean) / (255 if image.dtype == np.uint8 else 1))
