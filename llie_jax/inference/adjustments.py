"""What a user changes in a result: its strength, its saturation and its warmth."""

import dataclasses

import numpy as np

from llie_jax.image import color, levels

RANGES = {"strength": (0.0, 1.0), "saturation": (0.0, 2.0), "warmth": (-1.0, 1.0)}
"""The lowest and the highest value of each adjustment."""

_BLOCK = 1 << 20
"""Pixels toned at once: a large photo in float64 would need gigabytes."""


@dataclasses.dataclass(frozen=True)
class Adjustments:
    """Changes to a model's result; the defaults change no bit of it.

    Attributes:
        strength: the share of the result in the mixture with the photo, 0 to 1. Mixed
            in sRGB values, whose steps look about equally large; in linear light, a
            tenth of the result would already hide a dark photo.
        saturation: factor on the chroma of each colour in Oklab, 0 (greyscale) to 2.
            Lightness and hue stay; near the limits of sRGB the factor is as large as
            they allow. See `llie_jax.image.color.scale_chroma`.
        warmth: -1 (cold) to 1 (warm). A white balance in linear light: `warmth` / 2
            stops more red and as many less blue, scaled so that grey keeps its
            luminance. Comes before the saturation.

    Raises:
        ValueError: if a value is out of its range.
    """

    strength: float = 1.0
    saturation: float = 1.0
    warmth: float = 0.0

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN too
                raise ValueError(
                    f"{name}={value:g} is out of range; give {low:g} to {high:g}."
                )

    def apply(self, image: np.ndarray, result: np.ndarray, share: float) -> np.ndarray:
        """Returns the result mixed with the photo, and toned.

        Args:
            image: the photo, RGB [H, W, 3], uint8, uint16, or float32 in [0, 1].
            result: the model's output, float32 [H, W, 3]; need not lie in [0, 1].
            share: factor on the strength, 0 to 1.

        Returns:
            float32 [H, W, 3]; the result itself if nothing changes it, else in [0, 1].
        """
        weight = np.float32(self.strength * share)
        mixed = result
        if weight != 1:
            photo = levels.to_float(image)
            mixed = photo + weight * (np.clip(result, 0, 1) - photo)
        if (self.saturation, self.warmth) == (1, 0):
            return mixed
        rows = max(1, _BLOCK // mixed.shape[1])
        toned = np.empty_like(mixed)
        for start in range(0, len(mixed), rows):
            window = slice(start, start + rows)
            toned[window] = self._toned(mixed[window])
        return toned

    def _toned(self, image: np.ndarray) -> np.ndarray:
        """Returns sRGB values in [0, 1] with warmth and saturation applied."""
        linear = color.srgb_to_linear(np.clip(image, 0, 1))
        if self.warmth:
            linear = np.minimum(linear * _gains(self.warmth), 1)
        if self.saturation != 1:
            pixels = color.scale_chroma(linear.reshape(-1, 3), self.saturation)
            linear = pixels.reshape(linear.shape)
        return color.linear_to_srgb(linear)


def _gains(warmth: float) -> np.ndarray:
    """Returns factors on linear red, green and blue that keep grey's luminance."""
    gains = np.exp2(np.array([warmth / 2, 0, -warmth / 2], np.float32))
    return gains / (gains @ np.array(color.LUMINANCE, np.float32))
