"""The loss on the variation of a map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.losses import gradient, structure_aware, variation


def test_by_hand():
    values = jnp.asarray([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]])
    maps = jnp.stack([values, jnp.full((2, 3), 0.5)])[..., None]
    rows, columns = (2 + 1 + 2) / 3, (1 + 3 + 0 + 0) / 4
    np.testing.assert_allclose(variation(maps), [rows + columns, 0], rtol=1e-6)
    rows, columns = (4 + 1 + 4) / 3, (1 + 9 + 0 + 0) / 4
    found = variation(maps, power=2)
    np.testing.assert_allclose(found, [rows + columns, 0], rtol=1e-6)


def test_at_a_distance():
    ramp = jnp.broadcast_to(jnp.arange(5.0), (1, 4, 5))[..., None]
    for distance in (1, 2, 3):
        found = variation(ramp, distance=distance)
        np.testing.assert_allclose(found, distance, rtol=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_of_a_flat_map(power):
    slope = jax.grad(lambda x: variation(x, power=power).sum())
    np.testing.assert_array_equal(slope(jnp.ones((1, 4, 4, 1))), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 3}, "the power is 1 or 2"),
        ({"distance": 0}, "the distance at least 1"),
        ({"distance": 3}, "a distance of 3; a map of 3 x 4 is too small"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        variation(jnp.ones((1, 3, 4, 1)), **options)


def test_gradients_are_compared_by_size():
    rising = jnp.broadcast_to(jnp.arange(4.0), (1, 3, 4))[..., None]
    np.testing.assert_allclose(gradient(rising, 5 - rising), 0)
    np.testing.assert_allclose(gradient(rising, 3 * rising), 2, rtol=1e-6)


def test_variation_at_edges_of_the_image_counts_less():
    step = jnp.where(jnp.arange(8) < 4, 0.0, 1.0)
    step = jnp.broadcast_to(step, (1, 8, 8))[..., None]
    flat = jnp.zeros_like(step)
    np.testing.assert_allclose(structure_aware(step, flat), variation(step), rtol=1e-6)
    found = structure_aware(step, step, sharpness=3.0)
    # Inside, a third of the 3x3 pixels are on the edge; at the border, two ninths.
    share = (6 * np.exp(-1) + 2 * np.exp(-2 / 3)) / 8
    np.testing.assert_allclose(found, share * variation(step), rtol=1e-5)


@pytest.mark.parametrize("loss", [gradient, structure_aware])
def test_shapes_that_differ(loss):
    with pytest.raises(ValueError, match="equal shapes"):
        loss(jnp.ones((1, 4, 4, 1)), jnp.ones((1, 4, 4, 3)))
    slope = jax.grad(lambda x: loss(x, x).sum())(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(slope, 0)
