"""Padding to a size that a model accepts, and cropping back."""

import jax
import jax.numpy as jnp
import numpy as np

PAD_MODES = ("constant", "reflect")

Array = np.ndarray | jax.Array


def pad_to_multiple(
    image: Array, multiple: int, mode: str = "constant"
) -> tuple[Array, tuple[int, int]]:
    """Pads at the bottom and the right until height and width divide by `multiple`.

    Args:
        image: [H, W, C] or [B, H, W, C], NumPy or JAX; the result is of the same kind
            and dtype. May be traced.
        multiple: the model's `multiple`.
        mode: the model's `pad_mode`; "constant" (zeros) or "reflect" (mirrored without
            repeating the edge, several times if the image is smaller than the padding;
            a side of one pixel is replicated).

    Returns:
        The padded image, and (H, W) of the image for `crop`.

    Raises:
        ValueError: if the image is empty or has another number of axes, or the mode is
            unknown.
    """
    if image.ndim not in (3, 4):
        raise ValueError(
            f"`image` has shape {tuple(image.shape)}; "
            "padding needs [H, W, C] or [B, H, W, C]."
        )
    height, width = image.shape[-3:-1]
    bottom, right = -height % multiple, -width % multiple
    return pad(image, bottom, right, mode), (height, width)


def pad(image: Array, bottom: int, right: int, mode: str = "constant") -> Array:
    """Pads by `bottom` rows and `right` columns; see `pad_to_multiple`.

    Raises:
        ValueError: if the image is empty or the mode is unknown.
    """
    if mode not in PAD_MODES:
        raise ValueError(
            f"Unknown padding mode {mode!r}; use one of {', '.join(PAD_MODES)}."
        )
    if 0 in image.shape:
        raise ValueError(f"`image` has shape {tuple(image.shape)}: it has no pixels.")
    if not bottom and not right:
        return image
    numpy = np if isinstance(image, np.ndarray) else jnp
    if mode == "constant":
        widths = [(0, 0)] * (image.ndim - 3) + [(0, bottom), (0, right), (0, 0)]
        return numpy.pad(image, widths)
    for axis, amount in ((-3, bottom), (-2, right)):
        if amount:
            indices = _reflected(image.shape[axis], amount)
            image = numpy.take(image, indices, axis=axis)
    return image


def crop(image: Array, size: tuple[int, int]) -> Array:
    """Returns the top left (height, width) of [..., H, W, C]; undoes the padding."""
    height, width = size
    return image[..., :height, :width, :]


def is_map(values: Array, size: tuple[int, int]) -> bool:
    """Returns whether an input of a model is a map of an image: [H, W, C] of its size.

    Maps are padded, resized and cut into tiles with their image; other inputs, such as
    a brightness ratio, apply to the whole image.
    """
    return values.ndim == 3 and tuple(values.shape[:2]) == tuple(size)


def _reflected(size: int, amount: int) -> np.ndarray:
    """Returns the source index of each of `size + amount` mirrored positions."""
    if size == 1:
        return np.zeros(1 + amount, np.int32)
    period = 2 * (size - 1)
    index = np.arange(size + amount, dtype=np.int32) % period
    return np.minimum(index, period - index)
