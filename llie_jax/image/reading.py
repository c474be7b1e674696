"""The one reader of image files: for photos, pairs, scores, studies and tools.

Every image comes upright, in RGB, with the depth of its file. Pillow opens the files;
`llie_jax.image.deep` has the pixels of which Pillow decodes only 8 bits.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from llie_jax import files
from llie_jax.image import deep, formats, metadata

_FORMATS = ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "AVIF"]
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# EXIF orientation -> what turns the pixels upright.
_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow's raw mode -> 255 / highest level


# What a PNG may have too much of for Pillow -> its chunks, in order of their worth.
_EXCESS = {"text": (b"tEXt", b"zTXt", b"iTXt"), "colour profile": (b"iCCP",)}


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        height: of the upright image, in pixels.
        width: likewise.
        dtype: of its pixels: uint8, uint16 or float32.
        frames: number of pictures in the file.
    """

    height: int
    width: int
    dtype: np.dtype
    frames: int = 1


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded image file, upright.

    Attributes:
        pixels: RGB [H, W, 3], uint8, uint16, or float32 in [0, 1]. Greyscale files have
            three equal channels. Colours are those of the file, whatever its profile.
        grey: whether the file is greyscale.
        alpha: transparency [H, W], in the dtype of `pixels`, if the file has it.
        metadata: what the file says beside the pixels.
        frames: number of pictures in the file; this is the first.
    """

    pixels: np.ndarray
    grey: bool
    alpha: np.ndarray | None
    metadata: metadata.Metadata
    frames: int


def read(path: str | os.PathLike) -> Decoded:
    """Reads an image file.

    Raises:
        OSError: if the file is missing or cannot be opened.
        ValueError: if it is not an image, is damaged or too large, or has pixels that
            cannot be read; the message names it.
    """
    with files.path(path).open("rb") as file:
        return decode(file, str(path))


def read_header(path: str | os.PathLike) -> Header:
    """Returns the header of an image file, without decoding pixels.

    Raises:
        OSError, ValueError: as `read`.
    """
    with files.path(path).open("rb") as file:
        return decode_header(file, str(path))


def decode(file: BinaryIO, name: str) -> Decoded:
    """Decodes an open image file.

    Args:
        file: the file, which can be sought.
        name: its name, for messages; the ending tells a camera RAW.

    Raises:
        ValueError: as `read`.
    """
    with _errors_named(name):
        return _without_excess(_decode, file, name)


def decode_header(file: BinaryIO, name: str) -> Header:
    """Returns the header of an open image file; see `decode`."""
    with _errors_named(name):
        return _without_excess(_decode_header, file, name)


def _decode(file: BinaryIO, name: str) -> Decoded:
    with _opened(file, name) as found:
        pixels = found.pixels(file)
        exif = _exif(found.image, file)
        turn = _TURNS.get(
            found.orientation(exif or Image.Exif()), lambda pixels: pixels
        )
        grey = pixels.values.shape[-1] == 1
        values = np.broadcast_to(pixels.values, (*pixels.values.shape[:2], 3))
        values, alpha = turn(values), pixels.alpha
        return Decoded(
            pixels=np.ascontiguousarray(values),
            grey=grey,
            alpha=None if alpha is None else np.ascontiguousarray(turn(alpha)),
            metadata=metadata.read(
                exif, found.info(file), size=values.shape[:2], grey=grey
            ),
            frames=found.frames,
        )


def _decode_header(file: BinaryIO, name: str) -> Header:
    with _opened(file, name) as found:
        height, width = found.size(file)
        exif = _exif(found.image, file, pixels=False)
        if found.orientation(exif or Image.Exif()) >= 5:
            height, width = width, height
        return Header(height, width, found.dtype, found.frames)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """An open file of any kind.

    Attributes:
        image: as Pillow opened it, if it did.
        dtype: of the pixels.
        page: the first page of a TIFF with more than 8 bits.
        upright: whether the decoder applies the orientation.
    """

    image: Image.Image | None
    dtype: np.dtype
    page: Any = None
    upright: bool = False

    def info(self, file: BinaryIO) -> dict[str, Any]:
        """Returns other metadata than EXIF data, see `metadata.read`."""
        if self.page is not None:
            tags = {"icc_profile": 34675, "xmp": 700}
            found = {name: self.page.tags.valueof(tag) for name, tag in tags.items()}
            return {name: value for name, value in found.items() if value}
        if self.image is None:
            return {}
        found = dict(self.image.info)
        if self.image.format == "PNG":
            found["text"] = dict(self.image.text)
            found["cicp"] = _chunk(file, b"cICP")
        elif self.image.format in ("AVIF", "HEIF"):
            found["cicp"] = deep.heif_colours(file)
        return found

    @property
    def frames(self) -> int:
        """Number of pictures in the file."""
        if self.page is not None:
            return len(self.page.parent.pages)
        return getattr(self.image, "n_frames", 1)

    def orientation(self, exif: Image.Exif) -> int:
        """Returns the EXIF orientation that is still to be applied, 1 to 8."""
        tag = ExifTags.Base.Orientation
        if self.page is not None:  # Pillow reads no EXIF data of a BigTIFF
            found = self.page.tags.valueof(int(tag), 1)
        else:
            found = exif.get(tag, 1)
        return found if found in _TURNS and not self.upright else 1

    def size(self, file: BinaryIO) -> tuple[int, int]:
        """Returns (H, W) as `pixels` has them."""
        if self.page is not None:
            size = self.page.imagelength, self.page.imagewidth
        elif self.image is None:
            size = deep.raw_size(file)
        else:
            size = self.image.height, self.image.width
        deep.check_size(*size)
        return size

    def pixels(self, file: BinaryIO) -> deep.Pixels:
        """Returns the pixels as stored."""
        if self.page is not None:
            return deep.read_tiff(self.page)
        if self.image is None:
            return deep.read_raw(file)
        if self.dtype != np.uint8:
            self.image.load()  # metadata may follow the pixels
            readers = {
                "PNG": deep.read_png,
                "AVIF": deep.read_avif,
                "HEIF": deep.read_heif,
            }
            return readers[self.image.format](file)
        return _pillow_pixels(self.image)


_CAMERA_RAW = _Opened(None, np.dtype(np.uint16), upright=True)


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[_Opened]:
    """Opens a file of any kind."""
    start = file.read(12)
    if pathlib.PurePath(name).suffix.lower() in formats.RAW:
        yield _CAMERA_RAW
        return
    with contextlib.ExitStack() as stack:
        if start[:4] in _TIFF:
            tiff = stack.enter_context(deep.opened_tiff(file))
            page = tiff.pages[0]
            if deep.is_camera_raw(page):
                yield _CAMERA_RAW
                return
            if (dtype := deep.tiff_dtype(page)) != np.uint8:
                yield _Opened(None, dtype, page)
                return
        if heif := _is_heif(file, start):
            _register_heif()
        image = stack.enter_context(_opened_by_pillow(file, heif))
        dtype = np.dtype(np.uint16 if _bits(image, file) > 8 else np.uint8)
        # Pillow turns a TIFF upright itself, and no other format.
        yield _Opened(image, dtype, upright=image.format == "TIFF")


def _is_heif(file: BinaryIO, start: bytes) -> bool:
    """Returns whether a file is HEIF with another codec than AVIF's."""
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIF:
        return False
    file.seek(0)
    brands = file.read(min(int.from_bytes(start[:4], "big"), 256))
    return b"avif" not in brands


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(
            "it is HEIC, which needs an extra: pip install 'llie-jax[heic]'"
        ) from error
    pillow_heif.register_heif_opener()


def _opened_by_pillow(file: BinaryIO, heif: bool) -> Image.Image:
    """Returns an image opened by Pillow."""
    file.seek(0)
    image = Image.open(file, formats=["HEIF", "AVIF"] if heif else _FORMATS)
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and clear is not None:
        # Pillow scales grey of 2 and 4 bits to 8, but not the transparent level.
        image.info["transparency"] = clear * _GREY_STEPS.get(image.tile[0].args, 1)
    return image


def _without_excess(function: Callable, file: BinaryIO, name: str) -> Any:
    """Calls a function; a PNG with more text than Pillow accepts loses the text."""
    data, dropped = file, []
    while True:
        try:
            found = function(data, name)
            break
        except ValueError as error:
            if len(dropped) == len(_EXCESS) or "TEXT" not in str(error).upper():
                raise
        dropped = list(_EXCESS)[: len(dropped) + 1]
        file.seek(0)
        kinds = [kind for what in dropped for kind in _EXCESS[what]]
        data = io.BytesIO(_without_chunks(file.read(), kinds))
    if dropped and isinstance(found, Decoded):
        lost = tuple(f"{what} that is too long" for what in dropped)
        kept = dataclasses.replace(found.metadata, lost=found.metadata.lost + lost)
        found = dataclasses.replace(found, metadata=kept)
    return found


def _without_chunks(data: bytes, kinds: Sequence[bytes]) -> bytes:
    """Returns a PNG without chunks of some kinds."""
    kept = [data[:8]]
    for start, length, kind in _png_chunks(io.BytesIO(data)):
        if kind not in kinds:
            kept.append(data[start : start + 12 + length])
    return b"".join(kept)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yields the place, the length of the content and the kind of each PNG chunk."""
    with deep.kept_place(file):
        place = 8
        while True:
            file.seek(place)
            head = file.read(8)
            if len(head) < 8:
                return
            length, kind = struct.unpack(">I4s", head)
            yield place, length, kind
            place += 12 + length


def _chunk(file: BinaryIO, wanted: bytes) -> bytes | None:
    """Returns the content of the first chunk of a kind in a PNG."""
    for place, length, kind in _png_chunks(file):
        if kind == wanted:
            file.seek(place + 8)
            return file.read(length)
    return None


def _bits(image: Image.Image, file: BinaryIO) -> int:
    """Returns the bits per channel of an opened image."""
    if image.format == "PNG":
        return deep.png_bits(file)
    if image.format == "AVIF":
        return deep.avif_bits(file)
    if image.format == "HEIF":
        return image.info.get("bit_depth", 8)
    return 8


def _exif(
    image: Image.Image | None, file: BinaryIO, *, pixels: bool = True
) -> Image.Exif | None:
    """Returns the EXIF data; None if damaged, which is no reason to refuse the image.

    Args:
        image: the opened image; None for a TIFF or a camera RAW, which is one too.
        file: its file.
        pixels: whether the pixels are decoded anyway; a PNG has EXIF data after them.
    """
    try:
        if image is None:
            exif = Image.Exif()
            file.seek(0)
            exif.load_from_fp(file)
        elif image.format == "PNG" and not pixels and not _metadata_at_end(file):
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        exif.get(ExifTags.Base.Orientation)
        return exif
    except Exception:  # Pillow raises many types for damaged data
        return None


def _metadata_at_end(file: BinaryIO) -> bool:
    """Returns whether a PNG has metadata behind its pixels."""
    kinds = [kind for *_, kind in _png_chunks(file)]
    kinds = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []
    return not {b"eXIf", b"iTXt", b"zTXt", b"tEXt"}.isdisjoint(kinds)


def _pillow_pixels(image: Image.Image) -> deep.Pixels:
    """Returns pixels that Pillow decodes in full."""
    image.load()
    if image.mode in ("CMYK", "LAB"):
        return deep.Pixels(np.asarray(_to_srgb(image)))
    grey = image.mode in ("1", "L", "LA", "La")
    mode = "L" if grey else "RGB"
    if image.has_transparency_data:
        mode += "A"
    values = np.asarray(image.convert(mode))
    values = values.reshape(image.height, image.width, -1)
    if values.shape[-1] in (2, 4):
        return deep.Pixels(values[..., :-1], values[..., -1])
    return deep.Pixels(values)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Returns CMYK or Lab in RGB: by its profile, else CMYK as its complement."""
    profile = image.info.get("icc_profile")
    try:
        source = (
            ImageCms.createProfile("LAB")
            if image.mode == "LAB"
            else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        )
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError):  # no profile, or a damaged one
        converted = image.convert("RGB")
    return converted


class _Quiet:
    """Hides Pillow's warnings while files are read, in any number of threads.

    They are of damaged EXIF data, and of attacks above 90 megapixels.
    `warnings.catch_warnings` alone is not safe with threads.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._readers = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self):
        with self._lock:
            if not self._readers:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module="PIL")
            self._readers += 1

    def __exit__(self, *error):
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._filters.__exit__(*error)


_QUIET = _Quiet()


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turns any exception of a decoder into one clear error."""
    try:
        with _QUIET:
            yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels, "
            "the most that is read; split it into parts."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"Cannot read {name}: {pathlib.PurePath(name).name} is not an image of a "
            "known format, or its header is damaged."
        ) from error
    # Decoders raise many types for a damaged file, SyntaxError and struct.error among
    # them.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"Cannot read {name}: {reason}.") from error
