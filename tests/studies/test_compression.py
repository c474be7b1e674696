"""Pruning and quantisation of a few layers whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax.models.base import variable_shapes
from llie_jax.studies import compression, redundancy
from tests.evaluation.toys import Gain, MemorySource
from tests.studies.conftest import ATTENTION

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
    model = llie_jax.build({"name": "retinexformer", "width": 4, "num_blocks": (1,)})
    image = jnp.asarray(RNG.random((1, 16, 16, 3)), jnp.float32)
    variables = jax.tree.map(
        lambda x: jnp.asarray(RNG.normal(scale=0.2, size=x.shape), x.dtype),
        variable_shapes(model),
    )
    ranges = compression.activation_ranges(model, variables, jax.random.key(1), side=16)
    assert ranges["stage_0/denoiser/embedding"] > 0
    exact = jax.jit(model.apply)(variables, image).image
    errors = []
    for bits in (4, 8):
        quantised = compression.Quantised(model, tuple(ranges.items()), bits)
        found = jax.jit(quantised.apply)(variables, image).image
        errors.append(np.abs(found - exact).max())
    assert 0 < errors[1] < 0.05
    assert errors[1] < errors[0]
    with pytest.raises(ValueError, match="bits=1"):
        compression.Quantised(model, (), 1)


def test_gradients_are_those_of_training_pairs(made):
    """The loss is the mean of |3 x - 2 x|, whose gradient by the gain is that of x."""
    model, variables = Gain(), {"params": {"gain": jnp.float32(3)}}
    source = MemorySource([(9, 11), (8, 8), (10, 8)])
    found = compression.gradients(model, variables, source, count=2)
    centres = source[0]["image"][:8, 1:9], source[2]["image"][1:9]
    wanted = [pytest.approx(np.mean(centre / 255), rel=1e-5) for centre in centres]
    assert [gradient["gain"] for gradient in found] == wanted
    found = compression.gradients(model, variables, source, count=1)
    assert [gradient["gain"] for gradient in found] == wanted[:1]
    with pytest.raises(ValueError, match="L1 loss needs target; the records of toys"):
        compression.gradients(*made, MemorySource([(9, 11)], paired=False))
    with pytest.raises(ValueError, match="a side of 1 pixels; gradients need 2"):
        compression.gradients(*made, MemorySource([(8, 1)]))


@pytest.mark.parametrize(
    ("method", "amount"), [("magnitude", 0.0), ("magnitude", 0.5), ("l1", 0.5)]
)
def test_a_study(made, method, amount):
    study = compression.CompressionStudy(method, amount=amount)
    subject = study.subject(*made, MemorySource([(16, 20), (14, 18)]))
    advanced = []
    result = study.run(subject, lambda: advanced.append(1)).numbers
    assert len(advanced) == study.steps(subject)
    assert result["compression"] == {"method": method, "amount": amount}
    before, after = np.array(list(result["images"].values())).T
    assert result["psnr"] == pytest.approx(np.mean(before))
    assert result["psnr_after"] == pytest.approx(np.mean(after))
    assert np.all(before == after) == (amount == 0)
    text = f"after method {method}, amount {amount}: PSNR "
    assert study.lines(result)[1].startswith(text)


def test_dmr_of_the_compressed_model(made):
    """With 24 bits next to nothing changes; with 2, the compressed model is reset."""
    resets = redundancy.ResetStudy("dmr", pattern=ATTENTION[0], seeds=1)
    source = MemorySource([(16, 20)])
    subject = resets.subject(*made, source)
    exact = resets.run(subject).numbers["dmr"]["attention"]["value"]
    found = {}
    for bits in (2, 24):
        study = compression.CompressionStudy("zeroq", bits=bits, resets=resets)
        advanced = []
        result = study.run(subject, lambda advanced=advanced: advanced.append(1))
        assert len(advanced) == study.steps(subject)
        found[bits] = result.numbers["dmr_after"]["attention"]["value"]
        assert study.lines(result.numbers)[2].startswith("DMR attention ")
    assert found[24] == pytest.approx(exact, abs=0.2)
    assert abs(found[2] - exact) > 0.2


def test_mistakes():
    with pytest.raises(ValueError, match=r"Unknown method 'l2'. Did you mean 'l1'"):
        compression.CompressionStudy("l2")
    with pytest.raises(ValueError, match="'taylor' needs training pairs"):
        compression.CompressionStudy("taylor")


def test_transposed_convolutions_lose_output_channels():
    params = {
        "up": {"kernel": RNG.normal(size=(2, 2, 5, 8)), "bias": RNG.normal(size=5)}
    }
    params["up"]["kernel"][:, :, 1] *= 0.01
    pruned, _ = compression.filter_pruning(params, amount=0.2)
    assert not np.any(pruned["up"]["kernel"][:, :, 1])
    assert pruned["up"]["bias"][1] == 0
    assert np.all(pruned["up"]["kernel"][:, :, [0, 2, 3, 4]])
