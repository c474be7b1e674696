"""Overviews of photos, and where parts lie in them."""

import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.image import overview


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (7, 5), (1, 300)])
def test_an_overview_keeps_the_mean_of_a_flat_photo(size):
    photo = np.full((*size, 3), 51, np.uint8)
    small = overview.overview(photo, 4)
    assert small.shape == (4, 4, 3)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, 0.2, atol=1e-6)


def test_cells_are_means():
    photo = np.arange(16, dtype=np.float32).reshape(4, 4, 1).repeat(3, -1) / 16
    small = overview.overview(photo, 2)
    np.testing.assert_allclose(16 * small[..., 0], [[2.5, 4.5], [10.5, 12.5]])


def test_windows_of_upright_and_flipped_parts():
    rows = np.array([[2, 3], [3, 2]])
    columns = np.array([[5, 6, 7], [7, 6, 5]])
    found = overview.window(rows, columns, np.array([[4, 10], [8, 8]]))
    np.testing.assert_allclose(
        found, [[0.5, 0.5, 1.0, 0.8], [0.5, 1.0, 0.25, 0.625]], atol=1e-7
    )


def test_a_mirrored_part_is_upright_in_the_mirrored_photo():
    photo = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
    window = np.array([[0.75, 1.0, 0.25, 0.25], [0.0, 0.25, 1.0, 0.5]], np.float32)
    small, place = overview.mirrored(photo, window)
    np.testing.assert_array_equal(small, [photo[0, :, ::-1], photo[1]])
    np.testing.assert_allclose(place, [[0.75, 0.0, 0.25, 0.75], window[1]])


def test_coordinates_are_those_of_the_pixels():
    """A pixel has the same coordinates in its photo and in any part of it."""
    rows, columns = np.array([[6, 5, 4, 3]]), np.array([[2, 3]])
    window = overview.window(rows, columns, np.array([[8, 5]]))
    down, across = overview.coordinates(jnp.asarray(window), (4, 2))
    np.testing.assert_allclose(down, (rows + 0.5) / 8, atol=1e-6)
    np.testing.assert_allclose(across, (columns + 0.5) / 5, atol=1e-6)
