"""Dawn: what is particular to it; the contract suite tests the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import costs
from llie_jax.image.resize import adaptive_mean
from llie_jax.inference.enhancer import Enhancer
from llie_jax.models import base, dawn

TINY = {"name": "dawn", **base.card("dawn").tiny}

LARGEST_TONE = 0.6
"""How far the colour matrix can leave [0, 1]: two of its entries are at most 0.3."""


def build(scale=0.5, **fields):
    """A model, and random variables of the given scale."""
    model = llie_jax.build({**TINY, **fields})
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype),
        base.variable_shapes(model),
    )
    return model, variables


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.random((5, 5, 3))
    rows = np.linspace(0, 4.99, height).astype(int)
    columns = np.linspace(0, 4.99, width).astype(int)
    noise = 0.05 * rng.random((height, width, 3))
    return (0.9 * low[rows][:, columns] + noise).astype(np.float32)


def test_the_base_is_small():
    found = costs.count({"name": "dawn", **dawn.CARD.sizes["base"]}, (256, 256))
    assert found.params <= 150_000
    assert found.macs <= 1.5e9


def test_curves_rise_and_keep_black_and_white():
    x = jnp.linspace(0, 1, 2001)
    for basis in dawn.curve_bases(x):
        np.testing.assert_allclose(basis[jnp.array([0, -1])], [0, 1], atol=1e-4)
        assert np.all(np.diff(basis) >= -1e-7)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_tones_of_any_parameters_are_bounded_and_keep_black_and_white(scale):
    model, variables = build(scale)
    ramp = jnp.linspace(0, 1, 32)
    image = jnp.broadcast_to(ramp[None, None, :, None], (1, 32, 32, 3))
    toned = jax.jit(model.apply)(variables, image).aux["toned"]
    np.testing.assert_allclose(toned[:, :, 0], 0, atol=2e-3)
    np.testing.assert_allclose(toned[:, :, -1], 1, atol=2e-3)
    assert toned.min() > -LARGEST_TONE
    assert toned.max() < 1 + LARGEST_TONE


def test_brighter_pixels_stay_brighter_and_grey_stays_grey():
    """With equal curves for all channels, whatever the colour matrix."""
    grey = jnp.linspace(0, 1, 64)[None, None, :, None] * jnp.ones((1, 8, 1, 3))
    bases = len(dawn.curve_bases(grey))
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(0), (1, 1, 1, bases)))
    tones = {
        "curves": jnp.broadcast_to(weights, (1, 1, 3, bases)),
        "slopes": jnp.full((1, 1, 3), 3.0),
        "colour": dawn._colour_matrix(jnp.full((1, 3, 2), 0.7)),
    }
    toned = dawn.apply_tones(grey, tones, jnp.array([dawn.WHOLE]))
    assert np.all(np.diff(toned, axis=2) > 0)
    np.testing.assert_allclose(toned[..., 0], toned[..., 2], atol=1e-6)


def test_bending_keeps_the_ends_and_has_its_slope():
    x = jnp.array([0.0, 1e-4, 1.0])
    for slope in (0.25, 1.0, 4.0):
        bent = dawn.bend(x, slope)
        np.testing.assert_allclose(bent[jnp.array([0, 2])], [0, 1], atol=1e-6)
        np.testing.assert_allclose(bent[1] / x[1], slope, rtol=1e-3)


def test_flat_and_tiny_photos_stay_bounded():
    model, variables = build(1.0)
    enhancer = Enhancer(model, variables)
    for size in ((1, 1), (3, 7)):
        for colour in ((0, 0, 0), (90, 90, 90), (255, 255, 255), (255, 0, 0)):
            result = enhancer(np.full((*size, 3), colour, np.uint8), raw=True)
            assert result.shape == (*size, 3)
            bound = model.largest_residual + LARGEST_TONE
            assert result.min() > -bound
            assert result.max() < 1 + bound
            if colour in ((0, 0, 0), (255, 255, 255)):
                np.testing.assert_allclose(result, colour[0] / 255, atol=0.01)


def test_a_part_is_toned_as_in_its_photo():
    """A flipped crop with overview and window equals the crop of the toned photo."""
    model, variables = build(0.5)
    whole = jnp.asarray(photo(48, 64))[None]
    apply = jax.jit(model.apply)
    toned = apply(variables, whole).aux["toned"]
    rows, columns = slice(39, 15, -1), slice(8, 40)
    part = apply(
        variables,
        whole[:, rows, columns],
        overview=adaptive_mean(whole, (dawn.OVERVIEW,) * 2),
        window=jnp.array([[40 / 48, 8 / 64, 16 / 48, 40 / 64]]),
    ).aux["toned"]
    np.testing.assert_allclose(part, toned[:, rows, columns], atol=1e-4)


def test_tiles_equal_the_whole():
    model, variables = build(0.3)
    image = photo(96, 128)
    whole = Enhancer(model, variables)(image, raw=True)
    tiled = Enhancer(model, variables, tile=64, overlap=48, limit=64 * 64)
    assert tiled.plan(image.shape[:2]).tiles > 1
    difference = np.abs(tiled(image, raw=True) - whole)
    # The U-Net sees zeros beyond a tile's border, the blending hides most of that.
    assert np.median(difference) < 1e-3
    assert difference.mean() < 5e-3


def test_each_part_can_be_left_out():
    sizes = {
        name: costs.count({"name": "dawn", **fields}, (64, 64)).params
        for name, fields in dawn.CARD.sizes.items()
    }
    assert min(sizes, key=sizes.get) == "static"
    assert all(sizes[name] < sizes["base"] for name in sizes if name != "base")
