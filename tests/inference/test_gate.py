import numpy as np
import pytest

from llie_jax.data import synthetic
from llie_jax.inference import enhance, gate
from llie_jax.inference.enhancer import Enhancer
from tests.inference import toys


def level(value, size=(4, 6)):
    return np.full((*size, 3), value, np.uint8)


def test_brightness_is_the_mean_of_the_largest_channel():
    image = np.array([[[10, 200, 30], [50, 0, 51]]], np.uint8)
    assert gate.measure(image).brightness == pytest.approx((200 + 51) / 2 / 255)
    unit = image / np.float32(255)
    assert gate.measure(unit).brightness == pytest.approx((200 + 51) / 2 / 255)


def test_the_curve_falls_from_one_to_zero_without_jumps():
    brightness = np.linspace(0, 1, 2001)
    shares = np.array([gate.Exposure(b).share for b in brightness])
    assert (shares[brightness <= gate.OPEN] == 1).all()
    assert (shares[brightness >= gate.CLOSED] == 0).all()
    assert (np.diff(shares) <= 0).all()
    assert np.diff(shares).min() > -0.01
    assert 0 < gate.Exposure((gate.OPEN + gate.CLOSED) / 2).share < 1


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_dark_photos_get_all_and_bright_ones_nothing(kind):
    for value, expected in ((20, 40), (180, 180)):
        image = level(value)
        if kind is np.float32:
            image = image / np.float32(255)
        found = enhance.enhance(toys.Gain(), {}, image, gate=True)
        if kind is np.float32:
            found = found * 255
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_closed_gate_needs_no_model_and_reports_progress():
    calls = []
    broken = toys.Gain(gain=float("nan"))  # an error if its output is used
    enhancer = Enhancer(broken, {}, gate=True, tile=16, overlap=4)
    image = toys.photo(40, 40, seed=3) // 8 + 200
    found = enhancer(image, progress=lambda: calls.append(1))
    np.testing.assert_array_equal(found, image)
    assert len(calls) == enhancer.plan((40, 40)).tiles > 1
    assert enhancer.share(image) == 0
    assert Enhancer(broken, {}).share(image) == 1


def test_all_tiles_get_the_share_of_the_whole_photo():
    image = np.concatenate([level(5, (48, 48)), level(150, (48, 48))], axis=1)
    share = gate.measure(image).share
    assert 0 < share < 1
    options = dict(gate=True, tile=24, overlap=8)
    tiled = enhance.enhance(toys.Gain(), {}, image, **options)
    np.testing.assert_allclose(tiled, image * (1 + share), atol=0.51)
    np.testing.assert_array_equal(
        tiled, enhance.enhance(toys.Gain(), {}, image, gate=True)
    )


def test_a_batch_has_a_share_for_each_image():
    images = [level(20), level(180), level(80)]
    enhancer = Enhancer(toys.Gain(), {}, gate=True, strength=0.5)
    for found, image in zip(enhancer.batch(images), images, strict=True):
        np.testing.assert_array_equal(found, enhancer(image))


def test_exposures_of_a_photo_come_out_in_order():
    rng = np.random.default_rng(0)
    photo = rng.integers(60, 256, (32, 32, 3), np.uint8)
    means = [
        enhance.enhance(
            toys.Gain(gain=1.2),
            {},
            synthetic.darken(photo, exposure=exposure, full_well=1e6),
            gate=True,
        ).mean()
        for exposure in np.geomspace(0.03, 1, 12)
    ]
    assert (np.diff(means) > 0).all()


@pytest.mark.parametrize("colour", [0, 255, 128, (255, 0, 0), (60, 0, 0)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_extreme_photos_with_all_options(colour, size):
    image = np.full((*size, 3), colour, np.uint8)
    look = dict(strength=0.6, saturation=1.7, warmth=0.4)
    found = enhance.enhance(toys.Gain(), {}, image, gate=True, **look)
    assert found.shape == image.shape
    assert (found == found[0, 0]).all()  # no position differs from another
    expected = {0: 0, 255: 255, 128: 128}.get(colour) if size == (1, 1) else None
    if expected is not None:
        red, _, blue = found[0, 0].astype(int)
        assert red >= blue  # warmer
        assert abs(found[0, 0].astype(int).max() - expected) <= 20
