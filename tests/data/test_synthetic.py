"""Tests of the sensor model and of the sets made with it."""

import numpy as np
import pytest
from PIL import Image

from llie_jax import data
from llie_jax.data import synthetic
from llie_jax.image import color, io
from tests.data import trees

NOISELESS = {"full_well": 1e9, "read_noise": 0.0, "bits": 16}


def grey(value: int, size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_full_exposure_without_noise_changes_nothing():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 2, 3))
    dark = synthetic.darken(ramp, exposure=1.0, **NOISELESS)
    np.testing.assert_array_equal(dark, ramp)


def test_exposure_acts_on_linear_light():
    # sRGB 188 is linear 0.503; a quarter of it, 0.1257, is sRGB 99.
    dark = synthetic.darken(grey(188), exposure=0.25, **NOISELESS)
    np.testing.assert_array_equal(dark, 99)


def test_srgb_curve_is_its_own_inverse():
    values = np.linspace(0, 1, 1001)
    back = color.linear_to_srgb(color.srgb_to_linear(values))
    np.testing.assert_allclose(back, values, atol=1e-6)
    assert color.srgb_to_linear(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)


def test_noise_has_the_stated_variance():
    exposure, full_well, read_noise = 0.2, 2000.0, 6.0
    dark = synthetic.darken(
        grey(255, 256),
        exposure=exposure,
        full_well=full_well,
        read_noise=read_noise,
        bits=16,
    )
    electrons = color.srgb_to_linear(dark / 255) * full_well
    assert electrons.mean() == pytest.approx(exposure * full_well, rel=0.01)
    expected = exposure * full_well + read_noise**2  # Poisson and Gaussian
    assert electrons.var() == pytest.approx(expected, rel=0.05)


def test_quantisation():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 1, 3))
    dark = synthetic.darken(ramp, exposure=1.0, full_well=1e9, read_noise=0, bits=2)
    linear = color.srgb_to_linear(np.unique(dark) / 255)
    np.testing.assert_allclose(linear, [0, 1 / 3, 2 / 3, 1], atol=0.005)


def test_noise_is_seeded():
    photo = trees.image(0, 16, 16)
    one, same, other = (synthetic.darken(photo, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exposure": 0.0}, "exposure=0.0"),
        ({"exposure": 1.5}, "exposure=1.5"),
        ({"full_well": 0}, "full_well=0"),
        ({"read_noise": -1}, "read_noise=-1"),
        ({"bits": 17}, "bits=17"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic.darken(grey(100), **options)


def test_wrong_arrays():
    with pytest.raises(TypeError, match="float64"):
        synthetic.darken(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"\[4, 4\]"):
        synthetic.darken(np.zeros((4, 4), np.uint8))


def test_pairs_of_own_photos(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    io.write_image(photos / "my photo.png", trees.image(0, 10, 12))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    Image.fromarray(trees.image(1, 10, 12)).save(photos / "phone.JPG", exif=exif)

    assert synthetic.darken_folder(photos, tmp_path / "one") == 2
    source = data.open_source(tmp_path / "one")
    assert list(source.names) == ["my photo", "phone"]
    np.testing.assert_array_equal(source[0]["target"], trees.image(0, 10, 12))
    assert source[1]["image"].shape == (12, 10, 3)
    assert source[0]["image"].mean() < source[0]["target"].mean() / 2

    count = synthetic.darken_folder(photos, tmp_path / "two", exposures=(0.03, 0.1))
    assert count == 4
    names = list(data.open_source(tmp_path / "two").names)
    assert names[:2] == ["my photo-e0.03", "my photo-e0.1"]

    with pytest.raises(ValueError, match="already contains"):
        synthetic.darken_folder(photos, tmp_path / "one")


def test_own_photos_that_cannot_be_used(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(ValueError, match="no photos"):
        synthetic.darken_folder(photos, tmp_path / "out")
    io.write_image(photos / "a.png", trees.image(0))
    (photos / "b.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"Cannot read .*b.png"):
        synthetic.darken_folder(photos, tmp_path / "out")
    # No partial result is left, so the next attempt succeeds.
    assert not list((tmp_path / "out").iterdir())
    io.write_image(photos / "b.png", trees.image(0))
    io.write_image(photos / "a.bmp", trees.image(0))
    with pytest.raises(ValueError, match="make the same pair"):
        synthetic.darken_folder(photos, tmp_path / "out")


def test_demo(tmp_path):
    pytest.importorskip("skimage", reason="the photographs are scikit-image's")
    counts = synthetic.write_demo(tmp_path / "lowlight_demo")
    train, test = (
        data.open_source("lowlight_demo", root=tmp_path / "lowlight_demo", split=split)
        for split in ("train", "test")
    )
    assert counts == {"train": len(train), "test": len(test)} == train.expected_counts
    assert not set(train.scenes) & set(test.scenes)
    assert sum(scene == "motorcycle" for scene in train.scenes) == 36  # both views
    np.testing.assert_array_equal(np.unique(train.sizes()), [192])
    errors = [np.mean((p["image"].astype(float) - p["target"]) ** 2) for p in test]
    psnr = 10 * np.log10(255**2 / np.array(errors))
    assert 8 < psnr.mean() < 10  # as dark as LOL
    # References are the photographs' own pixels, and one tile has three exposures.
    targets = (test.image(index, "target") for index in range(len(test)))
    assert len({target.tobytes() for target in targets}) == 6
    with pytest.raises(ValueError, match="already contains"):
        synthetic.write_demo(tmp_path / "lowlight_demo")


def test_demo_without_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-image"):
        synthetic.write_demo(tmp_path)
