"""Users' photos: the pixels for the model, and the metadata that is kept.

Photos keep their transparency, EXIF data and colour profile, and grey ones stay grey.
"""

import dataclasses
import os
import pathlib
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image

from llie_jax.files import atomic
from llie_jax.image import formats, io, levels, reading

SUFFIXES = formats.READ
"""Suffixes of photos that can be read, in lower case."""

_WITH_ALPHA = ("PNG", "WEBP", "TIFF", "AVIF")
_WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
_JPEG_SEGMENT = 65_533

# Tags that describe the old file, not the photo: storage (TIFF lists it among the EXIF
# tags), the orientation already applied to the pixels, copies of other metadata.
_STALE_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320),
    *(322, 323, 324, 325, 330, 338, 339, 347, 513, 514, 529, 530, 531, 532),
    *(700, 33723, 34377, 34675),
)


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo as read, upright.

    Attributes:
        image: RGB [H, W, 3]; uint8, or float32 in [0, 1] if the file has more than 8
            bits. Grey photos have three equal channels.
        grey: whether the file is greyscale.
        alpha: transparency [H, W], uint8, if the file has it.
        exif: EXIF data, without orientation and thumbnail.
        icc_profile: the colour profile, if it fits `image`.
    """

    image: np.ndarray
    grey: bool = False
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc_profile: bytes | None = None


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
    image, alpha, icc_profile = found.pixels, found.alpha, found.info.get("icc_profile")
    if image.dtype != np.uint8:
        image = levels.to_float(image)
    if alpha is not None:
        alpha = levels.to_uint8(alpha)
    if icc_profile and icc_profile[16:20] != (b"GRAY" if found.grey else b"RGB "):
        icc_profile = None  # of the CMYK or palette file, say
    exif = _kept_exif(found.exif, image)
    return Photo(image, found.grey, alpha, exif, icc_profile)


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
    path = pathlib.Path(path)
    kind = formats.written_as(path)
    lost = []
    if like.image.dtype != np.uint8:
        lost.append("8 of its 16 bits")
    picture = Image.fromarray(levels.to_uint8(image))
    if like.grey:
        picture = picture.convert("L")
    if like.alpha is not None:
        if kind in _WITH_ALPHA:
            picture.putalpha(Image.fromarray(like.alpha))
        else:
            lost.append("transparency")
    options = io.save_options(kind)
    if like.icc_profile:
        options["icc_profile"] = like.icc_profile
    if like.exif:
        if kind not in _WITH_EXIF or (
            kind == "JPEG" and len(like.exif) > _JPEG_SEGMENT
        ):
            lost.append("EXIF data")
        else:
            options["exif"] = like.exif

    encoded = BytesIO()
    try:
        picture.save(encoded, kind, **options)
    except (ValueError, OSError) as error:  # e.g. more pixels than WebP can hold
        raise ValueError(f"Cannot write {path}: {error}.") from error
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(encoded.getbuffer())
    except OSError as error:
        raise OSError(f"Cannot write {path}: {error.strerror or error}.") from error
    return tuple(lost)


check_suffix = formats.written_as


def _kept_exif(exif: Image.Exif, image: np.ndarray) -> bytes | None:
    """Returns the EXIF data that describe the photo, not the old file."""
    try:
        for tag in _STALE_TAGS:
            exif.pop(tag, None)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in (
            (ExifTags.Base.ExifImageWidth, image.shape[1]),
            (ExifTags.Base.ExifImageHeight, image.shape[0]),
        ):
            if tag in details:
                details[tag] = side
        return exif.tobytes() if exif else None
    except Exception:  # damaged EXIF data is no reason to refuse the photo
        return None
