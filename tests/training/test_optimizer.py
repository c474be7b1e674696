"""Schedules and optax chains, against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llie_jax.configs import base
from llie_jax.training import optimizer


def schedule(steps=150, peak=2e-4, **changes):
    config = base.get_config().schedule
    config.update(changes)
    return optimizer.make_schedule(config, peak=peak, steps=steps)


def test_cosine_and_warm_up():
    rate = schedule(name="cosine", final_rate=1e-6, warmup_steps=10, steps=110)
    np.testing.assert_allclose(rate(0), 2e-5, rtol=1e-5)
    np.testing.assert_allclose(rate(9), 2e-4, rtol=1e-5)
    np.testing.assert_allclose(rate(60), (2e-4 + 1e-6) / 2, rtol=1e-4)
    np.testing.assert_allclose(rate(110), 1e-6, rtol=1e-3)


def test_retinexformers_periods_rise_jump_back_and_fall():
    rate = schedule(
        name="cosine_periods", periods=(46.0, 104.0), period_rates=(3e-4, 1e-6)
    )
    np.testing.assert_allclose(rate(0), 2e-4, rtol=1e-5)
    np.testing.assert_allclose(rate(23), 2.5e-4, rtol=1e-3)
    assert 2.99e-4 < rate(45) < 3e-4
    np.testing.assert_allclose(rate(46), 2e-4, rtol=1e-3)
    np.testing.assert_allclose(rate(98), (2e-4 + 1e-6) / 2, rtol=1e-3)
    np.testing.assert_allclose(rate(150), 1e-6, rtol=1e-2)


@pytest.mark.parametrize("steps", [600_000, 1200, 400])
def test_snr_nets_steps_halve_at_shares_of_the_run(steps):
    shares = (1 / 12, 1 / 6, 1 / 3, 1 / 2)
    rate = schedule(name="steps", boundaries=shares, steps=steps, peak=4e-4)
    np.testing.assert_allclose(rate(0), 4e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(steps), 4e-4 / 16, rtol=1e-6)
    for number, share in enumerate(shares):
        step = round(share * steps)
        np.testing.assert_allclose(rate(step - 1), 4e-4 / 2**number, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(rate)(step), rate(step - 1) / 2, rtol=1e-6)


def test_steps_after_a_warm_up():
    rate = schedule(
        name="steps", boundaries=(0.5,), factor=0.1, warmup_steps=10, steps=30
    )
    np.testing.assert_allclose(rate(4), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(19), 2e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(20), 2e-5, rtol=1e-6)


def test_rates_are_held():
    rate = schedule(name="cosine", hold_steps=10, steps=100)
    assert rate(0) == rate(9) > rate(10) == rate(19)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(name="cosin"), "Unknown schedule 'cosin'. Did you mean 'cosine'"),
        (dict(hold_steps=0), "hold_steps=0 must be at least 1"),
        (dict(warmup_steps=150), "warmup_steps=150 below the 150 steps"),
        (dict(name="cosine_periods", periods=(1.0, 2.0)), "one entry per period"),
        (dict(name="cosine_periods", periods=(0.0,)), "lengths above 0"),
        (
            dict(name="steps", boundaries=(0.5, 0.2)),
            r"boundaries=\(0.5, 0.2\) must rise",
        ),
        (dict(name="steps", boundaries=(50.0, 100.0)), "shares of all steps"),
        (dict(name="steps", factor=0.0), "factor=0.0 be above 0"),
    ],
)
def test_schedules_that_make_no_sense(changes, expected):
    with pytest.raises(ValueError, match=expected):
        schedule(**changes)


def make(**changes):
    config = base.get_config().optimizer
    config.update(changes)
    return optimizer.make_optimizer(config, optax.constant_schedule(0.1))


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
    for name in optimizer.OPTIMIZERS:
        found = updates(
            PARAMS,
            PARAMS,
            name=name,
            weight_decay=0.5,
            clip_norm=1e-3,
            frozen=("attention/*",),
        )
        for leaf in found["attention"].values():
            np.testing.assert_array_equal(leaf, np.zeros(3))
        assert np.all(found["embedding"]["kernel"] < 0)
    moments = jax.tree.leaves(state(frozen=("attention/*",)))
    assert sum(leaf.size for leaf in moments if leaf.ndim) == 2 * 3
    assert jax.tree.structure(state(frozen=())) == jax.tree.structure(state())


def test_frozen_parameters_do_not_count_in_the_norm():
    found = updates(
        PARAMS, PARAMS, name="sgd", clip_norm=1.0, frozen=("*/embedding", "embedding/*")
    )
    np.testing.assert_allclose(
        found["attention"]["kernel"], -0.1 / np.sqrt(3), rtol=1e-6
    )


def test_clipping_is_by_the_global_norm():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    found = updates(grads, grads, name="sgd", clip_norm=1.0)
    np.testing.assert_allclose(found["a"], -0.06, rtol=1e-6)
    np.testing.assert_allclose(found["b"], -0.08, rtol=1e-6)
