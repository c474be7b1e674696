"""Users' photos: the pixels for the model, and the metadata that is kept.

Photos keep their transparency and metadata, and grey ones stay grey.
"""

import dataclasses
import os
from io import BytesIO

import numpy as np
from PIL import Image

from llie_jax import files
from llie_jax.image import formats, io, levels, metadata, reading
from llie_jax.image.metadata import NO_METADATA, Metadata

SUFFIXES = formats.READ
"""Suffixes of photos that can be read, in lower case."""

_DEEPER = {
    np.dtype(np.uint16): "8 of its 16 bits",
    np.dtype(np.float32): "the precision of its floats",
}
"""Dtype of a file's pixels -> what is lost of them, as results have 8 bits."""

_WITH_ALPHA = ("PNG", "WEBP", "TIFF", "AVIF")


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo as read, upright.

    Attributes:
        image: RGB [H, W, 3]; uint8, or float32 in [0, 1] if the file has more than 8
            bits. Grey photos have three equal channels.
        grey: whether the file is greyscale.
        alpha: transparency [H, W], uint8, if the file has it.
        metadata: what the file says beside the pixels.
        lost: what reading has lost, in words for the user.
    """

    image: np.ndarray
    grey: bool = False
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA
    lost: tuple[str, ...] = ()


def peek_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns (height, width) of the upright photo, from the header of the file.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not an image, or too large; the message names it.
    """
    header = reading.read_header(path)
    return header.height, header.width


def read(path: str | os.PathLike) -> Photo:
    """Reads a photo; the first picture if the file has several.

    The EXIF orientation is applied to the pixels. Palettes and CMYK become RGB.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not an image, is damaged or too large, or has an
            unsupported pixel format; the message names it.
    """
    found = reading.read(path)
    image, alpha = found.pixels, found.alpha
    if image.dtype != np.uint8:
        image = levels.to_float(image)
    if alpha is not None:
        alpha = levels.to_uint8(alpha)
    lost = [_DEEPER[found.pixels.dtype]] if found.pixels.dtype in _DEEPER else []
    if found.frames > 1:
        lost.append(f"{found.frames - 1} of its pictures")
    return Photo(image, found.grey, alpha, found.metadata, tuple(lost))


def write(path: str | os.PathLike, image: np.ndarray, like: Photo) -> tuple[str, ...]:
    """Writes an enhanced photo with the transparency and metadata of `like`.

    The suffix selects the format. The write is atomic. JPEG and WebP have quality 95;
    all formats have 8 bits per channel.

    Args:
        path: the file; an existing one is replaced.
        image: RGB [H, W, 3], uint8 or float in [0, 1].
        like: the photo that `image` comes from.

    Returns:
        What was lost, in words for the user; usually empty.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if the suffix is unknown, or the format cannot hold the image.
    """
    path = files.path(path)
    kind = formats.written_as(path)
    lost = list(like.lost)
    picture = Image.fromarray(levels.to_uint8(image))
    if like.grey:
        picture = picture.convert("L")
    if like.alpha is not None:
        if kind in _WITH_ALPHA:
            picture.putalpha(Image.fromarray(like.alpha))
        else:
            lost.append("transparency")
    kept, without = metadata.options(like.metadata, kind)
    options = io.save_options(kind) | kept

    encoded = BytesIO()
    try:
        picture.save(encoded, kind, **options)
    except (ValueError, OSError) as error:  # e.g. more pixels than WebP can hold
        raise ValueError(f"Cannot write {path}: {error}.") from error
    with files.atomic(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())
    return (*lost, *without)


check_suffix = formats.written_as
