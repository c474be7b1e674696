"""The number of levels of an image: 8 bits, 16 bits, or floats in [0, 1].

Pixels keep the dtype of their file, uint8, uint16 or float32, until a computation needs
floats. The functions take NumPy arrays; `to_float` takes JAX arrays too.
"""

from collections.abc import Iterable

import numpy as np

DTYPES = (np.uint8, np.uint16, np.float32)
"""The dtypes of images, in the order of their depth."""


def to_float(values):
    """Returns uint8 and uint16 values as float32 in [0, 1], others unchanged."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / 255
    if values.dtype == np.uint16:
        return values.astype(np.float32) / 65535
    return values


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Returns values as uint8, clipped and rounded to nearest; uint8 unchanged."""
    return quantize(values, 8).astype(np.uint8, copy=False)


def quantize(values: np.ndarray, bits: int) -> np.ndarray:
    """Returns values rounded to 8 or 16 bits; unchanged if they have those already.

    Args:
        values: uint8, uint16, or floats with 1 as white, which are clipped.
        bits: 8 or 16.
    """
    dtype = np.dtype(f"uint{bits}")
    if values.dtype == dtype:
        return values
    scaled = np.multiply(to_float(values), 2**bits - 1, dtype=np.float32)
    np.clip(scaled, 0, 2**bits - 1, out=scaled)
    return np.rint(scaled, out=scaled).astype(dtype)


def scale_to_uint16(values: np.ndarray, bits: int) -> np.ndarray:
    """Returns integers of any number of bits up to 16 as uint16, rounded."""
    if bits == 16:
        return values.astype(np.uint16, copy=False)
    top = 2**bits - 1
    return ((values.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)


def deepest(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Returns the dtype that holds the values of all of these."""
    return max(map(np.dtype, dtypes), key=DTYPES.index)


def widen(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns an image in a dtype of equal or greater depth, without loss.

    255 becomes 65535, and 1.0.
    """
    if values.dtype == dtype:
        return values
    if dtype == np.float32:
        return to_float(values)
    return values.astype(np.uint16) * np.uint16(257)
