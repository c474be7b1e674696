import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import llie_jax
from llie_jax import jaxprs
from llie_jax.models.base import card, initial_variables

MODELS = (
    "snr_net",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("cidnet", "darkir", "restormer", "retinexformer", "lfpv")
    ),
)


def test_needed():
    def function(x):
        y = jnp.sin(x)
        z = jnp.cos(y)
        jnp.tan(x)
        return z, y

    jaxpr = jax.make_jaxpr(function)(1.0).jaxpr
    z, y = jaxpr.outvars
    for outputs, given, expected in (
        ([z], (), ["sin", "cos"]),
        ([z], [y], ["cos"]),
        ([y], [y], []),
        ([y], (), ["sin"]),
    ):
        found, used = jaxprs.needed(jaxpr.eqns, outputs, given)
        assert [equation.primitive.name for equation in found] == expected
        assert (jaxpr.invars[0] in used) == ("sin" in expected)


def test_batched_has_the_same_values_with_fewer_equations():
    def draws(rng, scale):
        first, *rngs = jax.random.split(rng, 6)
        values = [scale * jax.random.normal(rng, (5, 3)) for rng in rngs]
        other = jax.random.uniform(first, (2,))
        jnp.sinh(scale)
        return {"values": values, "other": other, "constant": 3, "scale": scale}

    arguments = jax.random.key(0), jnp.float32(0.3)
    expected = jax.jit(draws)(*arguments)
    found = jax.jit(jaxprs.batched(draws))(*arguments)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert "sinh" in str(jax.make_jaxpr(draws)(*arguments))
    assert "sinh" not in str(jax.make_jaxpr(jaxprs.batched(draws))(*arguments))


def test_batched_draws_parameters_of_one_kind_in_one_loop():
    model = llie_jax.build("darkir")
    rng, image = jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    text = str(jax.make_jaxpr(jaxprs.batched(model.init))(rng, image))
    assert text.count("random_fold_in") < 40  # of 253 parameters
    assert "conv_general_dilated" not in text


@pytest.mark.parametrize("name", MODELS)
def test_initial_values_are_those_of_init(name):
    model = llie_jax.build({"name": name, **card(name).tiny})
    side, rng = model.multiple, jax.random.key(3)
    found = jax.jit(lambda rng: initial_variables(model, rng, (side, side)))(rng)
    expected = jax.jit(model.init)(rng, jnp.zeros((1, side, side, 3)))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("conv", ["static", "dynamic", "orthogonal"])
def test_initial_values_of_generators(conv):
    adr = llie_jax.nn.adr.AttentionDynamicReallocation
    make = llie_jax.registry.get(conv, kind="kernel").make
    module, x = adr(width=3, conv=make), jnp.zeros((1, 4, 4, 7))
    found = jax.jit(jaxprs.batched(module.init))(jax.random.key(1), x)
    expected = jax.jit(module.init)(jax.random.key(1), x)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_equations_with_different_fields_stay_apart():
    class Both(nn.Module):
        @nn.compact
        def __call__(self):
            a = self.param("a", nn.initializers.normal(1.0), (4,))
            b = self.param("b", nn.initializers.normal(2.0), (4,))
            c = self.param("c", nn.initializers.normal(1.0), (4,), jnp.bfloat16)
            return a + b + c

    found = jax.jit(jaxprs.batched(Both().init))(jax.random.key(0))
    expected = jax.jit(Both().init)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found["params"]["c"].dtype == jnp.bfloat16
