"""Residual halving and doubling: their parts; the models' goldens cover the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.image.resize import resize_bilinear
from llie_jax.nn import blur_resize, conv_kernels
from tests.nn.test_layers import assert_close, normal, value_and_gradients


def forms(function, *args):
    """Returns values and gradients of the CPU's form and of the native one."""
    found = value_and_gradients(function, *args)
    with conv_kernels.use_implementation("lax"):
        return found, value_and_gradients(function, *args)


@pytest.mark.parametrize("size", [(4, 6), (2, 2), (1, 5)])
def test_the_forms_of_the_doubling_convolution_agree(size):
    x, kernel = normal(0, 2, *size, 5), normal(1, 3, 3, 4, 5)
    with jax.default_matmul_precision("highest"):
        assert_close(*forms(blur_resize.doubling_conv_transpose, x, kernel))


def test_the_doubling_convolution_spreads_a_pixel():
    """Pixel (1, 0) of 2 x 2 reaches rows 1 to 3 and columns -1 to 1 of 4 x 4."""
    x = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(1.0)
    kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    found = blur_resize.doubling_conv_transpose(x, kernel)[0, :, :, 0]
    expected = [[0, 0, 0, 0], [2, 3, 0, 0], [5, 6, 0, 0], [8, 9, 0, 0]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(4, 6), (2, 2), (8, 2)])
def test_the_forms_of_the_blur_agree(size):
    assert_close(*forms(blur_resize.halving_blur, normal(0, 2, *size, 3)))


def test_the_blur_by_hand():
    row = jnp.asarray([4.0, 8.0, 0.0, 16.0])
    x = jnp.broadcast_to(row[None, None, :, None], (1, 2, 4, 1))
    # (8 + 2 * 4 + 8) / 4, with the second pixel reflected, and (8 + 2 * 0 + 16) / 4.
    np.testing.assert_array_equal(blur_resize.halving_blur(x)[0, 0, :, 0], [6, 6])


@pytest.mark.parametrize("size", [(3, 5), (1, 2)])
def test_double_interpolates_between_centres(size):
    x = normal(0, 2, *size, 3)
    expected = resize_bilinear(x, (2 * size[0], 2 * size[1]))
    np.testing.assert_allclose(blur_resize.Double().apply({}, x), expected, atol=1e-6)
