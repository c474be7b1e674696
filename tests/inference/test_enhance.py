import itertools

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn

from llie_jax.inference import enhance, tiling
from llie_jax.inference.enhancer import Enhancer
from llie_jax.models.base import Model
from tests.inference import toys


def plan(model, size, **options):
    return Enhancer(model, {}, **options).plan(size).grid


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (8, 8), (13, 30)])
def test_any_size_and_rounding(size):
    image = toys.photo(*size)
    result = enhance.enhance(toys.Gain(), {}, image)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.minimum(2 * image.astype(int), 255))


def test_float_in_float_out():
    image = np.linspace(0, 0.75, 60).reshape(4, 5, 3)
    result = enhance.enhance(toys.Gain(), {}, image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.minimum(2 * image, 1), rtol=1e-6)
    unclipped = enhance.enhance(toys.Gain(), {}, image, clip=False)
    np.testing.assert_allclose(unclipped, 2 * image, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_tiles_change_nothing_for_a_pointwise_model(kind):
    image = toys.photo(45, 77)
    if kind is np.float32:
        image = image / np.float32(255)
    whole = enhance.enhance(toys.Gain(), {}, image)
    tiled = enhance.enhance(toys.Gain(), {}, image, tile=24, overlap=8)
    if kind is np.uint8:
        np.testing.assert_array_equal(tiled, whole)
    else:
        np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_tiles_of_a_local_model_differ_only_at_their_edges():
    image = toys.photo(48, 80) / np.float32(255)
    options = dict(tile=32, overlap=8)
    whole = enhance.enhance(toys.Blur(), {}, image)
    tiled = enhance.enhance(toys.Blur(), {}, image, **options)
    grid = plan(toys.Blur(), (48, 80), **options)
    edge = np.zeros((48, 80), bool)
    for starts, lines in ((grid.rows, edge), (grid.columns, edge.T)):
        for start, following in itertools.pairwise(starts):
            lines[following] = lines[start + 31] = True
    np.testing.assert_allclose(tiled[~edge], whole[~edge], atol=1e-6)
    # There the blending weight is small: an error of a third becomes one of 1 %.
    np.testing.assert_allclose(tiled[edge], whole[edge], rtol=0.02)


def test_no_seam_where_tiles_disagree():
    image = toys.photo(128, 192) / np.float32(255)
    image[:, 83:] *= 0.6  # the mean of the tiles, hence their gain, differs
    options = dict(tile=64, overlap=24)
    tiled = enhance.enhance(toys.Normalize(), {}, image, **options)
    whole = enhance.enhance(toys.Normalize(), {}, image)
    assert np.abs(tiled - whole).max() > 0.05
    grid = plan(toys.Normalize(), (128, 192), **options)
    assert tiling.seam_ratio(tiled, grid) < 1.1


def test_the_plan_follows_the_limit():
    model = toys.Gain()
    assert len(plan(model, (100, 100), tile=100)) == 1
    assert len(plan(model, (100, 101), tile=96)) > 1
    assert len(plan(model, (100, 101), tile=96, limit=float("inf"))) == 1
    assert len(plan(model, (40, 40), tile=24, overlap=8, limit=0)) == 4
    # A narrow photo has tiles of its own height.
    assert plan(model, (9, 3000), tile=64, overlap=8).tile == (16, 64)


def test_one_compilation_for_all_large_photos():
    calls = chex.assert_max_traces(lambda: None, n=1)

    class Counted(toys.Gain):
        def __call__(self, image, **options):
            calls()
            return super().__call__(image, **options)

    chex.clear_trace_counter()
    for size in ((40, 60), (50, 50), (61, 33)):
        enhance.enhance(Counted(), {}, toys.photo(*size), tile=32, overlap=8)


def test_progress_counts_tiles():
    calls = []
    image = toys.photo(40, 40)
    options = dict(tile=24, overlap=8)
    enhance.enhance(toys.Gain(), {}, image, progress=lambda: calls.append(1), **options)
    assert len(calls) == len(plan(toys.Gain(), (40, 40), **options)) == 4
    enhance.enhance(toys.Gain(), {}, image, progress=lambda: calls.append(1))
    assert len(calls) == 5


def test_variables_are_used():
    class Bias(Model):
        multiple = 1
        pad_mode = "reflect"

        @nn.compact
        def __call__(self, image, *, target=None, train=False):
            bias = self.param("bias", nn.initializers.zeros, (3,))
            return toys.Outputs(image=image + bias)

    variables = {"params": {"bias": np.array([0.1, 0.2, 0.3], np.float32)}}
    result = enhance.enhance(Bias(), variables, np.zeros((2, 2, 3)))
    np.testing.assert_allclose(result[1, 1], [0.1, 0.2, 0.3], rtol=1e-6)


def test_16_bits_in_16_bits_out():
    image = np.random.default_rng(0).integers(0, 30_000, (5, 6, 3)).astype(np.uint16)
    result = enhance.enhance(toys.Gain(), {}, image)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, 2 * image)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"\(4, 4\).*\[H, W, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, "RGB"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int32), TypeError, "int32.*uint16"),
        (np.full((4, 4, 3), 40.0), ValueError, "divide 8-bit values by 255"),
        (np.full((4, 4, 3), np.nan), ValueError, "nan"),
    ],
)
def test_mistakes(image, error, words):
    with pytest.raises(error, match=words):
        enhance.enhance(toys.Gain(), {}, image)


def test_a_diverged_model_is_reported():
    with pytest.raises(ValueError, match="not finite"):
        enhance.enhance(toys.Gain(gain=float("nan")), {}, toys.photo(8, 8))


def test_jax_arrays_are_accepted():
    image = jax.numpy.full((3, 3, 3), 0.25)
    result = enhance.enhance(toys.Gain(), {}, image)
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, 0.5)
