"""Every kind of image file; expected pixels come from the array that made the file."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from llie_jax.image import formats, reading
from tests.image import files

UPRIGHT = files.colours()
DEEP = files.colours(dtype=np.uint16)
CODECS = "imagecodecs"


def decode(data, name="a.png"):
    found = reading.decode(io.BytesIO(data), name)
    header = reading.decode_header(io.BytesIO(data), name)
    assert found.pixels.shape == (header.height, header.width, 3)
    assert found.pixels.dtype == header.dtype
    assert found.pixels.flags.c_contiguous
    return found


def grey(values):
    return np.repeat(values[..., None], 3, -1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "kind",
    [
        *("PNG", "WEBP", "TIFF", "deep PNG", "deep TIFF", "PNG, EXIF at the end"),
        *("big TIFF", "big deep TIFF"),
    ],
)
def test_every_orientation_is_applied(kind, orientation):
    upright = DEEP if "deep" in kind else UPRIGHT
    stored = np.ascontiguousarray(files.STORED[orientation](upright))
    exif = files.turned(orientation)
    chunk = files.chunk(b"eXIf", exif.tobytes()[6:])
    tag = [(files.ORIENTATION, "H", 1, orientation, True)]
    data = {
        "PNG": lambda: files.saved(Image.fromarray(stored), "PNG", exif=exif),
        "WEBP": lambda: files.saved(
            Image.fromarray(stored), "WEBP", lossless=True, exif=exif
        ),
        "TIFF": lambda: files.tiff(stored, extratags=tag),
        "big TIFF": lambda: files.tiff(stored, bigtiff=True, extratags=tag),
        "big deep TIFF": lambda: files.tiff(stored, bigtiff=True, extratags=tag),
        "deep PNG": lambda: files.png(stored, before=chunk),
        "deep TIFF": lambda: files.tiff(stored, extratags=tag),
        "PNG, EXIF at the end": lambda: files.png(stored, bits=8, after=chunk),
    }[kind]()
    np.testing.assert_array_equal(decode(data).pixels, upright)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_lossy_formats_are_upright_and_close(kind, orientation):
    upright = files.smooth()
    stored = Image.fromarray(np.ascontiguousarray(files.STORED[orientation](upright)))
    data = files.saved(stored, kind, quality=97, exif=files.turned(orientation))
    difference = decode(data).pixels.astype(int) - upright
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_with_16_bits(channels, interlaced):
    rng = np.random.default_rng(channels)
    values = rng.integers(0, 65536, (13, 9, channels)).astype(np.uint16)
    found = decode(files.png(values, interlaced=interlaced))
    colour = values[..., : 3 if channels > 2 else 1]
    np.testing.assert_array_equal(found.pixels, np.broadcast_to(colour, (13, 9, 3)))
    assert found.grey == (channels < 3)
    if channels in (2, 4):
        np.testing.assert_array_equal(found.alpha, values[..., -1])
    else:
        assert found.alpha is None


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_deep_png(channels):
    values = files.colours(dtype=np.uint16)[..., :channels].copy()
    values[3:9, 2] = 0x1234
    clear = files.chunk(b"tRNS", b"\x12\x34" * channels)
    found = decode(files.png(values, before=clear))
    expected = np.where((values == 0x1234).all(-1), 0, 65535)
    np.testing.assert_array_equal(found.alpha, expected)
    assert (found.alpha == 0).sum() == 6


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_png_with_few_bits_and_a_transparent_level(bits):
    top = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, top + 1, (9, 13, 1))
    clear = files.chunk(b"tRNS", b"\0\1")
    found = decode(files.png(values, bits=bits, before=clear))
    np.testing.assert_array_equal(found.pixels, grey(values[..., 0] * 255 // top))
    np.testing.assert_array_equal(found.alpha, np.where(values[..., 0] == 1, 0, 255))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rgb_tiff(dtype, compression, order, planar):
    if compression:
        pytest.importorskip(CODECS)
    values = files.colours(dtype=dtype)
    options = dict(compression=compression, byteorder=order, planar=planar)
    if compression in ("zlib", "lzw"):
        options["predictor"] = not planar
    found = decode(files.tiff(values, **options), "a.tif")
    np.testing.assert_array_equal(found.pixels, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_tiff(dtype, photometric):
    levels = files.colours()[..., 0]
    if dtype == np.float32:
        values = np.float32(levels / 255)
        top = np.float32(1)
    else:
        values = levels.astype(dtype) * dtype(257 if dtype == np.uint16 else 1)
        top = np.iinfo(dtype).max
    stored = top - values if photometric == "miniswhite" else values
    found = decode(files.tiff(stored, photometric=photometric), "a.tif")
    assert found.grey
    np.testing.assert_allclose(found.pixels, grey(values), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("planar", [False, True])
def test_float_tiff(dtype, planar):
    values = (DEEP / 65535).astype(dtype)
    found = decode(files.tiff(values, planar=planar), "a.tif")
    assert found.pixels.dtype == np.float32
    np.testing.assert_array_equal(found.pixels, values.astype(np.float32))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_tiff_of_packed_integers(bits):
    codecs = pytest.importorskip(CODECS)
    if bits == 10 or bits == 14:
        values = DEEP >> (16 - bits)
    else:
        values = DEEP >> 4
    packed = codecs.packints_encode(values, bits, runlen=3 * values.shape[1])
    data = bytearray(files.tiff(values))
    import tifffile

    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
        place = tif.pages[0].dataoffsets[0]
        tags = tif.pages[0].tags
        lengths = tags["BitsPerSample"].valueoffset
        count = tags["StripByteCounts"].valueoffset
    data[place : place + len(packed)] = packed
    data[lengths : lengths + 6] = np.array([bits] * 3, "<u2").tobytes()
    data[count : count + 4] = len(packed).to_bytes(4, "little")
    found = decode(bytes(data), "a.tif")
    expected = np.rint(values * (65535 / (2**bits - 1)))
    np.testing.assert_array_equal(found.pixels, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_transparency(dtype):
    values = np.dstack([files.colours(dtype=dtype), files.colours(dtype=dtype)[..., 1]])
    found = decode(files.tiff(values, extrasamples=["unassalpha"]), "a.tif")
    np.testing.assert_array_equal(found.pixels, values[..., :3])
    np.testing.assert_array_equal(found.alpha, values[..., 3])
    found = decode(files.tiff(values, extrasamples=["unspecified"]), "a.tif")
    np.testing.assert_array_equal(found.pixels, values[..., :3])
    assert found.alpha is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_premultiplied_colours(dtype):
    top = np.iinfo(dtype).max
    colour = files.colours(dtype=dtype)
    alpha = np.full(colour.shape[:2], top // 2, dtype)
    stored = np.rint(colour * (alpha[..., None] / top)).astype(dtype)
    data = files.tiff(np.dstack([stored, alpha]), extrasamples=["assocalpha"])
    found = decode(data, "a.tif")
    assert np.abs(found.pixels.astype(int) - colour).max() <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_tiff(dtype):
    top = np.iinfo(dtype).max
    inks = np.dstack([files.colours(dtype=dtype), files.colours(dtype=dtype)[..., 0]])
    light = 1 - inks / top
    expected = light[..., :3] * light[..., 3:] * top
    found = decode(files.tiff(inks, photometric="separated"), "a.tif")
    assert found.pixels.dtype == dtype
    assert np.abs(found.pixels - expected).max() <= 1


def test_cmyk_jpeg_is_converted_by_its_profile():
    picture = Image.fromarray(files.smooth())
    found = decode(files.saved(picture.convert("CMYK"), "JPEG", quality=100), "a.jpg")
    assert np.abs(found.pixels.astype(int) - files.smooth()).mean() < 3


def test_lab_tiff_becomes_rgb():
    picture = Image.fromarray(files.smooth())
    lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
    stored = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    found = decode(files.saved(stored, "TIFF"), "a.tif")
    assert np.abs(found.pixels.astype(int) - files.smooth()).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palettes(kind):
    levels = np.random.default_rng(0).integers(0, 7, (11, 17)).astype(np.uint8)
    palette = files.colours(1, 256)
    picture = Image.fromarray(levels)
    picture.putpalette(palette.tobytes())
    found = decode(files.saved(picture, kind))
    np.testing.assert_array_equal(found.pixels, palette[0][levels])
    if kind in ("PNG", "GIF"):
        found = decode(files.saved(picture, kind, transparency=3))
        np.testing.assert_array_equal(found.alpha, np.where(levels == 3, 0, 255))


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_avif(bits, channels):
    codecs = pytest.importorskip(CODECS)
    values = np.dstack([DEEP, DEEP[..., 0]])[..., :channels] >> (16 - bits)
    values = np.ascontiguousarray(values)
    data = codecs.avif_encode(values, bitspersample=bits, level=100)
    found = decode(data, "a.avif")
    expected = np.rint(values * (65535 / (2**bits - 1)))
    np.testing.assert_array_equal(found.pixels, expected[..., :3])
    assert (found.alpha is None) == (channels == 3)


def test_deep_avif_without_its_extra_says_what_to_install(monkeypatch):
    codecs = pytest.importorskip(CODECS)
    data = codecs.avif_encode(DEEP >> 6, bitspersample=10)
    monkeypatch.setitem(__import__("sys").modules, CODECS, None)
    with pytest.raises(ValueError, match=r"a\.avif.*10 bits.*llie-jax\[codecs\]"):
        decode(data, "a.avif")


@pytest.mark.parametrize("bits", [8, 10])
def test_heic(bits):
    heif = pytest.importorskip("pillow_heif")
    values = files.smooth()
    if bits == 8:
        picture = heif.from_pillow(Image.fromarray(values))
    else:
        deep = values.astype(np.uint16) << 8
        picture = heif.from_bytes("RGB;16", deep.shape[1::-1], deep.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, quality=-1, chroma=444, matrix_coefficients=0)
    found = decode(buffer.getvalue(), "a.heic")
    assert found.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    scale = 1 if bits == 8 else 257
    assert np.abs(found.pixels / scale - values).max() <= 2


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["a.dng", "a.tif"])
def test_camera_raw_is_developed_at_its_own_brightness(name, orientation):
    pytest.importorskip("rawpy")
    found = decode(files.dng(0.2, (64, 96), orientation), name)
    assert found.pixels.shape[:2] == ((64, 96) if orientation == 1 else (96, 64))
    expected = 1.055 * 0.2 ** (1 / 2.4) - 0.055  # sRGB
    assert np.abs(found.pixels / 65535 - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(90), r"a\.heic.*llie-jax\[heic\]"),
        ("a.dng", b"II*\0" + bytes(90), r"a\.dng.*llie-jax\[raw\]"),
        ("a.png", b"P6 1 1 255 abc", r"a\.png is not an image"),
        ("a.png", b"", r"a\.png is not an image"),
    ],
)
def test_what_is_not_read_says_what_to_do(monkeypatch, name, content, words):
    for library in ("pillow_heif", "rawpy"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    for read in (reading.decode, reading.decode_header):
        with pytest.raises(ValueError, match=words):
            read(io.BytesIO(content), name)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.int16([[1, 2]]), {}, "16-bit integers with a sign"),
        (np.uint32([[1, 2]]), {}, "32-bit integers"),
        (np.float32([[0, 3.5]]), {}, r"floats from 0 to 3.5.*\[0, 1\]"),
        (np.float32([[0, np.nan]]), {}, r"floats.*nan"),
        (np.float32([[-1, 0.5]]), {}, r"floats from -1"),
    ],
)
def test_tiff_whose_values_have_no_known_range(values, options, words):
    data = files.tiff(values, photometric="minisblack", **options)
    with pytest.raises(ValueError, match=rf"a\.tif.*{words}"):
        reading.decode(io.BytesIO(data), "a.tif")


def test_a_png_with_too_much_text_loses_the_text_only():
    import zlib

    text = files.chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3_000_000)))
    more = files.chunk(b"iTXt", b"n\0\1\0\0\0" + zlib.compress(bytes(3_000_000)))
    for chunk in (text, more):
        for place in ("before", "after"):
            found = decode(files.png(UPRIGHT, bits=8, **{place: chunk}))
            np.testing.assert_array_equal(found.pixels, UPRIGHT)
            assert found.metadata.lost == ("text that is too long",)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_frames_are_counted(kind):
    frames = [Image.fromarray(files.colours(seed=seed)) for seed in range(3)]
    data = files.saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert reading.decode_header(io.BytesIO(data), "a").frames == 3
    assert reading.decode(io.BytesIO(data), "a").frames == 3


def test_a_folder_is_counted_by_kind(tmp_path):
    names = ("a.png", "b.JFIF", "c.AVIF", "._c.png", "d.mov", "e.MOV", "f", "g.psd")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "h.tif").symlink_to(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    found = formats.list_files(tmp_path.iterdir())
    images = [path.name for path in found.images]
    assert images == ["a.png", "b.JFIF", "c.AVIF", "h.tif"]
    assert formats.describe_skipped(found.skipped) == (
        "4 files not read: 2 .mov, 1 without ending, 1 .psd; 1 folder not read"
    )
    assert formats.describe_skipped({}) == ""


def test_skipped_files_name_their_extra(monkeypatch):
    monkeypatch.setattr(formats, "READ", (".png",))
    assert formats.describe_skipped({".heic": 7, ".dng": 2, ".mov": 1}) == (
        "10 files not read: 7 .heic (install llie-jax[heic]), "
        "2 .dng (install llie-jax[raw]), 1 .mov"
    )


def test_only_a_missing_codec_asks_for_the_extra(monkeypatch):
    """Any other fault of tifffile is one of the file, also without the extra."""
    tifffile = pytest.importorskip("tifffile")
    data = files.tiff(DEEP)
    monkeypatch.setitem(sys.modules, CODECS, None)
    for error, message in (
        (KeyError("COMPRESSION.LZW requires the 'imagecodecs' package"), "extra"),
        (NotImplementedError("packed integers"), "extra"),
        (KeyError("StripOffsets"), "StripOffsets"),
        (AttributeError("no tag"), "no tag"),
    ):

        def broken(page, error=error):
            raise error

        monkeypatch.setattr(tifffile.TiffPage, "asarray", broken)
        with pytest.raises(ValueError, match=message) as found:
            decode(data, "a.tif")
        assert ("needs an extra" in str(found.value)) == (message == "extra")
