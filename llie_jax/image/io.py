"""Reading and writing image files as 8-bit RGB arrays."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from llie_jax import files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Endings of the files that count as images, compared in lower case."""

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".webp": "WEBP",
}


def list_images(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the image files directly inside `folder`, sorted by name.

    Hidden files are left out (some systems put `._photo.png` beside `photo.png`).

    Raises:
        FileNotFoundError: if there is no such folder.
        NotADirectoryError: if it is a file.
    """
    folder = pathlib.Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder that holds it.")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def decode_rgb(
    data: bytes, *, name: str = "the image", upright: bool = False
) -> np.ndarray:
    """Decodes the bytes of an image file to uint8 [H, W, 3].

    Grey becomes three equal channels, alpha is dropped, 16-bit values keep their high
    byte.

    Args:
        data: the content of a PNG, JPEG, BMP or WebP file.
        name: what an error calls the file.
        upright: whether an EXIF orientation is applied. It is wanted for photos, and
            not for benchmark files, which are compared as stored.

    Raises:
        ValueError: if the bytes cannot be decoded.
    """
    with _opened(io.BytesIO(data), name) as image:
        return to_rgb(ImageOps.exif_transpose(image) if upright else image)


def decode_size(data: bytes, *, name: str = "the image") -> tuple[int, int]:
    """Returns (H, W) from the header of an image file, without decoding the pixels.

    Args:
        data: the content of the file.
        name: what an error calls the file.

    Raises:
        ValueError: if the bytes are not an image.
    """
    with _opened(io.BytesIO(data), name) as image:
        return image.height, image.width


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns (H, W) of an image file; reads only its header.

    Raises:
        OSError: if the file is missing or cannot be opened.
        ValueError: if it is not an image; the message names it.
    """
    with open(path, "rb") as file, _opened(file, str(path)) as image:
        return image.height, image.width


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Opens a file as a PIL image; whatever PIL raises becomes one clear ValueError."""
    try:
        with Image.open(file) as image:
            yield image
    # PIL raises many kinds for a damaged file, SyntaxError and struct.error among them.
    except Exception as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ValueError(
            f"Cannot read {name} as an image{reason}; the file is damaged or of an "
            "unknown kind."
        ) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Returns a PIL image as uint8 [H, W, 3]; see `decode_rgb` for the conversions."""
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip it
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    # From RGBA, `convert` keeps the colours and drops alpha, without a background.
    return np.array(image.convert("RGB"))


def read_rgb(path: str | os.PathLike, *, upright: bool = False) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3]; see `decode_rgb`.

    Raises:
        OSError: if the file is missing or cannot be opened.
        ValueError: if it is not an image, or damaged; the message names it.
    """
    data = files.path(path).read_bytes()
    return decode_rgb(data, name=str(path), upright=upright)


def write_image(
    path: str | os.PathLike, image: np.ndarray, *, quality: int = 95
) -> None:
    """Writes uint8 [H, W, 3] in the format of the suffix; complete or not at all.

    Args:
        path: the file; an existing one is replaced.
        image: RGB, uint8.
        quality: of JPEG and WebP, 1 to 100. JPEG keeps full colour resolution.

    Raises:
        TypeError: if `image` is not uint8.
        ValueError: if its shape is not [H, W, 3], or the suffix is unknown.
        OSError: if the file cannot be written.
    """
    path = files.path(path)
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"An image to write is uint8, 0 to 255; got {image.dtype}.")
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"An image to write is [H, W, 3]; got {list(image.shape)}.")
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(
            f"Cannot write {path.name}: unknown ending {path.suffix!r}; use one of "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    options = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
    }.get(_FORMATS[suffix], {})
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(image).save(file, format=_FORMATS[suffix], **options)
