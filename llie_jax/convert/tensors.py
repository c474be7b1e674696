"""Converts single tensors from the layout of PyTorch to that of Flax."""

from collections.abc import Sequence

import numpy as np


def to_flax(tensor: np.ndarray, name: str, shape: Sequence[int]) -> np.ndarray | None:
    """Returns a PyTorch tensor in the layout of a Flax variable.

    Args:
        tensor: convolution weights [O, I, kh, kw] (grouped ones with I per group),
            linear weights [O, I], a vector, possibly as [1, C, 1, 1], or values with
            channels first, [..., C, H, W].
        name: last part of the variable's path; the axes of a `kernel` are reversed.
        shape: shape of the variable: [kh, kw, I, O], [I, O], [C] or [..., H, W, C]. A
            linear layer and a 1x1 convolution are interchangeable.

    Returns:
        The array [*shape], or None if the tensor does not have that shape.
    """
    if name == "kernel":
        # [O, I, kh, kw] -> [kh, kw, I, O], and [O, I] -> [I, O].
        tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    elif tensor.ndim >= 3 and 1 not in tensor.shape:
        tensor = np.moveaxis(tensor, -3, -1)
    shape = tuple(shape)
    if tensor.ndim != len(shape) and _without_ones(tensor.shape) == _without_ones(
        shape
    ):
        tensor = tensor.reshape(shape)
    return tensor if tensor.shape == shape else None


def _without_ones(shape):
    return tuple(size for size in shape if size != 1)
