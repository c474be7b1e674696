"""Mixtures of kernels, their temperature, and the static kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.nn import dynamic_conv

POOLED = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)


def test_a_kernel_is_a_mixture():
    conv = dynamic_conv.DynamicConv(5, num_kernels=2)
    params = conv.init(jax.random.key(0), POOLED, method="kernel")["params"]
    params["mix_out"] = {
        "kernel": jnp.zeros((3, 2)),
        "bias": jnp.log(jnp.array([3.0, 1.0])),
    }
    found = conv.apply({"params": params}, POOLED, method="kernel")
    expected = 0.75 * params["kernels"][0] + 0.25 * params["kernels"][1]
    assert found.shape == (3, 1, 1, 8, 5)
    np.testing.assert_allclose(found, np.tile(expected, (3, 1, 1, 1, 1)), atol=1e-6)


def test_the_temperature_falls_while_it_is_trained():
    conv = dynamic_conv.DynamicConv(5, annealing_steps=4)
    variables = conv.init(jax.random.key(0), POOLED, method="kernel")
    assert variables["counters"]["steps"] == 0
    bias = 20 * jax.random.normal(jax.random.key(1), (4,))
    variables["params"]["mix_out"]["bias"] = bias

    def spread(kernel):
        return float(jnp.abs(kernel - even).max())

    even = variables["params"]["kernels"].mean(0)
    spreads = []
    for step in range(6):
        kernel, updated = conv.apply(
            variables, POOLED, method="kernel", mutable=["counters"]
        )
        again = conv.apply(variables, POOLED, method="kernel")  # evaluation only reads
        np.testing.assert_array_equal(kernel, again)
        assert updated["counters"]["steps"] == step + 1
        variables |= updated
        spreads.append(spread(kernel))
    assert spreads[0] < spreads[2] < spreads[4] == spreads[5]


def test_without_annealing_there_is_no_state():
    conv = dynamic_conv.DynamicConv(5)
    assert set(conv.init(jax.random.key(0), POOLED, method="kernel")) == {"params"}


def test_static_kernels_are_the_same_for_all_images():
    conv = dynamic_conv.StaticConv(5, kernel_size=3)
    variables = conv.init(jax.random.key(0), POOLED, method="kernel")
    kernel = conv.apply(variables, POOLED, method="kernel")
    assert kernel.shape == (1, 3, 3, 8, 5)
    assert np.abs(kernel).max() <= 72**-0.5


@pytest.mark.parametrize("kind", [dynamic_conv.StaticConv, dynamic_conv.DynamicConv])
def test_impossible_fields(kind):
    with pytest.raises(ValueError, match="kernel_size=4; use an odd number"):
        kind(5, kernel_size=4).init(jax.random.key(0), POOLED, method="kernel")
    conv = kind(5, zero_init=True)
    variables = conv.init(jax.random.key(0), POOLED, method="kernel")
    assert not np.any(conv.apply(variables, POOLED, method="kernel"))
