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


def oklab(linear):
    """Lightness, a and b, with the matrices of Ottosson's page."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ cones.T) @ lab.T


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5, 2.0])
def test_chroma_is_scaled_in_oklab(factor):
    linear = np.random.default_rng(0).random((500, 3), np.float32)
    found = color.scale_chroma(linear, factor)
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = oklab(linear), oklab(found)
    np.testing.assert_allclose(after[:, 0], before[:, 0], atol=2e-3)
    factors = (before * after)[:, 1:].sum(-1) / (before[:, 1:] ** 2).sum(-1)
    # One factor for both: the hue stays.
    np.testing.assert_allclose(
        after[:, 1:], factors[:, None] * before[:, 1:], atol=4e-3
    )
    inside = ((found > 0.03) & (found < 0.97)).all(-1)
    assert inside.sum() > 10
    np.testing.assert_allclose(factors[inside], factor, atol=0.01)
    assert factors.max() <= factor + 0.01
    if factor > 1:
        assert factors.min() > 0.95  # a limit of sRGB takes no colour away


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 0, 1)])
def test_chroma_at_the_limits_of_srgb(colour):
    pixel = np.array([colour], np.float32)
    np.testing.assert_allclose(color.scale_chroma(pixel, 2), pixel, atol=2e-3)
    grey = color.scale_chroma(pixel, 0)
    np.testing.assert_allclose(grey, grey[:, :1].repeat(3, -1), atol=1e-5)
