"""The losses without references: official values, definitions and limits."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax import losses, registry
from tests.official import nhwc

MATRIX = np.array(
    [[0.257, -0.148, 0.439], [0.564, -0.291, -0.368], [0.098, 0.439, -0.071]]
)
BIAS = np.array([16, 128, 128]) / 255


def images(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def assert_zero_dce(path, smoothness):
    arrays = dict(np.load(path))
    image, output = nhwc(arrays["input"]), nhwc(arrays["output"])
    curves = nhwc(arrays["curves"])
    variation = losses.total_variation(curves, mean_channels=False)
    for name, found in (
        ("spa", losses.spatial_consistency(output, image)),
        ("exp", 10 * losses.exposure(output)),
        ("col", 5 * losses.colour_constancy(output)),
        ("tv", smoothness * variation),
    ):
        wanted = arrays[f"loss:{name}"]
        np.testing.assert_allclose(found, [wanted], rtol=1e-5, err_msg=name)


def test_official_values_of_zero_dce(golden):
    assert_zero_dce(golden / "zerodce_random.npz", 200)


@pytest.mark.parametrize(
    ("file", "smoothness"), [("zerodce_epoch99", 200), ("zerodcepp_epoch99", 1600)]
)
def test_official_values_of_published_weights(shared, file, smoothness):
    assert_zero_dce(shared / "golden" / f"{file}.npz", smoothness)


def test_official_values_of_ruas(golden):
    arrays = dict(np.load(golden / "ruas_random.npz"))
    image, illumination = nhwc(arrays["input"]), nhwc(arrays["t2"])
    denoised, enhanced = nhwc(arrays["denoised"]), nhwc(arrays["u2"])
    smoothness = functools.partial(losses.edge_aware_smoothness, separate_means=True)
    enhance = 0.5 * losses.mse(illumination, image)
    enhance += jax.jit(smoothness)(illumination, image)
    np.testing.assert_allclose(enhance, [arrays["loss:enhance"]], rtol=1e-5)
    denoise = 1e-7 * losses.mse(denoised, enhanced) + losses.total_variation(denoised)
    np.testing.assert_allclose(denoise, [arrays["loss:denoise"]], rtol=1e-5)


@pytest.mark.parametrize("name", ["easy", "medium", "difficult"])
def test_official_values_of_sci(shared, name):
    arrays = dict(np.load(shared / "golden" / f"sci_{name}.npz"))
    image, illumination = nhwc(arrays["input"]), nhwc(arrays["illumination"])
    np.testing.assert_allclose(
        1.5 * losses.mse(illumination, image),
        [arrays["loss:eval_stage0_fidelity"]],
        rtol=1e-5,
    )
    found = jax.jit(losses.edge_aware_smoothness)(illumination, image)
    np.testing.assert_allclose(found, [arrays["loss:eval_stage0_smooth"]], rtol=1e-5)


def to_ycbcr(image, ycbcr):
    """The definition, for one image [H, W, 3] in float64."""
    if ycbcr == "correct":
        return image @ MATRIX + BIAS
    values = image.transpose(2, 0, 1).ravel()
    converted = [values[i : i + 3] @ MATRIX + BIAS for i in range(0, values.size, 3)]
    return np.concatenate(converted).reshape(3, *image.shape[:2]).transpose(1, 2, 0)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("ycbcr", ["reference", "correct"])
def test_smoothness_is_its_definition(ycbcr, separate):
    illumination, image = images(2, 2, 5, 7, 3).astype(np.float64)
    image *= 9  # so that the weights matter
    wanted = []
    for light, photo in zip(illumination, image, strict=True):
        colours, total = to_ycbcr(photo, ycbcr), 0
        for rows in range(-2, 3):
            for columns in range(-2, 3):
                weights, changes = [], []
                for (row, column), _ in np.ndenumerate(colours[..., 0]):
                    other = row + rows, column + columns
                    inside = 0 <= other[0] < 5 and 0 <= other[1] < 7
                    if not inside or (rows, columns) == (0, 0):
                        continue
                    distance = np.sum((colours[row, column] - colours[other]) ** 2)
                    weights.append(np.exp(-distance / 200))
                    changes.append(np.abs(light[row, column] - light[other]))
                if not weights:
                    continue
                if separate:
                    total += np.mean(weights) * np.mean(changes)
                else:
                    total += np.mean(np.array(weights) * np.sum(changes, axis=1))
        wanted.append(total)
    smoothness = functools.partial(
        losses.edge_aware_smoothness, ycbcr=ycbcr, separate_means=separate
    )
    found = jax.jit(smoothness)(jnp.float32(illumination), jnp.float32(image))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_exposure_by_hand():
    image = np.zeros((2, 5, 4, 3), np.float32)
    image[0, :2] = 1.0  # the first of two rows of cells; the last row is cut off
    image[1, :4] = 0.6
    found = losses.exposure(jnp.asarray(image), cell=2)
    np.testing.assert_allclose(found, [(0.4**2 + 0.6**2) / 2, 0], atol=1e-7)


def test_spatial_consistency_by_hand():
    image = jnp.zeros((1, 8, 8, 3))
    bright = image.at[:, :4, :4].set(0.3)
    # The first of 2 x 2 cells differs from its neighbours, two of them outside.
    wanted = (4 * 0.3**2 + 2 * 0.3**2) / 4
    found = losses.spatial_consistency(bright, image)
    np.testing.assert_allclose(found, [wanted], rtol=1e-5)
    np.testing.assert_array_equal(losses.spatial_consistency(bright, bright), 0)


def test_colour_constancy_by_hand():
    image = jnp.broadcast_to(jnp.asarray([0.5, 0.3, 0.3]), (1, 4, 4, 3))
    found = losses.colour_constancy(image)
    np.testing.assert_allclose(found, [np.sqrt(2) * 0.2**2], rtol=1e-5)


def test_total_variation_by_hand():
    image = jnp.zeros((1, 2, 3, 2)).at[0, 0, 0].set(jnp.asarray([1.0, 2.0]))
    squares = 1.0 + 4.0
    summed = 2 * (squares / 3 + squares / 4)
    found = losses.total_variation(image, mean_channels=False)
    np.testing.assert_allclose(found, [summed], rtol=1e-6)
    np.testing.assert_allclose(losses.total_variation(image), [summed / 2], rtol=1e-6)
    with pytest.raises(ValueError, match="a map of 1 x 3 is too small"):
        losses.total_variation(image[:, :1])


LOSSES = {
    "spatial_consistency": losses.spatial_consistency,
    "exposure": lambda x, _: losses.exposure(x),
    "colour_constancy": lambda x, _: losses.colour_constancy(x),
    "total_variation": lambda x, _: losses.total_variation(x),
    "edge_aware_smoothness": losses.edge_aware_smoothness,
}


@pytest.mark.parametrize("name", LOSSES)
def test_batches_and_gradients(name):
    loss = LOSSES[name]
    flat = np.broadcast_to(np.float32([0, 0.5, 1])[:, None, None, None], (3, 16, 17, 3))
    first = jnp.concatenate([flat, images(2, 16, 17, 3)])
    second = jnp.concatenate([images(3, 16, 17, 3), flat[:2]])

    @jax.jit
    def run(x, y):
        values, pullback = jax.vjp(loss, x, y)
        return values, pullback(jnp.ones_like(values))

    values, gradients = run(first, second)
    chex.assert_shape(values, (5,))
    chex.assert_tree_all_finite((values, gradients))
    assert np.all(values >= 0)
    alone, _ = run(first[3:4], second[3:4])
    np.testing.assert_allclose(values[3:4], alone, rtol=1e-5)


def test_cards():
    compares = {name: registry.get(name, kind="loss").card for name in LOSSES}
    assert {name for name, card in compares.items() if card.needs_target} == {
        "spatial_consistency",
        "edge_aware_smoothness",
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: losses.exposure(x), "are 8 x 9, but the loss averages cells of 16"),
        (lambda x: losses.exposure(x, cell=0), "cells of 0 x 0"),
        (lambda x: losses.spatial_consistency(x, x[:, 1:]), "equal shapes"),
        (lambda x: losses.edge_aware_smoothness(x, x, ycbcr="corect"), "'correct'"),
        (lambda x: losses.edge_aware_smoothness(x[..., :1], x[..., :1]), "needs .*3]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((1, 8, 9, 3)))
