"""The training step on one device."""

import jax
import numpy as np
import pytest

from llie_jax.data import pipeline
from llie_jax.training.experiment import Experiment
from tests.training import toys


def batch():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
    return {
        "image": images[0],
        "target": images[1],
        "index": np.arange(4),
    }


def train(steps=3, **changes):
    """Returns the states before and after a few steps, and the last terms."""
    experiment = Experiment.from_config(
        toys.config("", **{f"optimizer.{key}": value for key, value in changes.items()})
    )
    step = jax.jit(experiment.train_step(pipeline.expand_images, None))
    start = state = experiment.init()
    for _ in range(steps):
        state, terms = step(state, {"loss": {}, "data": {}}, batch(), jax.random.key(0))
    return start, state, terms


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_stay_as_they_are(name):
    decay = {"weight_decay": 0.1} if name == "adamw" else {}
    start, state, _ = train(name=name, freeze=("first/*",), **decay)
    for params in (state.params, state.ema_params):
        jax.tree.map(
            np.testing.assert_array_equal, params["first"], start.params["first"]
        )
        for key, leaf in params["last"].items():
            assert np.all(leaf != start.params["last"][key])


def test_frozen_parameters_do_not_count_in_the_gradient_norm():
    *_, every = train(1, name="sgd")
    *_, last = train(1, name="sgd", freeze=("first/*",))
    *_, first = train(1, name="sgd", freeze=("last/*",))
    parts = np.hypot(first["gradient_norm"], last["gradient_norm"])
    assert 0 < last["gradient_norm"] < every["gradient_norm"]
    np.testing.assert_allclose(parts, every["gradient_norm"], rtol=1e-5)


def test_a_pattern_that_freezes_nothing():
    with pytest.raises(
        ValueError, match=r"'backbone/\*', which matches .* Toy.*first/, last/"
    ):
        train(freeze=("first/*", "backbone/*"))


def test_the_output_is_scored_only_if_the_loss_needs_it():
    def terms(**term):
        changes = {f"loss.terms.pixel.{key}": value for key, value in term.items()}
        experiment = Experiment.from_config(toys.config("", **changes))
        step = experiment.train_step(pipeline.expand_images, None)
        rest = {"loss": {}, "data": {}}, batch(), jax.random.key(0)
        return jax.eval_shape(step, experiment.init(), *rest)[1]

    assert "psnr" in terms()
    assert "psnr" not in terms(on="aux.features", against="aux.features")
