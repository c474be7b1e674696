"""The GT-mean loss of images whose brightness is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.losses import WeightedLoss, complete_term, l1
from llie_jax.losses.gt_mean import gt_mean
from llie_jax.types import Outputs

RNG = np.random.default_rng(0)


def images(mean, count=2):
    values = RNG.uniform(0.5, 1.5, (count, 6, 5, 3)) * mean
    return jnp.asarray(values, jnp.float32)


def reference(prediction, target):
    """The definition in float64: two divergences from the distribution between."""
    found = []
    for x, y in zip(np.float64(prediction), np.float64(target), strict=True):
        mine, wanted = (z.mean((0, 1)) @ [0.2989, 0.587, 0.114] for z in (x, y))
        middle = (mine + wanted) / 2
        spread = np.sqrt((mine**2 + wanted**2) / 2) * 0.1
        weight = np.clip(
            sum(
                0.5
                * (
                    np.log(spread / (0.1 * m))
                    + ((0.1 * m) ** 2 + (m - middle) ** 2) / (2 * spread**2)
                    - 0.5
                )
                for m in (mine, wanted)
            ),
            0,
            1,
        )
        scaled = np.clip(x * wanted / mine, 0, 1)
        found.append(
            weight * np.abs(x - y).mean() + (1 - weight) * np.abs(scaled - y).mean()
        )
    return np.array(found)


@pytest.mark.parametrize("factor", [0.3, 0.8, 0.95, 1.0, 1.2])
def test_the_weighted_sum(factor):
    target = images(0.5)
    prediction = target * factor + images(0.02)
    found = gt_mean(l1, prediction, target)
    np.testing.assert_allclose(found, reference(prediction, target), rtol=2e-5)


def test_equal_brightness_and_far_away():
    """A scaled copy costs nothing once it is near, and everything while it is far."""
    target = images(0.4)
    np.testing.assert_allclose(gt_mean(l1, target, target), 0, atol=1e-6)
    far = target * 0.2
    np.testing.assert_allclose(gt_mean(l1, far, target), l1(far, target), rtol=1e-6)
    near = target * 0.97
    assert np.all(gt_mean(l1, near, target) < 0.1 * l1(near, target))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_finite_on_flat_images(value):
    flat = jnp.full((1, 4, 4, 3), value)

    def total(x, y):
        return gt_mean(l1, x, y).sum()

    for target in (flat, jnp.zeros_like(flat)):
        chex.assert_tree_all_finite(jax.value_and_grad(total)(flat, target))


def test_any_term_can_have_it():
    target, prediction = images(0.5), images(0.3)
    loss = WeightedLoss({"pixel": {"name": "l1", "gt_mean": True, "weight": 2.0}})
    batch = {"image": prediction, "target": target}
    total, _ = loss(Outputs(prediction), batch, {}, 0)
    wanted = 2 * reference(prediction, target).mean()
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert complete_term("l1")["gt_mean"] is False
    with pytest.raises(ValueError, match="compares no images; leave out 'gt_mean'"):
        complete_term({"name": "model_loss", "on": "losses.x", "gt_mean": True})
    with pytest.raises(TypeError, match="True or False; got 'yes'"):
        complete_term({"name": "l1", "gt_mean": "yes"})


def test_only_rgb():
    with pytest.raises(ValueError, match=r"RGB images, not \(1, 4, 4, 1\)"):
        gt_mean(l1, jnp.ones((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1)))
