"""Writers of image files of all kinds, none of which uses the reader under test."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

ORIENTATION = 0x0112

# EXIF orientation -> what a camera stores of an upright picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


def colours(height=23, width=37, *, seed=0, dtype=np.uint8) -> np.ndarray:
    """Returns random values [H, W, 3] over the full range."""
    top = np.iinfo(dtype).max
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, (height, width, 3), dtype, endpoint=True)


def smooth(height=24, width=40) -> np.ndarray:
    """Returns a smooth uint8 image without two equal corners, for lossy formats."""
    rows, columns = np.mgrid[:height, :width]
    channels = (200 * rows / height, 200 * columns / width, 40 + 0 * rows)
    return np.stack(channels, -1).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a PNG chunk."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(values: np.ndarray, *, bits=16, before=b"", after=b"", interlaced=False):
    """Returns a PNG of [H, W, C] with further chunks before or after the pixels."""
    height, width, channels = values.shape

    def packed(rows):
        if bits == 16:
            return rows.astype(">u2").view(np.uint8).reshape(len(rows), -1)
        if bits == 8:
            return rows.astype(np.uint8).reshape(len(rows), -1)
        shifts = np.arange(bits)[::-1]
        ones = (rows[..., 0, None] >> shifts & 1).reshape(len(rows), -1)
        return np.packbits(ones.astype(np.uint8), axis=1)

    passes = [values]
    if interlaced:
        starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4))
        starts += ((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [values[r::rows, c::columns] for r, c, rows, columns in starts]
    data = b"".join(
        b"\0" + row.tobytes() for part in passes if part.size for row in packed(part)
    )
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + before
        + chunk(b"IDAT", zlib.compress(data))
        + after
        + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, *, photometric="rgb", planar=False, **options) -> bytes:
    """Returns a TIFF of [H, W] or [H, W, C]."""
    buffer = io.BytesIO()
    if planar:
        values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
        options["planarconfig"] = "separate"
    tifffile.imwrite(buffer, values, photometric=photometric, **options)
    return buffer.getvalue()


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    """Returns a file of any kind that Pillow writes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    """Returns EXIF data with an orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def dng(light: float, size=(64, 96), orientation: int = 1) -> bytes:
    """Returns a camera RAW of one grey, whose camera sees the colours of sRGB.

    Args:
        light: linear light of all pixels, 0 to 1.
        size: height and width.
        orientation: EXIF orientation.
    """
    values = np.full(size, round(light * 65535), np.uint16)
    red, green = (0.4125, 0.2127, 0.0193), (0.3576, 0.7152, 0.1192)
    blue = (0.1804, 0.0722, 0.9503)
    to_xyz = np.stack([red, green, blue], axis=1)  # of linear sRGB
    matrix = [(round(x * 10_000), 10_000) for x in np.linalg.inv(to_xyz).ravel()]
    tags = [
        (50706, "B", 4, b"\x01\x04\0\0", True),  # DNG version
        (50708, "s", 0, "Made Up", True),  # camera
        (33421, "H", 2, (2, 2), True),  # size of the colour filter
        (33422, "B", 4, b"\0\1\1\2", True),  # its colours: RG, GB
        (50721, 10, 9, [x for pair in matrix for x in pair], True),  # XYZ to camera
        (50728, 5, 3, [1, 1, 1, 1, 1, 1], True),  # neutral
        (50717, "I", 1, 65535, True),  # white
        (50778, "H", 1, 21, True),  # illuminant: D65
        (ORIENTATION, "H", 1, orientation, True),
    ]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric=32803, extratags=tags, metadata=None)
    return buffer.getvalue()
