"""Converts images, integers or floating point, to the values that metrics compare."""

import numpy as np

# Far above what a network's unclipped output reaches, far below 8-bit values.
_LARGEST_FLOAT = 8.0


def to_levels(image: np.ndarray, *, rounding: str = "nearest") -> np.ndarray:
    """Returns the 8-bit values of an image, as saved to a file.

    Args:
        image: uint8, returned unchanged, uint16, or floating point in [0, 1], clipped.
        rounding: "nearest" (ties to even), or "truncate" like tools that cast a float
            array to bytes, which darkens by half a level on average.

    Returns:
        uint8 array of the same shape.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:  # 257 levels are one of 8 bits
        half = {"nearest": 128, "truncate": 0}[rounding]
        return ((image.astype(np.uint32) + half) // 257).astype(np.uint8)
    round_ = {"nearest": np.rint, "truncate": np.floor}[rounding]
    # In the image's own precision, like those tools: float32 v/255 gives v again.
    return round_(255 * np.clip(image, 0, 1)).astype(np.uint8)


def to_unit(image: np.ndarray, *, clip: bool = True) -> np.ndarray:
    """Returns float64 values with 1 as white, unrounded, optionally clipped."""
    if image.dtype in (np.uint8, np.uint16):
        return image / np.iinfo(image.dtype).max
    image = image.astype(np.float64)
    return np.clip(image, 0, 1) if clip else image


def crop(image: np.ndarray, border: int) -> np.ndarray:
    """Returns an image without `border` pixels at every side.

    Raises:
        ValueError: if nothing is left.
    """
    height, width = image.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(f"crop_border={border} leaves nothing of {height} x {width}.")
    return image[border : height - border, border : width - border]


def check_image(image, *, role: str = "image") -> np.ndarray:
    """Returns `image` as a NumPy array, checked to be RGB in an unambiguous range.

    Args:
        image: [H, W, 3], uint8, uint16 or floating point.
        role: its name in messages.

    Raises:
        TypeError: for any other dtype, whose range would be a guess.
        ValueError: for another shape, values that are not finite, or floats in 0..255.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"{role} has shape {list(image.shape)}; expected [H, W, 3].")
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.name == "bfloat16":  # a NumPy extension, not a np.floating
        image = image.astype(np.float32)
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(
            f"{role} is {image.dtype}; expected uint8, uint16, or floating point in "
            "[0, 1]."
        )
    low, high = image.min(), image.max()  # either is NaN if any value is
    if not (np.isfinite(low) and np.isfinite(high)):
        count = np.count_nonzero(~np.isfinite(image))
        raise ValueError(f"{role} has {count} values that are not finite.")
    if high > _LARGEST_FLOAT:
        raise ValueError(
            f"{role} is floating point and reaches {high:.4g}; expected values in "
            "[0, 1]. Pass 8-bit values as uint8, or divide by 255."
        )
    return image
