"""One small file of every kind that people have, with the picture it was made from."""

import dataclasses
import io
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.image import files

HEIGHT, WIDTH = 24, 40

try:
    import imagecodecs
except ImportError:  # an extra; without it, some compressions cannot be written
    imagecodecs = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file and its picture.

    Attributes:
        name: with the ending.
        data: the content of the file.
        pixels: the picture [H, W, 3], upright; uint8, uint16 or floats in [0, 1].
        exact: whether the format keeps it exactly.
    """

    name: str
    data: bytes
    pixels: np.ndarray
    exact: bool = True


def every() -> list[Kind]:
    """Returns all kinds, each under a name of its own."""
    found = (*_png(), *_jpeg(), *_bmp_and_gif(), *_webp(), *_tiff(), *_avif())
    named = []
    for kind in found:
        ending = pathlib.PurePath(kind.name).suffix[1:].lower()
        named.append(dataclasses.replace(kind, name=f"{ending} {kind.name}"))
    return named


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.reshape(HEIGHT, WIDTH, 1), 3, -1)


RGB = files.colours(HEIGHT, WIDTH)
DEEP = files.colours(HEIGHT, WIDTH, dtype=np.uint16)
SMOOTH = files.smooth(HEIGHT, WIDTH)
LEVELS = RGB[..., 0]
PICTURE = Image.fromarray(RGB)


def _stored(values: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(files.STORED[orientation](values))


def _exif_chunk(orientation: int) -> bytes:
    return files.chunk(b"eXIf", files.turned(orientation).tobytes()[6:])


def _png() -> Iterator[Kind]:
    rng = np.random.default_rng(1)
    for bits in (1, 2, 4, 8, 16):
        values = rng.integers(0, 2**bits, (HEIGHT, WIDTH, 1))
        wide = values if bits == 16 else values * (255 // (2**bits - 1))
        dtype = np.uint16 if bits == 16 else np.uint8
        data = files.png(values, bits=bits)
        yield Kind(f"grey{bits}.png", data, _grey(wide.astype(dtype)))
    for bits, colour in ((8, RGB), (16, DEEP)):
        top, alpha = 2**bits - 1, colour[..., 1:2]
        yield Kind(f"rgb{bits}.png", files.png(colour, bits=bits), colour)
        more = np.concatenate([colour, alpha], -1)
        yield Kind(f"rgba{bits}.png", files.png(more, bits=bits), colour)
        two = np.concatenate([colour[..., :1], alpha], -1)
        grey = _grey(colour[..., 0])
        yield Kind(f"la{bits}.png", files.png(two, bits=bits), grey)
        data = files.png(colour, bits=bits, interlaced=True)
        yield Kind(f"interlaced{bits}.png", data, colour)
        clear = files.chunk(b"tRNS", top.to_bytes(2, "big") * 3)
        data = files.png(colour, bits=bits, before=clear)
        yield Kind(f"clear{bits}.png", data, colour)
        for orientation in range(2, 9):
            stored = _stored(colour, orientation)
            data = files.png(stored, bits=bits, before=_exif_chunk(orientation))
            yield Kind(f"turned{orientation}-{bits}.PNG", data, colour)
    data = files.png(_stored(RGB, 6), bits=8, after=_exif_chunk(6))
    yield Kind("turned at the end.png", data, RGB)
    palette = files.colours(1, 256)
    indexed = Image.fromarray(LEVELS)
    indexed.putpalette(palette.tobytes())
    for name, options in (("palette", {}), ("palette clear", {"transparency": 3})):
        data = files.saved(indexed, "PNG", **options)
        yield Kind(f"{name}.png", data, palette[0][LEVELS])
    frames = [PICTURE, Image.fromarray(files.colours(HEIGHT, WIDTH, seed=5))]
    data = files.saved(PICTURE, "PNG", save_all=True, append_images=frames[1:])
    yield Kind("animated.png", data, RGB)


def _jpeg() -> Iterator[Kind]:
    picture = Image.fromarray(SMOOTH)
    options = {"quality": 98, "subsampling": 0}
    for ending in (".jpg", ".JPEG", ".jfif", ".jpe"):
        data = files.saved(picture, "JPEG", **options)
        yield Kind(f"rgb{ending[1:]}{ending}", data, SMOOTH, exact=False)
    data = files.saved(picture, "JPEG", progressive=True, **options)
    yield Kind("progressive.jpg", data, SMOOTH, exact=False)
    for mode in ("L", "CMYK"):
        data = files.saved(picture.convert(mode), "JPEG", **options)
        expected = np.asarray(picture.convert("L").convert("RGB"))
        expected = SMOOTH if mode == "CMYK" else expected
        yield Kind(f"{mode}.jpg", data, expected, exact=False)
    for orientation in range(2, 9):
        stored = Image.fromarray(_stored(SMOOTH, orientation))
        exif = files.turned(orientation)
        data = files.saved(stored, "JPEG", exif=exif, **options)
        yield Kind(f"turned{orientation}.jpg", data, SMOOTH, exact=False)


def _bmp_and_gif() -> Iterator[Kind]:
    yield Kind("rgb.bmp", files.saved(PICTURE, "BMP"), RGB)
    yield Kind("grey.bmp", files.saved(Image.fromarray(LEVELS), "BMP"), _grey(LEVELS))
    bits = Image.fromarray(LEVELS > 127)
    yield Kind(
        "bits.bmp", files.saved(bits, "BMP"), _grey(255 * np.uint8(LEVELS > 127))
    )
    palette = files.colours(1, 256, seed=3)
    indexed = Image.fromarray(LEVELS)
    indexed.putpalette(palette.tobytes())
    yield Kind("palette.bmp", files.saved(indexed, "BMP"), palette[0][LEVELS])
    yield Kind("palette.gif", files.saved(indexed, "GIF"), palette[0][LEVELS])


def _webp() -> Iterator[Kind]:
    yield Kind("rgb.webp", files.saved(PICTURE, "WEBP", lossless=True), RGB)
    clear = PICTURE.convert("RGBA")
    clear.putalpha(Image.fromarray(LEVELS))
    data = files.saved(clear, "WEBP", lossless=True, exact=True)
    yield Kind("rgba.webp", data, RGB)
    turned = Image.fromarray(_stored(RGB, 8))
    data = files.saved(turned, "WEBP", lossless=True, exif=files.turned(8))
    yield Kind("turned.webp", data, RGB)
    data = files.saved(Image.fromarray(SMOOTH), "WEBP", quality=98)
    yield Kind("lossy.webp", data, SMOOTH, exact=False)


def _tiff() -> Iterator[Kind]:
    for bits, colour in ((8, RGB), (16, DEEP)):
        top = 2**bits - 1
        for name, options in {
            "rgb": {},
            "big endian": {"byteorder": ">"},
            "planar": {"planar": True},
            "deflated": {"compression": "zlib"},
            "tiled": {"tile": (16, 16)},
            "strips": {"rowsperstrip": 5},
            "big": {"bigtiff": True},
        }.items():
            yield Kind(f"{name}{bits}.tif", files.tiff(colour, **options), colour)
        if imagecodecs:
            for name, options in {
                "lzw": {"compression": "lzw", "predictor": True},
                "lzw planar": {"compression": "lzw", "planar": True},
                "packbits": {"compression": "packbits"},
                "deflated differences": {"compression": "zlib", "predictor": True},
            }.items():
                data = files.tiff(colour, **options)
                yield Kind(f"{name}{bits}.tiff", data, colour)
        one = colour[..., 0]
        data = files.tiff(one, photometric="minisblack")
        yield Kind(f"grey{bits}.tif", data, _grey(one))
        data = files.tiff(top - one, photometric="miniswhite")
        yield Kind(f"white is zero{bits}.tif", data, _grey(one))
        more = np.dstack([colour, colour[..., 2]])
        data = files.tiff(more, extrasamples=["unassalpha"])
        yield Kind(f"rgba{bits}.tif", data, colour)
        black = np.zeros_like(one)
        data = files.tiff(np.dstack([top - colour, black]), photometric="separated")
        yield Kind(f"cmyk{bits}.tif", data, colour)
        for orientation in (3, 5, 6):
            tag = [(files.ORIENTATION, "H", 1, orientation, True)]
            data = files.tiff(_stored(colour, orientation), extratags=tag)
            yield Kind(f"turned{orientation}-{bits}.tif", data, colour)
    for kind in (np.float16, np.float32, np.float64):
        values = (DEEP / 65535).astype(kind)
        name = f"{np.dtype(kind).name}.tif"
        yield Kind(name, files.tiff(values), values.astype(np.float32))
    buffer = io.BytesIO()
    pages = [PICTURE, Image.fromarray(files.colours(HEIGHT, WIDTH, seed=6))]
    PICTURE.save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    yield Kind("pages.tif", buffer.getvalue(), RGB)


def _avif() -> Iterator[Kind]:
    data = files.saved(Image.fromarray(SMOOTH), "AVIF", quality=98)
    yield Kind("rgb.avif", data, SMOOTH, exact=False)
    turned = Image.fromarray(_stored(SMOOTH, 6))
    data = files.saved(turned, "AVIF", quality=98, exif=files.turned(6))
    yield Kind("turned.avif", data, SMOOTH, exact=False)
    if imagecodecs:
        for bits in (10, 12):
            values = DEEP >> (16 - bits)
            data = imagecodecs.avif_encode(values, bitspersample=bits, level=100)
            wide = np.rint(values * (65535 / (2**bits - 1))).astype(np.uint16)
            yield Kind(f"deep{bits}.avif", data, wide)
