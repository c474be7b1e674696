"""Image files as RGB arrays: every file upright and with its own depth.

`llie_jax.image.reading` has the transparency and the metadata too.
"""

import io
import os
import pathlib

import numpy as np
from PIL import Image

from llie_jax import files
from llie_jax.image import formats, reading


def list_folder(folder: str | os.PathLike) -> formats.Listing:
    """Lists the files directly inside `folder`: images, and what is not read.

    Raises:
        FileNotFoundError: if the folder does not exist.
        NotADirectoryError: if it is a file.
    """
    folder = files.path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder that holds it.")
    return formats.list_files(folder.iterdir())


def list_images(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the image files directly inside `folder`, sorted; see `list_folder`."""
    return list_folder(folder).images


def decode_rgb(data: bytes, *, name: str = "the image") -> np.ndarray:
    """Decodes the bytes of an image file.

    Args:
        data: the content of the file.
        name: name of the file in error messages; its ending tells a camera RAW.

    Returns:
        [H, W, 3], upright; uint8, uint16, or float32 in [0, 1], as deep as the file.
        Grey becomes three equal channels; transparency is dropped, the colours under it
        stay.

    Raises:
        ValueError: if the bytes cannot be decoded.
    """
    return reading.decode(io.BytesIO(data), name).pixels


def decode_header(data: bytes, *, name: str = "the image") -> reading.Header:
    """Returns the header of an image file, without decoding pixels.

    Raises:
        ValueError: if the bytes are not an image.
    """
    return reading.decode_header(io.BytesIO(data), name)


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Reads an image file; see `decode_rgb` for the result.

    Raises:
        OSError: if the file is missing or cannot be opened.
        ValueError: if it is damaged or not an image; the message names the file.
    """
    return reading.read(path).pixels


def write_image(
    path: str | os.PathLike, image: np.ndarray, *, quality: int = 95
) -> None:
    """Writes uint8 [H, W, 3] atomically, in the format of the suffix.

    Args:
        path: the file; an existing file is replaced.
        image: RGB, uint8.
        quality: of lossy formats, 1 to 100. JPEG keeps full colour resolution.

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
    kind = formats.written_as(path)
    options = save_options(kind, quality)
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(image).save(file, format=kind, **options)


def save_options(kind: str, quality: int = 95) -> dict[str, int]:
    """Returns Pillow's options for writing a format in high quality.

    TIFF stays uncompressed: Pillow's compressing encoder cannot write EXIF data.
    """
    return {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "AVIF": {"quality": quality, "subsampling": "4:4:4"},
    }.get(kind, {})
