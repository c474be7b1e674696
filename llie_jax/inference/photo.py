"""Users' photos: the pixels for the model, and the metadata that is kept.

Benchmark files are read by `llie_jax.image.io`, as stored. Photos are turned upright;
they keep their transparency, EXIF data and colour profile, and grey ones stay grey.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps

from llie_jax.files import atomic
from llie_jax.image.io import IMAGE_SUFFIXES
from llie_jax.inference.enhancer import to_uint8

SUFFIXES = (*IMAGE_SUFFIXES, ".tif", ".tiff")
"""Suffixes of photos that can be read and written, in lower case."""

# TIFF stays uncompressed: PIL's compressing encoder cannot write EXIF data.
_OPTIONS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
_WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")
_JPEG_SEGMENT = 65_533

# PIL has no 16-bit colour: it decodes the high bytes. Asked for the other byte order,
# it decodes the low ones.
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}

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
        image: RGB [H, W, 3]; uint8, or float32 in [0, 1] if the file has 16 bits. Grey
            photos have three equal channels.
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
    """Returns (height, width) as stored, from the header of the file.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not an image, or too large; the message names it.
    """
    with _opened(path) as image:
        return image.height, image.width


def read(path: str | os.PathLike) -> Photo:
    """Reads a photo; the first picture if the file has several.

    The EXIF orientation is applied to the pixels. Palettes and CMYK become RGB.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not an image, is damaged or too large, or has an
            unsupported pixel format; the message names it.
    """
    with _opened(path) as image:
        icc_profile = image.info.get("icc_profile")
        raw_mode = image.tile[0].args if image.format == "PNG" else None
        upright, exif = _upright(image)
        if raw_mode in _LOW_BYTES:
            with _opened(path) as again:
                again.tile = [again.tile[0]._replace(args=_LOW_BYTES[raw_mode])]
                low, _ = _upright(again)
            values = np.asarray(upright).astype(np.uint16) << 8 | np.asarray(low)
            grey = False
        else:
            values, grey = _values(upright)

    depth = np.iinfo(values.dtype).max
    alpha = None
    if values.shape[-1] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1]
        alpha = to_uint8(alpha / np.float32(depth))
    if depth > 255:
        values = values / np.float32(depth)
    if grey:
        values = np.repeat(values, 3, axis=-1)
    if icc_profile and icc_profile[16:20] != (b"GRAY" if grey else b"RGB "):
        icc_profile = None  # of the CMYK or palette file, say
    return Photo(np.ascontiguousarray(values), grey, alpha, exif, icc_profile)


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
    kind = check_suffix(path)
    lost = []
    if like.image.dtype != np.uint8:
        lost.append("8 of its 16 bits")
    picture = Image.fromarray(image if image.dtype == np.uint8 else to_uint8(image))
    if like.grey:
        picture = picture.convert("L")
    if like.alpha is not None:
        if kind in _WITH_ALPHA:
            picture.putalpha(Image.fromarray(like.alpha))
        else:
            lost.append("transparency")
    options = dict(_OPTIONS.get(kind, {}))
    if like.icc_profile:
        options["icc_profile"] = like.icc_profile
    if like.exif:
        if kind not in _WITH_EXIF or (
            kind == "JPEG" and len(like.exif) > _JPEG_SEGMENT
        ):
            lost.append("EXIF data")
        else:
            options["exif"] = like.exif

    encoded = io.BytesIO()
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


def check_suffix(path: str | os.PathLike) -> str:
    """Returns PIL's name for the format of the suffix.

    Raises:
        ValueError: if it is not one of `SUFFIXES`.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: unknown image suffix {suffix!r}; use one of "
            f"{', '.join(SUFFIXES)}."
        )
    return Image.registered_extensions()[suffix]


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Opens an image; turns any exception of PIL into one clear error."""
    try:
        with warnings.catch_warnings():
            # Of damaged EXIF data, and of attacks above 90 megapixels.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels, "
            "the most that is read; split it into parts."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image of a known format, or its header is damaged."
        ) from error
    # PIL raises many types for a damaged file, SyntaxError and struct.error among them.
    except Exception as error:
        raise ValueError(f"Cannot read {path}: {error}.") from error


def _upright(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Returns the image turned by its EXIF orientation, and the other EXIF data."""
    image.load()
    try:
        exif = image.getexif()
        image = ImageOps.exif_transpose(image)
        for tag in _STALE_TAGS:
            exif.pop(tag, None)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in (
            (ExifTags.Base.ExifImageWidth, image.width),
            (ExifTags.Base.ExifImageHeight, image.height),
        ):
            if tag in details:
                details[tag] = side
        return image, exif.tobytes() if exif else None
    except Exception:  # damaged EXIF data is no reason to refuse the photo
        return image, None


def _values(image: Image.Image) -> tuple[np.ndarray, bool]:
    """Returns the values [H, W, 1 to 4], uint8 or uint16, and whether they are grey."""
    if image.mode == "F":
        raise ValueError("its pixels are floats; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits")
        return values.astype(np.uint16)[..., None], True
    grey = image.mode in ("1", "L", "LA", "La")
    mode = "L" if grey else "RGB"
    if image.has_transparency_data:
        mode += "A"
    values = np.asarray(image.convert(mode))
    return values.reshape(image.height, image.width, -1), grey
