"""The signal-to-noise map."""

import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.image.snr import box_blur, snr_map


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def test_golden(golden):
    file = np.load(golden / "snrnet_small.npz")
    image = jnp.asarray(nhwc(file["input"]))
    np.testing.assert_allclose(box_blur(image), nhwc(file["blur"]), atol=1e-6)
    np.testing.assert_allclose(snr_map(image), nhwc(file["mask"]), atol=5e-4)


def test_blur_by_hand():
    """Reflection counts a corner pixel once, its diagonal neighbour four times."""
    image = jnp.zeros((1, 8, 8, 1)).at[0, 0, 0, 0].set(25.0)
    blurred = box_blur(image)[0, :, :, 0]
    assert blurred[0, 0] == pytest.approx(1.0)
    assert blurred[2, 2] == pytest.approx(1.0)
    assert blurred[3, 0] == 0
    image = jnp.zeros((1, 8, 8, 1)).at[0, 1, 1, 0].set(25.0)
    assert box_blur(image)[0, 0, 0, 0] == pytest.approx(4.0)


def test_flat_images():
    levels = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    found = snr_map(jnp.broadcast_to(levels, (3, 6, 7, 3)))
    assert found.shape == (3, 6, 7, 1)
    np.testing.assert_array_equal(found[0], 0)
    assert np.all(np.isfinite(found))
    assert np.all(np.max(found[1:], axis=(1, 2, 3)) > 0.99)


def test_each_image_has_its_own_largest_value():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((2, 9, 8, 3)), jnp.float32)
    np.testing.assert_allclose(snr_map(images)[1:], snr_map(images[1:]), atol=1e-6)


def test_too_small():
    with pytest.raises(ValueError, match="image is 2 x 8"):
        box_blur(jnp.zeros((1, 2, 8, 3)))
