import numpy as np
import pytest

from llie_jax.data import synthetic
from llie_jax.inference import enhance, gate
from llie_jax.inference.enhancer import Enhancer
from tests.inference import toys


def level(value, size=(4, 6)):
    return np.full((*size, 3), value, np.uint8)


def test_the_gain_is_that_of_the_mean():
    image = np.array([[[10, 200, 30], [50, 0, 40]]], np.uint8)
    result = np.array([[[0.5, 2.0, 0.5], [0.5, -1.0, 0.5]]])  # clipped: mean 0.5
    for given in (image, image / np.float32(255)):
        found = gate.measure(given, result)
        assert found.before == pytest.approx(55 / 255)
        assert found.after == pytest.approx(0.5)
        assert found.gain == pytest.approx((127.5 + 1) / (55 + 1))


def test_the_curve_rises_from_zero_to_one_without_jumps():
    gains = np.geomspace(0.5, 4, 2001)
    after = 0.5
    befores = (after + 1 / 255) / gains - 1 / 255
    shares = np.array([gate.Exposure(before, after).share for before in befores])
    assert (shares[gains <= gate.CLOSED] == 0).all()
    assert (shares[gains >= gate.OPEN] == 1).all()
    assert (np.diff(shares) >= 0).all()
    assert np.diff(shares).max() < 0.02
    assert 0 < gate.Exposure(after / 1.2, after).share < 1


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize(("gain", "expected"), [(2.0, 120), (1.03, 60), (0.5, 60)])
def test_much_brighter_or_as_it_was(kind, gain, expected):
    image = level(60)
    if kind is np.float32:
        image = image / np.float32(255)
    found = enhance.enhance(toys.Gain(gain=gain), {}, image, gate=True)
    if kind is np.float32:
        found = found * 255
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_all_tiles_get_the_share_of_the_whole_photo():
    """The left tiles alone would be enhanced in full, the right ones not at all."""
    image = np.concatenate([level(5, (48, 48)), level(230, (48, 48))], axis=1)
    model, exposures = toys.Gain(gain=1.18), []
    enhancer = Enhancer(model, {}, gate=True, tile=24, overlap=8)
    tiled = enhancer(image, measured=exposures.append)
    (exposure,) = exposures
    assert 0 < exposure.share < 0.5
    full = np.minimum(image * 1.18, 255)
    expected = image + exposure.share * (full - image)
    np.testing.assert_allclose(tiled, expected, atol=0.51)
    whole = enhance.enhance(model, {}, image, gate=True)
    np.testing.assert_array_equal(tiled, whole)


def test_a_batch_has_a_share_for_each_image():
    images = [level(20), level(180), level(250)]
    enhancer = Enhancer(toys.Gain(), {}, gate=True, strength=0.5)
    for found, image in zip(enhancer.batch(images), images, strict=True):
        np.testing.assert_array_equal(found, enhancer(image))
    np.testing.assert_array_equal(enhancer(images[2]), images[2])


def test_nothing_is_measured_without_a_gate():
    for options in ({}, {"gate": True, "strength": 0.0}):
        exposures, image = [], level(20)
        Enhancer(toys.Gain(), {}, **options)(image, measured=exposures.append)
        assert exposures == []


def test_strength_zero_needs_no_model_and_reports_progress():
    calls, broken = [], toys.Gain(gain=float("nan"))  # an error if its output is used
    enhancer = Enhancer(broken, {}, strength=0, tile=16, overlap=4)
    image = toys.photo(40, 40)
    found = enhancer(image, progress=lambda: calls.append(1))
    np.testing.assert_array_equal(found, image)
    assert len(calls) == enhancer.plan((40, 40)).tiles > 1


def test_exposures_of_a_photo_come_out_nearly_in_order():
    """For a network that makes all of them equally bright, as the original.

    Where the gate begins to close, it must take some of the effect back.
    """
    photo = np.random.default_rng(0).integers(60, 256, (32, 32, 3), np.uint8)
    means = []
    for exposure in np.geomspace(0.1, 1, 60):
        image = synthetic.darken(photo, exposure=exposure, full_well=1e6)
        model = toys.Gain(gain=photo.mean() / image.mean())
        means.append(enhance.enhance(model, {}, image, gate=True).mean())
    assert means[-1] == pytest.approx(photo.mean(), abs=0.5)
    assert np.abs(np.diff(means)).max() < 5
    assert min(means) > 0.88 * photo.mean()


@pytest.mark.parametrize("colour", [0, 255, 128, (255, 0, 0), (60, 0, 0)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_extreme_photos_with_all_options(colour, size):
    image = np.full((*size, 3), colour, np.uint8)
    look = dict(strength=0.6, saturation=1.7, warmth=0.4)
    found = enhance.enhance(toys.Gain(), {}, image, gate=True, **look)
    assert found.shape == image.shape
    assert (found == found[0, 0]).all()  # no position differs from another
    red, _, blue = found[0, 0].astype(int)
    assert red >= blue  # warmer
    if colour in (0, 255):
        assert abs(red - colour) <= 1
