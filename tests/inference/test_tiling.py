import itertools

import numpy as np
import pytest

from llie_jax.inference import tiling


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (100, 64), (104, 232), (64, 72)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (60, 10), (64, 0), (32, 24)])
def test_tiles_cover_the_photo_with_the_overlap(size, tile, overlap):
    multiple = 4
    size = tuple(-(-side // multiple) * multiple for side in size)
    grid = tiling.plan(size, tile=tile, overlap=overlap, multiple=multiple)
    assert grid.size == size
    assert len(grid) == len(grid.rows) * len(grid.columns)
    for starts, side in zip((grid.rows, grid.columns), grid.tile, strict=True):
        assert starts[0] == 0
        assert side <= tile
        for start, following in itertools.pairwise(starts):
            assert start % multiple == following % multiple == 0
            assert start + side - following >= overlap
        weights = tiling.weights(starts, side)
        assert weights.dtype == np.float32
        assert weights.min() >= 0
        total = np.zeros(starts[-1] + side)
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + side] += weight
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_fewest_tiles():
    assert tiling.plan((64, 112), tile=64, overlap=16).columns == (0, 48)
    assert tiling.plan((64, 113), tile=64, overlap=16).columns == (0, 24, 49)


def test_blending_is_smooth():
    weights = tiling.weights((0, 48), 64)
    # A raised cosine over 16 pixels never rises faster than pi / 32 in a pixel.
    assert np.abs(np.diff(weights, axis=1)).max() < np.pi / 32
    assert weights[0, 47] == 1
    assert weights[0, -1] < 0.01


def test_equal_results_blend_to_the_same_image():
    image = np.random.default_rng(0).random((40, 56, 3), np.float32)
    grid = tiling.plan(image.shape[:2], tile=24, overlap=10)
    calls = []
    blended = tiling.apply(
        lambda tile, window: tile, image, grid, progress=lambda: calls.append(grid)
    )

    np.testing.assert_allclose(blended, image, atol=1e-6)
    assert len(calls) == len(grid) > 4


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "words"),
    [
        ((64, 64), 32, 32, "less than the tile"),
        ((64, 64), 32, -1, "at least 0"),
        ((64, 63), 32, 8, "64 x 63"),
        ((64, 64), 0, 0, "does not fit"),
    ],
)
def test_mistakes(size, tile, overlap, words):
    with pytest.raises(ValueError, match=words):
        tiling.plan(size, tile=tile, overlap=overlap, multiple=8)


def test_an_image_of_another_size_is_refused():
    grid = tiling.plan((64, 64), tile=32, overlap=8)
    with pytest.raises(ValueError, match="56 x 64"):
        tiling.apply(lambda tile, window: tile, np.zeros((56, 64, 3)), grid)


def test_seam_ratio_sees_a_seam():
    rng = np.random.default_rng(0)
    image = rng.random((96, 128, 3), np.float32)
    grid = tiling.plan((96, 128), tile=48, overlap=16)
    assert tiling.seam_ratio(image, grid) == pytest.approx(1, abs=0.05)
    image[grid.rows[1] :] += 1
    assert tiling.seam_ratio(image, grid) > 1.1
    with pytest.raises(ValueError, match="single tile"):
        tiling.seam_ratio(image, tiling.plan((96, 128), tile=128, overlap=0))
