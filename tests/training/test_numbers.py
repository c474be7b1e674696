"""A run's numbers do not depend on devices, parts of a batch, or memory options."""

import re

import jax
import numpy as np
import pytest

import llie_jax
from llie_jax.models.base import card
from llie_jax.training.remat import check, rematerialised
from llie_jax.training.state import TrainState
from llie_jax.training.step import make_gradient
from tests import processes
from tests.training import toys


def differences(found):
    """Returns run -> largest difference to one device, of the state and the losses."""
    one = found["1"]
    return {
        name: max(
            np.abs(np.subtract(run["state"], one["state"])).max(),
            np.abs(np.divide(run["losses"], one["losses"]) - 1).max(),
        )
        for name, run in found.items()
    }


@pytest.mark.parametrize(
    "model", ["toy", pytest.param("darkir", marks=pytest.mark.slow)]
)
def test_fifty_steps_of_sgd_on_any_number_of_devices(model):
    module = "tests.training.devices_check"
    found = processes.result(processes.start(module, model, 50, devices=8))
    assert found["1"]["losses"][-1] < 0.9 * found["1"]["losses"][0]
    assert max(differences(found).values()) < 1e-5
    # Momentum of most parameters, and only with `shard_optimizer`.
    assert found["sharded"]["split"] > found["sharded"]["of"] // 2
    assert {run["split"] for name, run in found.items() if name != "sharded"} == {0}


def gradient_of(model, accumulate=1, remat=""):
    """Returns the gradient function of a model, its state, and the rest."""
    image = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    variables = model.init(jax.random.key(1), image)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables.pop("params"))
    zero = np.zeros((), np.int32)
    state = TrainState(zero, params, variables, None, None, zero)

    def loss(outputs, batch, constants, step):
        value = ((outputs.image - batch["target"]) ** 2).mean()
        return value, {"mse": value}

    gradient = make_gradient(model, loss, accumulate=accumulate, remat=remat)
    batch = {"image": image, "target": 0.5 * image[:, ::-1]}
    return gradient, state, ({"data": {}, "loss": {}}, batch, jax.random.key(2))


def assert_close(found, wanted, tolerance):
    """Compares trees; the tolerance is relative to the largest value of all."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest),
        found,
        wanted,
    )


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
    gradient, state, rest = gradient_of(toys.ToyBackbone())
    wanted = jax.jit(gradient)(state, *rest)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[0])) > 0.1
    gradient, *_ = gradient_of(toys.ToyBackbone(), accumulate=parts)
    assert_close(jax.jit(gradient)(state, *rest), wanted, 1e-6)


def test_batch_norms_see_one_part_at_a_time():
    model = toys.Toy()
    gradient, state, (constants, batch, rng) = gradient_of(model, accumulate=2)
    _, collections, _ = gradient(state, constants, batch, rng)
    assert collections["counters"]["steps"] == 2
    alone, *_ = gradient_of(model)
    for part in (slice(2), slice(2, 4)):
        half = jax.tree.map(lambda leaf, part=part: leaf[part], batch)
        _, after, _ = alone(state, constants, half, rng)
        state = state.replace(collections=after)
    assert_close(collections, state.collections, 1e-6)


@pytest.mark.usefixtures("native_convolutions")
@pytest.mark.parametrize(
    ("name", "patterns", "modules"),
    [
        pytest.param("darkir", "encoders_?,decoders_1", 3, marks=pytest.mark.slow),
        pytest.param("restormer", "*/block_*", 8, marks=pytest.mark.slow),
        pytest.param("retinexformer", "*/block_*", 10, marks=pytest.mark.slow),
        pytest.param("cidnet", "*/lca_*", 11, marks=pytest.mark.slow),
    ],
)
def test_rematerialised_modules_change_nothing_but_memory(name, patterns, modules):
    model = llie_jax.build({"name": name, **card(name).tiny})
    check(patterns, model)
    gradient, state, rest = gradient_of(model)
    again, *_ = gradient_of(model, remat=patterns)
    found = jax.make_jaxpr(again)(state, *rest)
    assert "remat" not in str(jax.make_jaxpr(gradient)(state, *rest))
    assert len(re.findall(r"\bremat\w*\[", str(found))) == modules
    assert_close(jax.jit(again)(state, *rest), jax.jit(gradient)(state, *rest), 1e-5)


def test_parameters_do_not_know_what_is_rematerialised():
    model = toys.ToyBackbone()
    image = np.zeros((1, 4, 4, 3), np.float32)
    plain = jax.eval_shape(model.init, jax.random.key(0), image)
    with rematerialised("first"):
        again = jax.eval_shape(model.init, jax.random.key(0), image)
    assert again == plain


def test_a_pattern_that_matches_no_module():
    with pytest.raises(ValueError, match=r"'block_9'.*ToyBackbone.*first, last"):
        check("first, block_9", toys.ToyBackbone())
