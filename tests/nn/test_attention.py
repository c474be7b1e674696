"""Channel attention against a plain computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.nn import attention


def features(seed, shape=(2, 3, 5, 8), dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def plain(query, key, value, scale, heads):
    """Computes the attention with loops over images and heads, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    output = np.empty(value.shape)
    size = value.shape[-1] // heads
    for b in range(len(value)):
        for h in range(heads):
            part = np.s_[b, ..., h * size : (h + 1) * size]
            q, k, v = (x[part].reshape(-1, size) for x in (query, key, value))
            q, k = (x / np.linalg.norm(x, axis=0) for x in (q, k))
            scores = scale[h] * q.T @ k
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            output[part] = (v @ weights.T).reshape(output[part].shape)
    return output


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_against_loops(heads):
    arrays = [features(seed) for seed in range(3)]
    scale = np.linspace(0.5, 20, heads)
    found = attention.channel_attention(
        *arrays, jnp.asarray(scale, jnp.float32), num_heads=heads
    )
    np.testing.assert_allclose(found, plain(*arrays, scale, heads), atol=2e-6)


def test_zero_features_have_finite_gradients():
    zero = jnp.zeros((1, 4, 4, 4))

    def total(query, key, value):
        return attention.channel_attention(
            query, key, value, jnp.ones(2), num_heads=2
        ).sum()

    for gradient in jax.grad(total, (0, 1, 2))(zero, zero, zero):
        assert np.isfinite(gradient).all()


def test_bfloat16_comes_close():
    arrays = [features(seed) for seed in range(3)]
    exact = attention.channel_attention(*arrays, jnp.ones(2), num_heads=2)
    rough = attention.channel_attention(
        *(x.astype(jnp.bfloat16) for x in arrays), jnp.ones(2), num_heads=2
    )
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough, exact, atol=0.03)


def test_heads_must_divide_the_channels():
    x = features(0)
    with pytest.raises(ValueError, match="8 channels do not divide into 3 heads"):
        attention.channel_attention(x, x, x, jnp.ones(3), num_heads=3)


def test_identity():
    x = features(0)
    assert attention.Identity(name="slot").apply({}, x) is x
