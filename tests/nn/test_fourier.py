"""The matrix products for symbolic sizes against NumPy's FFT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from llie_jax.nn import fourier


def there_and_back(x):
    spectrum = fourier.rfft2(x)
    return spectrum, fourier.irfft2(2 * spectrum, x.shape[1:3])


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (5, 6), (1, 4)])
def test_symbolic_sizes(size):
    shape = (2, *export.symbolic_shape("h, w"), 3)
    exported = export.export(jax.jit(there_and_back))(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    x = np.random.default_rng(0).random((2, *size, 3), np.float32)
    spectrum, image = exported.call(x)
    np.testing.assert_allclose(spectrum, np.fft.rfft2(x, axes=(1, 2)), atol=1e-4)
    np.testing.assert_allclose(image, 2 * x, atol=1e-5)


def test_known_sizes_take_the_transform():
    program = str(jax.make_jaxpr(there_and_back)(jnp.zeros((1, 4, 6, 2))))
    assert program.count("fft[") == 2
    assert "dot_general" not in program
