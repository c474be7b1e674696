import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.image.resize import (
    adaptive_mean,
    area_downsample,
    nearest_upsample,
    resize_aligned,
    resize_bicubic,
    resize_bilinear,
    resize_matlab,
)


def test_area_downsample_averages_cells():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    expected = [[2.5, 4.5], [10.5, 12.5]]
    np.testing.assert_allclose(area_downsample(x, 2)[0, :, :, 0], expected)


def test_nearest_upsample_repeats_pixels():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(nearest_upsample(x, 2)[0, :, :, 0], expected)


def test_down_undoes_up():
    x = jnp.asarray(np.random.default_rng(0).random((2, 3, 5, 3), np.float32))
    np.testing.assert_allclose(area_downsample(nearest_upsample(x, 8), 8), x, rtol=1e-6)


@pytest.mark.parametrize("resize", [area_downsample, nearest_upsample])
@pytest.mark.parametrize("factor", [0, -2, 2.0])
def test_factor_is_a_positive_integer(resize, factor):
    with pytest.raises(ValueError, match="integer"):
        resize(jnp.zeros((1, 4, 4, 1)), factor)


def test_area_downsample_needs_whole_cells():
    with pytest.raises(ValueError, match=r"9 x 12 .* 4 x 4; crop to 8 x 12"):
        area_downsample(jnp.zeros((1, 9, 12, 3)), 4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((6, 8), (3, 4)),
        ((3, 4), (6, 8)),
        ((2, 1), (1, 2)),  # a single pixel: nothing to interpolate
        ((5, 7), (8, 3)),
        ((4, 6), (4, 5)),
    ],
)
def test_resize_aligned_interpolates_between_corners(old, new):
    x = np.random.default_rng(0).random((2, *old, 3)).astype(np.float32)
    expected = x
    for axis in (1, 2):
        places = np.linspace(0, x.shape[axis] - 1, new[axis - 1])

        def interpolate(line, places=places):
            return np.interp(places, np.arange(len(line)), line)

        expected = np.apply_along_axis(interpolate, axis, expected)
    result = resize_aligned(x, new)
    assert result.shape == (2, *new, 3)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_resize_aligned_by_hand_and_dtype():
    row = jnp.asarray([[[[0.0], [3.0]]]], jnp.bfloat16)
    result = resize_aligned(row, (1, 4))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result[0, 0, :, 0], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("old", "new"), [((6, 9), (6, 13)), ((8, 7), (3, 2)), ((3, 4), (6, 8))]
)
def test_resize_bilinear_interpolates_between_centres(old, new):
    x = np.random.default_rng(0).random((2, *old, 3)).astype(np.float32)
    expected = x
    for axis in (1, 2):
        length = x.shape[axis]
        places = (np.arange(new[axis - 1]) + 0.5) * length / new[axis - 1] - 0.5

        def interpolate(line, places=places):
            return np.interp(places, np.arange(len(line)), line)

        expected = np.apply_along_axis(interpolate, axis, expected)
    result = resize_bilinear(x, new)
    assert result.shape == (2, *new, 3)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_resize_bilinear_by_hand_and_dtype():
    row = jnp.asarray([[[[0.0], [4.0]]]], jnp.bfloat16)
    result = resize_bilinear(row, (1, 4))
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result[0, 0, :, 0], [0, 1, 3, 4])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (3, [-0.09375, 0.59375, 0]),
        (9, [0, -0.09375, 0.16087963, 0.94328704, 0.59375, -0.08680556, -0.01736111]),
    ],
)
def test_resize_bicubic_has_the_kernel_of_pytorch(length, expected):
    """An impulse, as `torch.nn.functional.interpolate` resizes it."""
    row = jnp.zeros((6,)).at[2].set(1.0)
    expected = np.pad(expected, (0, length - len(expected)))
    for axis in (1, 2):
        x = jnp.expand_dims(row, (0, 3 - axis, 3))
        size = (length, 1) if axis == 1 else (1, length)
        np.testing.assert_allclose(resize_bicubic(x, size).ravel(), expected, atol=1e-6)


def test_resize_bicubic_replicates_borders():
    x = jnp.full((1, 5, 7, 2), 0.3)
    np.testing.assert_allclose(resize_bicubic(x, (3, 11)), 0.3, rtol=1e-6)


def test_adaptive_mean_of_overlapping_cells():
    x = jnp.asarray([1.0, 2.0, 4.0, 8.0, 16.0])[None, :, None, None]
    found = adaptive_mean(jnp.broadcast_to(x, (1, 5, 2, 1)), (3, 1))[0, :, 0, 0]
    np.testing.assert_allclose(found, [3 / 2, 14 / 3, 24 / 2], rtol=1e-6)
    # More cells than pixels.
    found = adaptive_mean(x[:, :2], (3, 1))[0, :, 0, 0]
    np.testing.assert_allclose(found, [1, 3 / 2, 2], rtol=1e-6)


def test_matlabs_resize():
    # Halved: the kernel is twice as wide, and the border is mirrored.
    d = np.arange(-3.5, 4) / 2
    near = 1.5 * np.abs(d) ** 3 - 2.5 * d**2 + 1
    far = -0.5 * np.abs(d) ** 3 + 2.5 * d**2 - 4 * np.abs(d) + 2
    taps = np.where(np.abs(d) <= 1, near, far) / 2
    row = 2.0 ** np.arange(8)
    mirrored = np.concatenate([row[2::-1], row, row[:-4:-1]])
    expected = [taps @ mirrored[2 * i : 2 * i + 8] for i in range(4)]
    found = resize_matlab(np.stack([row, row]), (2, 4))
    np.testing.assert_allclose(found, [expected, expected])
    # Enlarging does not widen the kernel: it passes through the pixels' centres.
    image = np.random.default_rng(0).random((5, 4, 3))
    larger = resize_matlab(image, (15, 12))
    np.testing.assert_allclose(larger[1::3, 1::3], image)
    assert larger.shape == (15, 12, 3)
    np.testing.assert_allclose(resize_matlab(np.ones((7, 9)), (4, 30)), 1)
