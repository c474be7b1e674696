import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.inference import padding


def ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("mode", padding.PAD_MODES)
@pytest.mark.parametrize("size", [(8, 16), (1, 1), (1, 9), (3, 2), (13, 8), (16, 17)])
@pytest.mark.parametrize("kind", [np, jnp])
def test_as_numpy_pads_and_back(mode, size, kind):
    image = ramp(*size, 3)
    padded, original = padding.pad_to_multiple(kind.asarray(image), 8, mode)
    bottom, right = -size[0] % 8, -size[1] % 8
    expected = np.pad(image, [(0, bottom), (0, right), (0, 0)], mode=mode)
    np.testing.assert_array_equal(padded, expected)
    assert isinstance(padded, np.ndarray) == (kind is np)
    assert original == size
    np.testing.assert_array_equal(padding.crop(padded, original), image)


def test_batches_dtypes_and_tracing():
    image = ramp(2, 5, 6, 3).astype(np.uint8)
    padded, size = padding.pad_to_multiple(image, 4, "reflect")
    assert padded.shape == (2, 8, 8, 3)
    assert padded.dtype == np.uint8
    assert size == (5, 6)
    traced = jax.jit(lambda x: padding.pad_to_multiple(x, 4, "reflect")[0])(image)
    np.testing.assert_array_equal(traced, padded)


def test_an_image_that_fits_is_not_copied():
    image = ramp(8, 8, 3)
    assert padding.pad_to_multiple(image, 8)[0] is image


@pytest.mark.parametrize(
    ("image", "mode", "words"),
    [
        (ramp(5, 5, 3), "edge", "constant, reflect"),
        (ramp(5, 5), "reflect", "H, W, C"),
        (ramp(0, 5, 3), "constant", "no pixel"),
    ],
)
def test_mistakes(image, mode, words):
    with pytest.raises(ValueError, match=words):
        padding.pad_to_multiple(image, 8, mode)
