import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from llie_jax.image.metadata import Metadata
from llie_jax.inference import photo
from tests.inference import toys

ORIENTATION = 0x0112
ARTIST = 0x013B
DATE_TAKEN = 0x9003
WIDTH, HEIGHT = 0xA002, 0xA003
EXIF_IFD = 0x8769


def encode_png16(values: np.ndarray, *, row_filter: int = 0) -> bytes:
    """Returns a PNG of uint16 [H, W, C]; every row has the given filter (0 or 1)."""
    height, width, channels = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, width, -1)
    if row_filter:
        rows = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
    data = b"".join(bytes([row_filter]) + row.tobytes() for row in rows)

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", checksum)
        )

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def gradient(height=24, width=40):
    """Returns a smooth uint8 image without two equal corners, for JPEG."""
    rows, columns = np.mgrid[:height, :width]
    channels = (200 * rows / height, 200 * columns / width, 40 + 0 * rows)
    return np.stack(channels, -1).astype(np.uint8)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_is_applied_and_reset(tmp_path, orientation, suffix):
    upright = gradient()
    # What a camera stores, so that turning it by `orientation` gives `upright`.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[ARTIST] = "Ada"
    exif.get_ifd(EXIF_IFD).update(
        {DATE_TAKEN: "2024:01:02 03:04:05", WIDTH: stored.shape[1], HEIGHT: len(stored)}
    )
    options = {"quality": 100} if suffix in (".jpg", ".webp") else {}
    source = tmp_path / f"camera{suffix}"
    picture = Image.fromarray(np.ascontiguousarray(stored))
    picture.save(source, exif=exif.tobytes(), **options)

    read = photo.read(source)
    assert read.image.shape == upright.shape
    assert np.abs(read.image.astype(int) - upright).max() <= 12

    result = tmp_path / f"result{suffix}"
    assert photo.write(result, read.image, read) == ()
    with Image.open(result) as image:
        kept = image.getexif()
        assert kept.get(ORIENTATION, 1) == 1
        assert kept[ARTIST] == "Ada"
        details = kept.get_ifd(EXIF_IFD)
        assert details[DATE_TAKEN] == "2024:01:02 03:04:05"
        assert (details[HEIGHT], details[WIDTH]) == upright.shape[:2]
    assert np.abs(photo.read(result).image.astype(int) - upright).max() <= 14


def test_the_thumbnail_of_the_dark_photo_is_dropped(tmp_path):
    exif = Image.Exif()
    exif[ARTIST] = "Ada"
    tiff = bytearray(exif.tobytes()[6:])
    order = {b"II": "<", b"MM": ">"}[bytes(tiff[:2])]
    # The first directory holds one tag, then the offset of the next directory.
    struct.pack_into(f"{order}I", tiff, 8 + 2 + 12, len(tiff))
    tiff += struct.pack(f"{order}HHHIHHI", 1, 259, 3, 1, 6, 0, 0)
    data = b"Exif\x00\x00" + bytes(tiff)
    source = Image.Exif()
    source.load(data)
    assert source.get_ifd(ExifTags.IFD.IFD1) == {259: 6}
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=data)
    read = photo.read(tmp_path / "a.jpg")
    kept = Image.Exif()
    kept.load(read.metadata.exif)
    assert kept[ARTIST] == "Ada"
    assert not kept.get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".PNG", ".Bmp"])
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_lossless_formats(tmp_path, suffix, size):
    image = toys.photo(*size)
    path = tmp_path / f"a photo, with spaces{suffix}"
    assert photo.write(path, image, photo.Photo(image)) == ()
    read = photo.read(path)
    np.testing.assert_array_equal(read.image, image)
    assert read.image.flags.c_contiguous
    assert not read.grey
    assert read.alpha is None
    assert photo.peek_size(path) == size
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
def test_lossy_formats_are_close(tmp_path, suffix):
    image = gradient()
    photo.write(tmp_path / f"a{suffix}", image, photo.Photo(image))
    read = photo.read(tmp_path / f"a{suffix}")
    assert np.abs(read.image.astype(int) - image).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_stays_grey(tmp_path, suffix, mode):
    Image.fromarray(gradient()).convert(mode).save(tmp_path / "grey.png")
    read = photo.read(tmp_path / "grey.png")
    assert read.grey
    assert read.image.shape == (24, 40, 3)
    tinted = np.maximum(read.image, np.uint8([4, 0, 9]))
    photo.write(tmp_path / f"result{suffix}", tinted, read)
    with Image.open(tmp_path / f"result{suffix}") as image:
        assert image.mode == "L"
        expected = tinted @ [0.299, 0.587, 0.114]
        assert np.abs(np.asarray(image) - expected).max() < 8


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_kept(tmp_path, suffix, mode):
    alpha = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
    picture = Image.fromarray(gradient()).convert(mode[:-1])
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "in.png")
    read = photo.read(tmp_path / "in.png")
    assert read.grey == (mode == "LA")
    np.testing.assert_array_equal(read.alpha, alpha)
    assert photo.write(tmp_path / f"out{suffix}", read.image, read) == ()
    np.testing.assert_array_equal(photo.read(tmp_path / f"out{suffix}").alpha, alpha)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_lost_transparency_is_told(tmp_path, suffix):
    Image.fromarray(gradient()).convert("RGBA").save(tmp_path / "in.png")
    read = photo.read(tmp_path / "in.png")
    lost = photo.write(tmp_path / f"out{suffix}", read.image, read)
    assert lost == ("transparency",)
    assert photo.read(tmp_path / f"out{suffix}").alpha is None


def test_palettes(tmp_path):
    picture = Image.fromarray(gradient()).quantize(16)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "transparent.png", transparency=3)
    expected = np.asarray(picture.convert("RGB"))
    read = photo.read(tmp_path / "plain.png")
    np.testing.assert_array_equal(read.image, expected)
    assert read.alpha is None
    read = photo.read(tmp_path / "transparent.png")
    np.testing.assert_array_equal(read.alpha == 0, np.asarray(picture) == 3)
    np.testing.assert_array_equal(read.image, expected)


def test_cmyk_jpeg_without_its_profile(tmp_path):
    picture = Image.fromarray(gradient()).convert("CMYK")
    profile = bytearray(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    profile[16:20] = b"CMYK"
    picture.save(tmp_path / "in.jpg", quality=100, icc_profile=bytes(profile))
    read = photo.read(tmp_path / "in.jpg")
    assert read.metadata.icc_profile is None
    assert np.abs(read.image.astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_the_colour_profile_is_kept(tmp_path, suffix):
    profile = srgb_profile()
    Image.fromarray(gradient()).save(tmp_path / "in.png", icc_profile=profile)
    read = photo.read(tmp_path / "in.png")
    photo.write(tmp_path / f"out{suffix}", read.image, read)
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("row_filter", [0, 1])
def test_16_bits_are_not_truncated(tmp_path, channels, row_filter):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels))
    encoded = encode_png16(values.astype(np.uint16), row_filter=row_filter)
    (tmp_path / "deep.png").write_bytes(encoded)
    read = photo.read(tmp_path / "deep.png")
    assert read.image.dtype == np.float32
    assert read.grey == (channels == 1)
    colours = np.broadcast_to(values[..., :3], (5, 7, 3))
    np.testing.assert_allclose(read.image, colours / 65535, rtol=1e-6)
    if channels == 4:
        np.testing.assert_array_equal(read.alpha, np.rint(values[..., 3] / 257))
    lost = photo.write(tmp_path / "out.png", read.image, read)
    assert lost == ("8 of its 16 bits",)
    written = photo.read(tmp_path / "out.png").image
    np.testing.assert_array_equal(written, np.rint(colours / 257))


def test_16_bit_grey_with_alpha(tmp_path):
    values = np.full((3, 4, 2), (0x1234, 0xFFFF))
    (tmp_path / "deep.png").write_bytes(encode_png16(values.astype(np.uint16)))
    read = photo.read(tmp_path / "deep.png")
    np.testing.assert_allclose(read.image, 0x1234 / 65535, rtol=1e-6)
    assert (read.alpha == 255).all()


def test_exif_that_a_format_cannot_hold(tmp_path):
    exif = Image.Exif()
    exif[ARTIST] = "Ada"
    source = photo.Photo(gradient(), metadata=Metadata(exif=exif.tobytes()))
    assert photo.write(tmp_path / "a.bmp", source.image, source) == ("EXIF data",)
    exif[ARTIST] = "A" * 70_000
    source = photo.Photo(gradient(), metadata=Metadata(exif=exif.tobytes()))
    assert photo.write(tmp_path / "a.jpg", source.image, source) == ("EXIF data",)
    assert photo.write(tmp_path / "a.png", source.image, source) == ()


def test_damaged_exif_does_not_refuse_the_photo(tmp_path):
    data = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x05\x01\x12garbage"
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=data)
    assert photo.read(tmp_path / "a.jpg").image.shape == (24, 40, 3)


def test_unreadable_files(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is not an image"):
        photo.peek_size(text)
    cut = tmp_path / "cut.jpg"
    Image.fromarray(toys.photo(64, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"Cannot read .*cut\.jpg"):
        photo.read(cut)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png"):
        photo.read(tmp_path / "empty.png")
    Image.new("F", (3, 3), 255).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"floats from 255 to 255.*\[0, 1\]"):
        photo.read(tmp_path / "float.tif")
    with pytest.raises(FileNotFoundError):
        photo.read(tmp_path / "absent.png")


def test_large_photos_are_read_without_a_warning_and_huge_ones_refused(
    tmp_path, monkeypatch, recwarn
):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert photo.peek_size(tmp_path / "a.png") == (20, 30)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ValueError, match="megapixels"):
        photo.peek_size(tmp_path / "a.png")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    image = gradient()
    path = tmp_path / "a.png"
    photo.write(path, image, photo.Photo(image))
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(
        OSError, match=r"^Cannot write \S+a\.png: No space left on device\.$"
    ):
        photo.write(path, image // 2, photo.Photo(image))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_cannot_be_written(tmp_path):
    image = gradient()
    with pytest.raises(ValueError, match=r"\.gif.*\.png"):
        photo.write(tmp_path / "a.gif", image, photo.Photo(image))
    wide = np.zeros((1, 16_400, 3), np.uint8)
    with pytest.raises(ValueError, match=r"a\.webp.*16383"):
        photo.write(tmp_path / "a.webp", wide, photo.Photo(wide))
    with pytest.raises(OSError, match="Cannot write"):
        photo.write(tmp_path / "absent" / "a.png", image, photo.Photo(image))


def test_real_photos(shared, tmp_path):
    paths = [
        path
        for path in sorted((shared / "data" / "unpaired").rglob("*"))
        if path.suffix.lower() in photo.SUFFIXES
    ]
    assert {path.suffix for path in paths} == {".JPG", ".jpg", ".png", ".bmp"}
    for path in paths[::3] + [path for path in paths if " " in path.name]:
        read = photo.read(path)
        assert read.image.shape[:2] == photo.peek_size(path)
        photo.write(tmp_path / path.name, read.image, read)
        written = photo.read(tmp_path / path.name)
        assert written.metadata.icc_profile == read.metadata.icc_profile
        assert written.metadata.exif == read.metadata.exif
        assert np.abs(written.image.astype(int) - read.image).mean() < 2
