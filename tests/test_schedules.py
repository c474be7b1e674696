"""Schedules, against values computed by hand."""

import jax
import numpy as np
import pytest

from llie_jax import registry, schedules


def schedule(name="cosine", *, run=150, peak=2e-4, **fields):
    return schedules.make_schedule({"name": name, **fields}, peak=peak, steps=run)


def test_cosine_and_warm_up():
    rate = schedule(name="cosine", final_rate=1e-6, warmup_steps=10, run=110)
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


def test_mobileies_restarts():
    """50, 100, 200, 400, 800 and the first 450 of 1600 epochs; ten steps each."""
    rate = schedule(
        "cosine_restarts", first=50 / 2000, run=20_000, hold_steps=10, peak=1e-3
    )
    for epoch in (0, 50, 150, 350, 750, 1550):
        np.testing.assert_allclose(jax.jit(rate)(10 * epoch), 1e-3, rtol=1e-6)
        assert rate(10 * epoch + 9) == rate(10 * epoch)
        if epoch:  # PyTorch's rate in the epoch before
            length = (epoch + 50) / 2
            last = 1e-7 + (1e-3 - 1e-7) * (1 + np.cos(np.pi * (1 - 1 / length))) / 2
            np.testing.assert_allclose(rate(10 * epoch - 1), last, rtol=2e-3)
    np.testing.assert_allclose(rate(1000), (1e-3 + 1e-7) / 2, rtol=1e-5)
    last = 1e-7 + (1e-3 - 1e-7) * (1 + np.cos(np.pi * 450 / 1600)) / 2
    np.testing.assert_allclose(rate(20_000), last, rtol=1e-5)


@pytest.mark.parametrize("steps", [600_000, 1200, 400])
def test_snr_nets_steps_halve_at_shares_of_the_run(steps):
    shares = (1 / 12, 1 / 6, 1 / 3, 1 / 2)
    rate = schedule(name="steps", boundaries=shares, run=steps, peak=4e-4)
    np.testing.assert_allclose(rate(0), 4e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(steps), 4e-4 / 16, rtol=1e-6)
    for number, share in enumerate(shares):
        step = round(share * steps)
        np.testing.assert_allclose(rate(step - 1), 4e-4 / 2**number, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(rate)(step), rate(step - 1) / 2, rtol=1e-6)


def test_steps_after_a_warm_up():
    rate = schedule(
        name="steps", boundaries=(0.5,), factor=0.1, warmup_steps=10, run=30
    )
    np.testing.assert_allclose(rate(4), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(19), 2e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(20), 2e-5, rtol=1e-6)


def test_rates_are_held():
    rate = schedule(name="cosine", hold_steps=10, run=100)
    assert rate(0) == rate(9) > rate(10) == rate(19)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(name="cosin"), "Unknown schedule 'cosin'. Did you mean 'cosine'"),
        (dict(hold_steps=0), "hold_steps=0 must be at least 1"),
        (dict(warmup_steps=150), "warmup_steps=150 below the run's 150 steps"),
        (dict(name="cosine_periods", periods=(1.0, 2.0)), "one entry per period"),
        (dict(name="cosine_periods", periods=(0.0,)), "lengths above 0"),
        (
            dict(name="steps", boundaries=(0.5, 0.2)),
            r"boundaries=\(0.5, 0.2\) must increase",
        ),
        (dict(name="steps", boundaries=(50.0, 100.0)), "fractions of all steps"),
        (dict(name="steps", factor=0.0), "factor=0.0 must be above 0"),
        (dict(name="cosine_restarts", first=50.0), "first=50.0 must be above 0 and at"),
        (dict(name="cosine_restarts", growth=0.5), "growth=0.5 at least 1"),
    ],
)
def test_schedules_that_make_no_sense(changes, expected):
    with pytest.raises(ValueError, match=expected):
        schedule(**changes)


def test_a_constant_rate_after_its_warm_up():
    rate = schedule("constant", warmup_steps=4)
    np.testing.assert_allclose([rate(0), rate(3), rate(149)], [5e-5, 2e-4, 2e-4])


@pytest.mark.parametrize(
    ("name", "field"),
    [("constant", "final_rate"), ("cosine", "periods"), ("steps", "final_rate")],
)
def test_fields_of_another_schedule(name, field):
    with pytest.raises(ValueError, match=f"{name!r} has no field {field!r}.* Fields: "):
        schedule(name, **{field: 1e-6})


def test_every_schedule_starts_at_the_peak():
    for name in registry.names("schedule"):
        np.testing.assert_allclose(schedule(name)(0), 2e-4, rtol=1e-6)
