"""Pruning and quantisation of a few layers whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax.studies import compression

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": RNG.normal(size=(3, 3, 4, 10)), "bias": RNG.normal(size=10)},
    "linear": {"kernel": RNG.normal(size=(6, 10))},
    "norm": {"scale": np.full(4, 1e-9)},
    "attention": {"reallocate": {"mix_in": {"kernel": np.full((2, 2), 1e-9)}}},
}


def test_magnitude_pruning_takes_an_exact_share_of_each_layer():
    params, mask = compression.magnitude_pruning(PARAMS, amount=0.3)
    for name, size in (("conv", 360), ("linear", 60)):
        kernel = params[name]["kernel"]
        assert np.sum(kernel == 0) == int(0.3 * size)
        kept = np.abs(PARAMS[name]["kernel"][kernel != 0])
        assert np.abs(PARAMS[name]["kernel"][kernel == 0]).max() <= kept.min()
        np.testing.assert_array_equal(mask[name]["kernel"], kernel != 0)
    for untouched in ("norm", "attention"):
        jax.tree.map(
            np.testing.assert_array_equal, params[untouched], PARAMS[untouched]
        )
    with pytest.raises(ValueError, match="amount is 30"):
        compression.magnitude_pruning(PARAMS, amount=30)


def removed(params, name="conv"):
    kernel = np.asarray(params[name]["kernel"])
    return set(np.flatnonzero(~np.any(kernel.reshape(-1, kernel.shape[-1]), axis=0)))


def scaled(**factors):
    kernel = PARAMS["conv"]["kernel"].copy()
    for channel, factor in factors.items():
        kernel[..., int(channel[1:])] *= factor
    return {**PARAMS, "conv": {**PARAMS["conv"], "kernel": kernel}}


def test_filters_of_least_l1_norm():
    params, mask = compression.filter_pruning(scaled(c3=0.01), amount=0.1)
    assert removed(params) == {3}
    assert params["conv"]["bias"][3] == 0
    assert np.sum(mask["conv"]["bias"]) == 9


def test_filters_of_least_taylor_importance():
    gradients = jax.tree.map(np.ones_like, PARAMS)
    gradients["conv"]["kernel"][..., 7] = 1e-3
    params, _ = compression.filter_pruning(
        PARAMS, amount=0.1, criterion="taylor", gradients=[gradients, gradients]
    )
    assert removed(params) == {7}
    with pytest.raises(ValueError, match="needs gradients"):
        compression.filter_pruning(PARAMS, amount=0.1, criterion="taylor")


def test_fpgm_removes_what_others_replace():
    given = scaled()
    kernel = given["conv"]["kernel"]
    kernel[..., 2] = kernel.mean(-1)  # in the middle of all others
    params, _ = compression.filter_pruning(given, amount=0.1, criterion="fpgm")
    assert removed(params) == {2}
    with pytest.raises(ValueError, match="Unknown criterion 'l2'"):
        compression.filter_pruning(PARAMS, amount=0.1, criterion="l2")


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights(bits):
    params = compression.quantise_weights(PARAMS, bits=bits)
    kernel, exact = params["conv"]["kernel"], PARAMS["conv"]["kernel"]
    step = np.abs(exact).max() / (2 ** (bits - 1) - 1)
    assert np.abs(kernel - exact).max() <= 0.5001 * step
    assert len(np.unique(np.round(kernel / step))) <= 2**bits - 1
    np.testing.assert_array_equal(params["conv"]["bias"], PARAMS["conv"]["bias"])
    with pytest.raises(ValueError, match="bits=1"):
        compression.quantise_weights(PARAMS, bits=1)


def test_quantised_activations():
    spec = {"name": "retinexformer", "width": 4, "num_blocks": (1, 1)}
    model = llie_jax.build(spec)
    image = jnp.asarray(RNG.random((1, 16, 16, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    ranges = compression.activation_ranges(model, variables, jax.random.key(1), side=16)
    assert ranges["stage_0/denoiser/embedding"] > 0
    exact = model.apply(variables, image).image
    errors = []
    for bits in (4, 8):
        apply = compression.quantised_apply(model, ranges, bits=bits)
        errors.append(np.abs(jax.jit(apply)(variables, image).image - exact).max())
    assert 0 < errors[1] < 0.05
    assert errors[1] < errors[0]


def test_transposed_convolutions_lose_output_channels():
    params = {
        "up": {"kernel": RNG.normal(size=(2, 2, 5, 8)), "bias": RNG.normal(size=5)}
    }
    params["up"]["kernel"][:, :, 1] *= 0.01
    pruned, _ = compression.filter_pruning(params, amount=0.2)
    assert not np.any(pruned["up"]["kernel"][:, :, 1])
    assert pruned["up"]["bias"][1] == 0
    assert np.all(pruned["up"]["kernel"][:, :, [0, 2, 3, 4]])
