"""What files say beside their pixels: kept in another file, or said to be lost."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from llie_jax.image import reading
from llie_jax.inference import photo
from tests.image import files

XMP = b"<x:xmpmeta tiff:Orientation='6' a='1'><b/></x:xmpmeta>"
ARTIST = 0x013B
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def full_jpeg() -> bytes:
    """A JPEG with everything that a JPEG has a place for."""
    exif = files.turned(6)
    exif[ARTIST] = "Ada"
    return files.saved(
        Image.fromarray(files.smooth()),
        "JPEG",
        exif=exif,
        icc_profile=PROFILE,
        xmp=XMP,
        comment=b"hello",
        dpi=(300, 300),
    )


def full_png(**chunks) -> bytes:
    """A PNG with text and colour chunks."""
    before = b"".join(files.chunk(k.encode(), v) for k, v in chunks.items())
    text = files.chunk(b"tEXt", b"Description\0my photo")
    return files.png(files.colours(), bits=8, before=before, after=text)


def rewritten(tmp_path, data, suffix):
    """What a photo's file says after the photo was written in another format."""
    source, target = tmp_path / "in.img", tmp_path / f"out{suffix}"
    source.write_bytes(data)
    read = photo.read(source)
    lost = photo.write(target, read.image, read)
    with Image.open(target) as image:
        image.load()
        return image, lost


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif", ".bmp"])
def test_a_full_jpeg_is_kept_or_said_to_be_lost(tmp_path, suffix):
    image, lost = rewritten(tmp_path, full_jpeg(), suffix)
    exif = image.getexif()
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    assert image.size == (24, 40)
    assert exif.get(ARTIST) == (None if suffix == ".bmp" else "Ada")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    xmp = xmp if isinstance(xmp, bytes) else xmp.encode()
    dpi = [round(value) for value in image.info.get("dpi", (0, 0))]
    found = {
        "EXIF data": exif.get(ARTIST) == "Ada",
        "the colour profile": image.info.get("icc_profile") == PROFILE,
        "XMP data": b"a='1'" in xmp and b"Orientation" not in xmp,
        "the resolution (dpi)": dpi == [300, 300],
        "the comment": "hello" in str(image.info.get("comment"))
        or image.info.get("Comment") == "hello",
    }
    assert {name for name, kept in found.items() if not kept} == set(lost)
    assert not (suffix == ".jpg" and lost)


def test_the_chunks_of_a_png_stay_in_a_png(tmp_path):
    data = full_png(gAMA=(100_000).to_bytes(4, "big"), cICP=bytes([12, 16, 0, 1]))
    image, lost = rewritten(tmp_path, data, ".png")
    assert lost == ()
    assert image.info["Description"] == "my photo"
    assert image.info["gamma"] == 1.0
    content = (tmp_path / "out.png").read_bytes()
    assert files.chunk(b"cICP", bytes([12, 16, 0, 1])) in content
    assert content.index(b"cICP") < content.index(b"IDAT")
    _, lost = rewritten(tmp_path, data, ".jpg")
    assert lost == (
        "text",
        "the gamma value (gAMA)",
        "colour information (cICP)",
    )


@pytest.mark.parametrize("primaries", [(1, 13), (1, 1)])
def test_the_usual_colours_need_no_note(tmp_path, primaries):
    data = full_png(cICP=bytes([*primaries, 0, 1]))
    assert rewritten(tmp_path, data, ".webp")[1] == ("text",)


def test_a_profile_that_does_not_fit_is_said_to_be_lost(tmp_path):
    picture = Image.fromarray(files.smooth()).convert("L")
    data = files.saved(picture, "PNG", icc_profile=PROFILE)
    image, lost = rewritten(tmp_path, data, ".png")
    assert lost == ("its RGB colour profile",)
    assert "icc_profile" not in image.info


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_further_pictures_are_said_to_be_lost(tmp_path, kind):
    frames = [Image.fromarray(files.colours(seed=seed)) for seed in range(3)]
    data = files.saved(frames[0], kind, save_all=True, append_images=frames[1:])
    _, lost = rewritten(tmp_path, data, ".png")
    assert "2 of its pictures" in lost


def test_long_text_of_a_png_is_said_to_be_lost(tmp_path):
    import zlib

    long = files.chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3_000_000)))
    data = files.png(files.colours(), bits=8, before=long)
    image, lost = rewritten(tmp_path, data, ".png")
    assert lost == ("text that is too long",)
    np.testing.assert_array_equal(np.asarray(image), files.colours())


def test_the_colours_of_an_avif_become_those_of_a_png(tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    data = codecs.avif_encode(
        files.smooth(), level=95, primaries=12, transfer=13, matrix=1
    )
    assert b"colrnclx\0\x0c\0\x0d" in data
    rewritten(tmp_path, data, ".png")
    expected = files.chunk(b"cICP", bytes([12, 13, 0, 1]))
    assert expected in (tmp_path / "out.png").read_bytes()
    assert "colour information (cICP)" in rewritten(tmp_path, data, ".jpg")[1]


def test_iptc_data_are_said_to_be_lost(tmp_path):
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x04\x1c\x02\x05\0"
    segment = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    data = files.saved(Image.fromarray(files.smooth()), "JPEG")
    data = data[:2] + segment + data[2:]
    assert "IPTC data" in rewritten(tmp_path, data, ".jpg")[1]
    assert io.BytesIO(data)


def test_damaged_exif_data_are_said(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 6)).save(path, exif=b"Exif\0\0damaged, no TIFF")
    assert any("damaged" in lost for lost in reading.read(path).metadata.lost)
    Image.new("RGB", (8, 6)).save(path)
    assert reading.read(path).metadata.lost == ()
