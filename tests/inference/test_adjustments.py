import numpy as np
import pytest

from llie_jax.image import color
from llie_jax.inference import adjustments
from llie_jax.inference.adjustments import RANGES, Adjustments
from tests.inference import toys


def luminance(image):
    return color.srgb_to_linear(image) @ np.array(color.LUMINANCE)


def toned(image, **options):
    image = np.asarray(image, np.float32)
    return Adjustments(**options).apply(np.zeros_like(image), image, 1.0)


def photo(*size):
    return toys.photo(*size) / np.float32(255)


def test_the_defaults_change_no_bit():
    result = photo(5, 7) * 3 - 1  # a model's output may leave [0, 1]
    assert Adjustments().apply(photo(5, 7), result, 1.0) is result


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_strength_mixes_in_srgb(kind):
    image = toys.photo(4, 6)
    unit = image / np.float32(255)
    given = image if kind is np.uint8 else unit
    result = np.ones_like(unit)
    mixed = Adjustments(strength=0.5).apply(given, result, 0.5)
    np.testing.assert_allclose(mixed, 0.75 * unit + 0.25, atol=1e-6)
    np.testing.assert_array_equal(Adjustments(strength=0).apply(given, result, 1), unit)


def test_saturation_acts_on_all_rows(monkeypatch):
    monkeypatch.setattr(adjustments, "_BLOCK", 100)  # some blocks of rows
    image = photo(17, 33)
    linear = color.srgb_to_linear(image.reshape(-1, 3))
    expected = color.linear_to_srgb(color.scale_chroma(linear, 1.5))
    found = toned(image, saturation=1.5)
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=1e-6)


def test_saturation_zero_is_grey_and_grey_stays_grey():
    grey = toned(photo(6, 5), saturation=0)
    np.testing.assert_allclose(grey.max(-1), grey.min(-1), atol=1e-6)
    np.testing.assert_allclose(toned(grey, saturation=2), grey, atol=1e-5)


def test_warmth_moves_red_and_blue_and_keeps_the_luminance_of_grey():
    grey = np.full((2, 2, 3), 0.5, np.float32)
    warm, cold = toned(grey, warmth=1), toned(grey, warmth=-1)
    red, _, blue = color.srgb_to_linear(warm[0, 0])
    assert red / blue == pytest.approx(2, rel=1e-4)  # half a stop up, half down
    red, _, blue = color.srgb_to_linear(cold[0, 0])
    assert red / blue == pytest.approx(0.5, rel=1e-4)
    for found in (warm, cold):
        np.testing.assert_allclose(luminance(found), luminance(grey), atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("channels", [(1, 1, 1), (1, 0, 0), (0, 0, 1), (1, 1, 0)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_extreme_photos_stay_finite_and_in_range(level, channels, size):
    image = level * np.array(channels, np.float32) / 255 * np.ones((*size, 1))
    for saturation in (0.0, 2.0):
        for warmth in (-1.0, 0.0, 1.0):
            found = toned(image, saturation=saturation, warmth=warmth)
            assert np.isfinite(found).all()
            assert found.min() >= 0
            assert found.max() <= 1
    if 0 in channels:  # at the limit of sRGB already
        np.testing.assert_allclose(toned(image, saturation=2), image, atol=0.02)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [-1.1, 2.1, float("nan"), float("inf")])
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.*out of range; give"):
        Adjustments(**{name: value})
