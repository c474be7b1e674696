"""Tests of reading and writing image files."""

import numpy as np
import pytest
from PIL import Image

from llie_jax.image import io

COLOURS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) * 4


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    path = tmp_path / f"name with space{suffix}"
    io.write_image(path, COLOURS)
    np.testing.assert_array_equal(io.read_rgb(path), COLOURS)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    io.write_image(tmp_path / f"a{suffix}", flat)
    back = io.read_rgb(tmp_path / f"a{suffix}")
    assert np.abs(back.astype(int) - flat).max() <= 4


def test_conversions_to_rgb(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    cases = {
        "grey": (Image.fromarray(grey), grey),
        "grey_alpha": (Image.fromarray(np.stack([grey, grey * 0], -1)), grey),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        got = io.read_rgb(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, -1), name)
    transparent = np.dstack([COLOURS, np.zeros((4, 5), np.uint8)])
    Image.fromarray(transparent).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(io.read_rgb(tmp_path / "alpha.png"), COLOURS)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "broken one.png"
    io.write_image(path, np.random.default_rng(0).integers(0, 255, (32, 32, 3), "u1"))
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"not an image", "empty": b""}[
            damage
        ]
    )
    with pytest.raises(ValueError, match=r"Cannot read .*broken one.png: "):
        io.read_rgb(path)


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.read_rgb(tmp_path / "absent.png")


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.Jpeg", "._a.jpg", "notes.txt", "d.webp"):
        (tmp_path / name).touch()
    found = [path.name for path in io.list_images(tmp_path)]
    assert found == ["a.jpg", "b.PNG", "c.Jpeg", "d.webp"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        io.list_images(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="is a file"):
        io.list_images(tmp_path / "a.jpg")


def test_bad_arguments_for_writing(tmp_path):
    with pytest.raises(TypeError, match="float32"):
        io.write_image(tmp_path / "a.png", np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        io.write_image(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"'.pngg'; files are written as .png"):
        io.write_image(tmp_path / "a.pngg", COLOURS)
    assert not list(tmp_path.iterdir())
