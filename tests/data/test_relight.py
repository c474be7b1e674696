"""Relit records against the sensor model that they approximate."""

import jax
import numpy as np
import pytest

from llie_jax.data import relight, synthetic


def batch(size=(64, 64), *, relit=True, light=None, sensor=4000.0):
    rng = np.random.default_rng(0)
    smooth = np.linspace(40, 220, size[1])[None, :, None]
    target = np.broadcast_to(smooth, (2, *size, 3)).astype(np.uint8)
    light = [-2.0, -2.0, 1.0, 0.0, 0.0, 0.1] if light is None else light
    return {
        "image": rng.integers(0, 30, (2, *size, 3), dtype=np.uint8),
        "target": target,
        "relit": np.array([relit, relit]),
        "light": np.array([light, light], np.float32),
        "sensor": np.array([sensor, sensor], np.float32),
        "noise": np.array([1, 2], np.uint32),
        "colours": np.broadcast_to(np.eye(3, dtype=np.float32), (2, 3, 3)),
    }


def run(given):
    return jax.jit(relight.relight)(given)["image"]


def test_it_agrees_with_the_sensor_model():
    given = batch()
    found = np.asarray(run(given))
    options = dict(exposure=float(np.exp(-2)), full_well=4000.0, bits=16, seed=0)
    wanted = synthetic.darken(given["target"][0], **options) / 255
    columns = slice(8, -8)
    np.testing.assert_allclose(
        found[0, :, columns].mean((0, 2)), wanted[:, columns].mean((0, 2)), atol=4e-3
    )
    np.testing.assert_allclose(found[0].std(0).mean(), wanted.std(0).mean(), rtol=0.05)
    assert np.any(found[0] != found[1])  # noise of its own


def test_the_others_stay():
    given = batch(relit=False)
    np.testing.assert_allclose(run(given), given["image"] / 255, atol=1e-7)


def test_no_darkness_and_no_noise_give_the_target_itself():
    given = batch(light=[0.0, 0.0, 1.0, 0.0, 0.0, 0.1], sensor=0.0)
    np.testing.assert_allclose(run(given), given["target"] / 255, atol=1e-6)


def test_one_side_may_be_darker():
    given = batch(light=[-4.0, 0.0, 0.0, 1.0, 0.0, 0.02])
    found, target = run(given)[0], given["target"][0] / 255
    assert float(found[:20].mean()) < 0.3 * target.mean()
    np.testing.assert_allclose(found[44:].mean(), target.mean(), rtol=0.02)


def test_a_crop_and_its_overview_see_the_light_of_the_photo():
    given = batch(light=[-3.0, 0.0, 0.6, 0.8, 0.1, 0.05])
    whole = run(given)
    rows, columns = slice(40, 8, -1), slice(16, 48)
    crop = {
        **given,
        "image": given["image"][:, rows, columns],
        "target": given["target"][:, rows, columns],
        "window": np.array([[41 / 64, 0.25, 9 / 64, 0.75]] * 2, np.float32),
        "overview": np.zeros((2, 64, 64, 3), np.float32),
        "overview_target": given["target"].astype(np.float32) / 255,
    }
    found = jax.jit(relight.relight)(crop)
    # Different noise, equal light.
    want = np.asarray(whole)[:, rows, columns]
    difference = np.asarray(found["image"]) - want
    assert abs(difference.mean()) < 2e-3
    np.testing.assert_allclose(
        found["overview"].mean((0, 2, 3)), np.asarray(whole).mean((0, 2, 3)), atol=0.02
    )


def test_the_plan_has_all_kinds_in_the_stated_shares():
    draws = np.random.default_rng(0).random((relight.DRAWS, 4000))
    plan = relight.plan(draws, 0.4, (0.05, 0.5))
    first, second = plan["light"][:, :2].T
    bright, even = plan["sensor"] == 0, first == second
    assert plan["relit"].mean() == pytest.approx(0.4, abs=0.03)
    assert bright.mean() == pytest.approx(0.25, abs=0.03)
    assert (even & ~bright).mean() == pytest.approx(0.45, abs=0.03)
    assert not first[bright].any()
    assert not second[bright].any()
    low, high = np.log([0.05, 0.5]).astype(np.float32)
    assert np.all((first[~bright] >= low) & (second[~bright] <= high))


def test_colours_keep_grey_and_change_strength_or_order():
    draws = np.random.default_rng(0).random((relight.DRAWS, 600))
    matrices = relight.plan(draws, 0.4, (0.05, 0.5))["colours"]
    np.testing.assert_allclose(matrices.sum(-1), 1, atol=1e-6)
    red = matrices[:, :, 0]
    assert np.mean(red.argmax(-1) == 0) > 0.5
    assert {*red.argmax(-1)} == {0, 1, 2}
    strength = red.max(-1) - red.min(-1)
    assert 0.7 <= strength.min() < 0.8
    assert 2.3 < strength.max() <= 2.5


def test_target_and_image_share_the_colours():
    given = batch(light=[0.0, 0.0, 1.0, 0.0, 0.0, 0.1], sensor=0.0)
    given["target"] = given["image"]
    swapped = np.eye(3, dtype=np.float32)[[2, 1, 0]]
    given["colours"] = np.broadcast_to(swapped, (2, 3, 3))
    found = jax.jit(relight.relight)(given)
    np.testing.assert_array_equal(found["image"], found["target"])
    wanted = given["target"][..., ::-1] / 255
    np.testing.assert_allclose(found["target"], wanted, atol=1e-6)
