import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.image import color


@pytest.mark.parametrize(
    ("rgb", "luma", "gray"),
    [
        ((0, 0, 0), 16, 0),
        ((1, 1, 1), 235, 1),
        ((1, 0, 0), 81.481, 0.299),
        ((0, 1, 0), 144.553, 0.587),
        ((0, 0, 1), 40.966, 0.114),
    ],
)
def test_primaries(rgb, luma, gray):
    image = np.array(rgb, np.float64)
    np.testing.assert_allclose(color.luma_bt601(image), luma, rtol=1e-12)
    np.testing.assert_allclose(color.gray(image), gray, rtol=1e-12)


def test_keeps_the_kind_and_precision_of_the_array():
    assert color.luma_bt601(np.ones((4, 5, 3), np.float32)).dtype == np.float32
    luma = color.luma_bt601(jnp.ones((2, 4, 5, 3)))
    assert isinstance(luma, jnp.ndarray)
    assert luma.shape == (2, 4, 5)


def test_refuses_8_bit_values_and_other_channels():
    with pytest.raises(TypeError, match="uint8"):
        color.luma_bt601(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\[4, 4, 1\]"):
        color.gray(np.zeros((4, 4, 1)))
