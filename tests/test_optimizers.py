"""Optax chains, against values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llie_jax import optimizers, registry


def make(name="adamw", **fields):
    spec = {"name": name, **fields}
    return optimizers.make_optimizer(spec, optax.constant_schedule(0.1))


def updates(params, grads, **changes):
    tx = make(**changes)
    return tx.update(grads, tx.init(params), params)[0]


def state(**changes):
    return make(**changes).init(PARAMS)


PARAMS = {
    "attention": {"embedding": jnp.full(3, 2.0), "kernel": jnp.full(3, 2.0)},
    "embedding": {"kernel": jnp.full(3, 2.0)},
}
ZERO = {
    "attention": {"embedding": jnp.zeros(3), "kernel": jnp.zeros(3)},
    "embedding": {"kernel": jnp.zeros(3)},
}


def test_embeddings_do_not_decay():
    found = updates(PARAMS, ZERO, name="adamw", weight_decay=0.5)
    np.testing.assert_array_equal(found["attention"]["embedding"], np.zeros(3))
    np.testing.assert_allclose(found["attention"]["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(found["embedding"]["kernel"], -0.1, rtol=1e-6)


def test_some_parameters_move_faster():
    found = updates(
        PARAMS,
        PARAMS,
        name="sgd",
        scaled=dict(parameters="attention/embedding", factor=10.0),
    )
    np.testing.assert_allclose(found["attention"]["embedding"], -2.0, rtol=1e-6)
    np.testing.assert_allclose(found["attention"]["kernel"], -0.2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"factor is 0\.0; give more than 0"):
        updates(PARAMS, ZERO, scaled=dict(parameters="*", factor=0.0))


def test_frozen_parameters_get_no_update_and_take_no_memory():
    for name in registry.names("optimizer"):
        decay = {"weight_decay": 0.5} if name == "adamw" else {}
        found = updates(
            PARAMS, PARAMS, name=name, clip_norm=1e-3, freeze=("attention/*",), **decay
        )
        for leaf in found["attention"].values():
            np.testing.assert_array_equal(leaf, np.zeros(3))
        assert np.all(found["embedding"]["kernel"] < 0)
    moments = jax.tree.leaves(state(freeze=("attention/*",)))
    assert sum(leaf.size for leaf in moments if leaf.ndim) == 2 * 3
    assert jax.tree.structure(state(freeze=())) == jax.tree.structure(state())


def test_frozen_parameters_do_not_count_in_the_norm():
    found = updates(
        PARAMS, PARAMS, name="sgd", clip_norm=1.0, freeze=("*/embedding", "embedding/*")
    )
    np.testing.assert_allclose(
        found["attention"]["kernel"], -0.1 / np.sqrt(3), rtol=1e-6
    )


def test_clipping_is_by_the_global_norm():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    found = updates(grads, grads, name="sgd", clip_norm=1.0)
    np.testing.assert_allclose(found["a"], -0.06, rtol=1e-6)
    np.testing.assert_allclose(found["b"], -0.08, rtol=1e-6)


def test_l2_joins_the_clipped_gradient():
    params, grads = {"a": jnp.array([10.0])}, {"a": jnp.array([3.0])}
    found = updates(params, grads, name="sgd", clip_norm=1.0, l2=0.5)
    np.testing.assert_allclose(found["a"], -0.1 * (1 + 5.0), rtol=1e-6)
    moments = make("adam", l2=0.5)
    state = moments.update(grads, moments.init(params), params)[1]
    np.testing.assert_allclose(optax.tree.get(state, "mu")["a"], 0.8, rtol=1e-6)


def test_momentum_sums_gradients():
    params, tx = {"a": jnp.array([0.0])}, make("sgd", momentum=0.9)
    first, state = tx.update({"a": jnp.array([1.0])}, tx.init(params), params)
    second, _ = tx.update({"a": jnp.array([1.0])}, state, params)
    np.testing.assert_allclose([first["a"], second["a"]], [[-0.1], [-0.19]], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamx"}, "Unknown optimizer 'adamx'. Did you mean 'adam"),
        ({"name": "sgd", "b1": 0.9}, "'sgd' has no field 'b1'.*learning_rate, clip_"),
        ({"frozen": ("a/*",)}, "has no field 'frozen'. Did you mean 'freeze'"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0; give 0 or more"),
        (
            {"learning_rate": float("nan")},
            "'learning_rate' of 'adamw' is nan; give a fin",
        ),
        ({"b1": 1.0}, r"b1 is 1\.0; give 0 or more, below 1"),
        ({"eps": -1.0}, r"eps is -1\.0; give 0 or more"),
        ({"weight_decay": -1.0}, r"weight_decay is -1\.0; give 0 or more"),
        ({"clip_norm": -1.0}, r"clip_norm is -1\.0; give 0 or more"),
        ({"l2": -0.1}, r"l2 is -0\.1; give 0 or more"),
        ({"name": "sgd", "momentum": 1.0}, r"momentum is 1\.0; give 0 or more, below"),
        ({"b2": "0.9"}, "'b2' of 'adamw' is a number such as"),
        ({"scaled": {"parameters": "*", "facter": 2.0}}, "takes .'factor', 'param"),
    ],
)
def test_optimizers_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)
