"""The exposure gate: a photo that the network finds well exposed stays as it is.

The network's own result tells: it makes dark photos many times brighter, and hardly
changes the brightness of photos that need nothing. Any other change of those, such as
smoother texture, is unwanted. That holds for networks that saw well-exposed photos in
training; one that did not brightens every photo.

The gate looks at the whole photo, so that all its tiles get the same share of the
result, and is continuous in it.
"""

import dataclasses
import math

import numpy as np

from llie_jax.image import levels

CLOSED = 1.1
"""Photos that would become less than so many times brighter stay as they are."""

OPEN = 1.3
"""Those that would become so many times brighter get the full result."""

_LEVEL = 1 / 255
"""Keeps the gain of a black photo finite."""


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How bright a photo is and would be.

    Attributes:
        before: mean of all pixels and channels of the photo, in [0, 1].
        after: that of the model's result.
    """

    before: float
    after: float

    @property
    def gain(self) -> float:
        """How many times brighter the result is."""
        return (self.after + _LEVEL) / (self.before + _LEVEL)

    @property
    def share(self) -> float:
        """The share of the result that the photo gets: 0 if it is well exposed, to 1.

        Rises along a cubic in the logarithm of the gain, without a kink.
        """
        place = math.log(self.gain / CLOSED) / math.log(OPEN / CLOSED)
        place = min(max(place, 0.0), 1.0)
        return place * place * (3 - 2 * place)


def measure(image: np.ndarray, result: np.ndarray) -> Exposure:
    """Measures a whole photo.

    Args:
        image: RGB [H, W, 3], uint8, uint16, or float in [0, 1].
        result: the model's output for it, float [H, W, 3]; need not lie in [0, 1].
    """
    # Row by row, without copies of a large photo.
    before = np.mean([levels.to_float(row).mean(dtype=np.float64) for row in image])
    after = np.mean([np.clip(row, 0, 1).mean(dtype=np.float64) for row in result])
    return Exposure(float(before), float(after))
