"""Pixels that Pillow has not, or only with 8 bits: deep PNG, TIFF, AVIF, HEIF and RAW.

Each function takes an open file and returns the pixels as stored, before the
orientation is applied. `llie_jax.image.reading` decides which function reads a file.
"""

import contextlib
import dataclasses
import importlib.util
import io
import logging
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from llie_jax.image import levels

_SILENT = logging.NullHandler()
_CODECS = "pip install 'llie-jax[codecs]'"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Decoded pixels.

    Attributes:
        values: colour [H, W, 3] or grey [H, W, 1]; uint8, uint16, or float32 in [0, 1].
        alpha: transparency [H, W] in the same dtype, if the file has it.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None


@contextlib.contextmanager
def kept_place(file: BinaryIO) -> Iterator[None]:
    """Restores the place in a file, which Pillow relies on."""
    place = file.tell()
    try:
        yield
    finally:
        file.seek(place)


def check_size(height: int, width: int) -> None:
    """Raises ValueError if an image has more pixels than are read."""
    if height * width > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


# Pillow has no 16-bit colour: it decodes the high bytes. Asked for the other byte
# order, it decodes the low ones.
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


def png_bits(file: BinaryIO) -> int:
    """Returns the bits per channel of a PNG, from its header."""
    with kept_place(file):
        file.seek(24)
        return file.read(1)[0]


def read_png(file: BinaryIO) -> Pixels:
    """Reads a PNG with 16 bits per channel."""

    def decode(mode: str | None = None, raw: str | None = None):
        file.seek(0)
        with Image.open(file, formats=["PNG"]) as image:
            if raw:
                image._mode = mode or image.mode
                image.tile = [image.tile[0]._replace(args=raw)]
            image.load()
            return np.asarray(image), image.info.get("transparency")

    file.seek(0)
    with Image.open(file, formats=["PNG"]) as image:
        raw = image.tile[0].args
    if raw == "LA;16B":
        # Four bytes for each pixel, as in RGBA: both of grey, both of alpha.
        both = decode("RGBA", "RGBA")[0].view(">u2").astype(np.uint16)
        return Pixels(both[..., :1], both[..., 1])
    high, clear = decode()
    if raw not in _LOW_BYTES:  # grey
        values = high.astype(np.uint16)[..., None]
    else:
        low, _ = decode(raw=_LOW_BYTES[raw])
        values = high.astype(np.uint16) << 8 | low
    if values.shape[-1] == 4:
        return Pixels(values[..., :3], values[..., 3])
    if clear is None:
        return Pixels(values)
    opaque = (values != np.array(clear)).any(-1)  # a single colour is transparent
    return Pixels(values, np.where(opaque, 65535, 0).astype(np.uint16))


_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_CAMERA_RAW = (32803, 34892)
_DNG_VERSION = 50706
_FLOAT = 3
_PREMULTIPLIED = 1


def opened_tiff(file: BinaryIO):
    """Returns a TIFF opened by tifffile."""
    import tifffile

    # What it logs about a damaged file, the error says.
    logging.getLogger("tifffile").addHandler(_SILENT)
    file.seek(0)
    return tifffile.TiffFile(file)


def is_camera_raw(page) -> bool:
    """Returns whether the first page of a TIFF is that of a camera's raw file."""
    return _DNG_VERSION in page.tags or int(page.photometric) in _CAMERA_RAW


def tiff_dtype(page) -> np.dtype:
    """Returns the dtype of the pixels of a TIFF's page, as they are decoded here."""
    if int(page.sampleformat) == _FLOAT:
        return np.dtype(np.float32)
    return np.dtype(np.uint8 if page.bitspersample <= 8 else np.uint16)


def read_tiff(page) -> Pixels:
    """Reads a page of a TIFF with more than 8 bits per channel.

    Raises:
        ValueError: if its pixels are neither grey, RGB nor CMYK, are integers with a
            sign or more than 16 bits, or floats outside [0, 1].
        ImportError: if its compression or packing needs the extra `codecs`.
    """
    check_size(page.imagelength, page.imagewidth)
    kind, bits, form = map(
        int, (page.photometric, page.bitspersample, page.sampleformat)
    )
    channels = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}.get(kind)
    if channels is None or page.axes not in ("YX", "YXS", "SYX"):
        raise ValueError(
            f"its pixels are {page.photometric.name} with {bits} bits; save it as "
            "grey, RGB or CMYK"
        )
    if form not in (1, _FLOAT) or (form == 1 and bits > 16):
        raise ValueError(
            f"its pixels are {bits}-bit integers{' with a sign' * (form == 2)}; save "
            "it with 8 or 16 bits, or as floats in [0, 1]"
        )
    try:
        values = page.asarray()
    except Exception as error:  # tifffile raises many types without its codecs
        if importlib.util.find_spec("imagecodecs") or not _is_about_codecs(error):
            raise
        raise ImportError(
            f"its compression ({page.compression.name}) with {bits} bits needs an "
            f"extra: {_CODECS}"
        ) from error
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    values = values.reshape(page.imagelength, page.imagewidth, -1)
    if form == _FLOAT:
        values = _checked_floats(values)
    else:
        values = levels.scale_to_uint16(values, bits)
    top = values.dtype.type(1 if form == _FLOAT else 65535)
    values, more = values[..., :channels], values[..., channels:]
    if kind == _WHITE_IS_ZERO:
        values = top - values
    if kind == _CMYK:
        values = _cmyk_to_rgb(values, top)
    kinds = [int(extra) for extra in page.extrasamples]
    alpha = next((more[..., i] for i, extra in enumerate(kinds) if extra), None)
    if _PREMULTIPLIED in kinds:
        share = np.maximum(alpha, 1e-6)[..., None].astype(np.float64)
        values = np.clip(values / share * top, 0, top)
        values = (values if form == _FLOAT else np.rint(values)).astype(alpha.dtype)
    return Pixels(values, alpha)


def _is_about_codecs(error: Exception) -> bool:
    """Returns whether tifffile misses a codec; other faults are those of the file."""
    missing = isinstance(error, ImportError | NotImplementedError)
    return missing or "imagecodecs" in str(error)


def _checked_floats(values: np.ndarray) -> np.ndarray:
    """Returns floats as float32; raises unless all are in [0, 1]."""
    low, high = values.min(), values.max()  # either is NaN if any value is
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"its pixels are floats from {low:.4g} to {high:.4g}; scale them to [0, 1]"
        )
    return values.astype(np.float32)


def _cmyk_to_rgb(values: np.ndarray, top) -> np.ndarray:
    """Returns RGB for CMYK [H, W, 4] without a profile, as Pillow does for 8 bits."""
    light = (top - values).astype(np.float64)
    rgb = light[..., :3] * light[..., 3:] / top
    return (rgb if top == 1 else np.rint(rgb)).astype(values.dtype)


def avif_bits(file: BinaryIO) -> int:
    """Returns the bits per channel of an AVIF file, from its configuration boxes."""
    with kept_place(file):
        file.seek(0)
        head = file.read().partition(b"mdat")[0]
    # After the name av1C: a version, a profile, then flags of which the second and the
    # third say more than 8 and 12 bits (AV1 ISO media file format, section 2.3).
    flags = [part[2] for part in head.split(b"av1C")[1:] if len(part) > 2]
    return max((12 if f & 0x20 else 10 if f & 0x40 else 8 for f in flags), default=8)


def read_avif(file: BinaryIO) -> Pixels:
    """Reads an AVIF file with 10 or 12 bits.

    Raises:
        ImportError: without the extra `codecs`; Pillow decodes 8 bits only.
    """
    bits = avif_bits(file)
    try:
        import imagecodecs
    except ImportError as error:
        raise ImportError(f"its {bits} bits need an extra: {_CODECS}") from error
    file.seek(0)
    values = imagecodecs.avif_decode(file.read(), index=0)
    return _split_alpha(levels.scale_to_uint16(values, bits))


def heif_colours(file: BinaryIO) -> bytes | None:
    """Returns primaries, transfer, matrix and range of an AVIF or HEIF file, as cICP.

    The pixels are decoded to full-range RGB, so matrix and range are those of RGB.
    """
    with kept_place(file):
        file.seek(0)
        box = file.read().partition(b"colrnclx")[2][:4]  # both are 16-bit numbers
    return bytes([box[1], box[3], 0, 1]) if len(box) == 4 else None


def _split_alpha(values: np.ndarray) -> Pixels:
    """Returns pixels [H, W] or [H, W, 1 to 4]; an even number has alpha."""
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[-1] in (2, 4):
        return Pixels(values[..., :-1], values[..., -1])
    return Pixels(values)


def read_heif(file: BinaryIO) -> Pixels:
    """Reads a HEIF file with more than 8 bits; libheif turns it upright."""
    import pillow_heif

    file.seek(0)
    heif = pillow_heif.open_heif(
        io.BytesIO(file.read()), convert_hdr_to_8bit=False, hdr_to_16bit=False
    )
    return _split_alpha(
        levels.scale_to_uint16(np.asarray(heif), heif.info["bit_depth"])
    )


def raw_size(file: BinaryIO) -> tuple[int, int]:
    """Returns (H, W) of a developed camera RAW, upright."""
    with _opened_raw(file) as raw:
        height, width = raw.sizes.iheight, raw.sizes.iwidth
        return (width, height) if raw.sizes.flip in (5, 6) else (height, width)


def read_raw(file: BinaryIO) -> Pixels:
    """Develops a camera RAW to 16-bit sRGB, upright, at the camera's brightness.

    White balance is the camera's; nothing is brightened, which is the model's task.
    """
    with _opened_raw(file) as raw:
        check_size(raw.sizes.iheight, raw.sizes.iwidth)
        values = raw.postprocess(
            output_bps=16,
            use_camera_wb=True,
            no_auto_bright=True,
            gamma=(2.4, 12.92),  # sRGB's
        )
    return Pixels(values)


def _opened_raw(file: BinaryIO):
    """Returns a camera RAW opened by rawpy."""
    try:
        import rawpy
    except ImportError as error:
        raise ImportError(
            "it is a camera RAW, which needs an extra: pip install 'llie-jax[raw]'"
        ) from error
    file.seek(0)
    return rawpy.imread(file)
