import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from llie_jax import registry
from llie_jax.image.resize import resize_bicubic
from llie_jax.losses import LossCard, NetworkLoss, WeightedLoss, complete_term
from llie_jax.types import Outputs
from tests.losses.test_basic import nhwc


@pytest.fixture
def outputs():
    image = jnp.full((2, 16, 16, 3), 0.5)
    aux = {"guide": jnp.full((2, 2, 2, 3), 0.25)}
    return Outputs(image, aux=aux, losses={"nll": jnp.float32(3.0)})


@pytest.fixture
def batch():
    return {"image": jnp.zeros((2, 16, 16, 3)), "target": jnp.ones((2, 16, 16, 3))}


def test_total_is_the_sum_of_the_weighted_terms(outputs, batch):
    loss = WeightedLoss(
        {
            "pixel": "l1",
            "square": {"name": "mse", "weight": 2},
            "flow": {"name": "model_loss", "on": "losses.nll", "weight": 0.1},
            "off": {"name": "edge", "weight": 0.0},
        }
    )
    assert loss.load_constants() == {}
    total, terms = jax.jit(loss)(outputs, batch, {}, 0)
    expected = {"pixel": 0.5, "square": 0.5, "flow": 0.3}
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-6)
    np.testing.assert_allclose(total, 1.3, rtol=1e-6)


def test_hvi_space(outputs, batch):
    terms = {"rgb": "l1", "hvi": {"name": "l1", "space": "hvi"}}
    k = jnp.array([0.2])
    outputs = outputs.replace(aux={"density_k": k})
    _, found = WeightedLoss(terms)(outputs, batch, {}, 0)
    # Both images are grey: only the intensity differs, one channel of three.
    np.testing.assert_allclose(found["rgb"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(found["hvi"], 0.5 / 3, rtol=1e-5)
    red = jnp.zeros((2, 16, 16, 3)).at[..., 0].set(1.0)
    pale = red.at[..., 1:].set(0.5)

    def loss(k):
        made = Outputs(pale, aux={"density_k": k})
        return WeightedLoss({"hvi": terms["hvi"]})(
            made, {**batch, "target": red}, {}, 0
        )

    (total, _), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.array([0.2]))
    np.testing.assert_allclose(total, 0.5 / 3, rtol=1e-5)  # saturation 1/2 less
    assert np.isfinite(gradient).all()


def test_hvi_space_needs_a_model_that_has_it(outputs, batch):
    with pytest.raises(ValueError, match=r"'hvi' names 'aux\.density_k', which this"):
        WeightedLoss({"hvi": {"name": "l1", "space": "hvi"}})(outputs, batch, {}, 0)
    with pytest.raises(ValueError, match=r"Unknown space 'hsv'\. Did you mean 'hvi'"):
        complete_term({"name": "l1", "space": "hsv"})
    with pytest.raises(ValueError, match="'model_loss' compares no images"):
        complete_term({"name": "model_loss", "on": "losses.nll", "space": "hvi"})


def test_guide_in_both_readings(golden):
    data = np.load(golden / "darkir_losses.npz")
    side, target = nhwc(data["side"]), nhwc(data["target"])
    guide = {"name": "l1", "on": "aux.guide"}
    loss = WeightedLoss(
        {
            "paper": {**guide, "resize": "target_area"},
            "code": {**guide, "resize": "prediction_nearest", "weight": 0.8},
        }
    )
    outputs = Outputs(nhwc(data["pred"]), aux={"guide": side})
    _, terms = loss(outputs, {"image": target, "target": target}, {}, 0)
    for name, key in (("paper", "side_l1_down8_area"), ("code", "side_l1_up8_w08")):
        assert abs(terms[name] - data[key]) / data[key] < 1e-5


@pytest.mark.parametrize(
    "resize", ["target_area", "target_bicubic", "prediction_nearest"]
)
def test_guide_of_a_padded_input_covers_the_target_only(resize):
    target = jnp.asarray(np.random.default_rng(0).random((1, 19, 24, 3), np.float32))
    guide = jnp.asarray(np.random.default_rng(1).random((1, 3, 4, 3), np.float32))
    loss = WeightedLoss({"guide": {"name": "l1", "on": "aux.guide", "resize": resize}})
    batch = {"image": jnp.zeros((1, 24, 32, 3)), "target": target}
    outputs = Outputs(batch["image"], aux={"guide": guide})
    value, _ = loss(outputs, batch, {}, 0)
    if resize == "target_area":
        small = target[:, :16].reshape(1, 2, 8, 3, 8, 3).mean((2, 4))
        expected = jnp.abs(guide[:, :2, :3] - small).mean()
    elif resize == "target_bicubic":
        small = resize_bicubic(target[:, :16], (2, 3))
        expected = jnp.abs(guide[:, :2, :3] - small).mean()
    else:
        large = jnp.kron(guide, jnp.ones((1, 8, 8, 1)))[:, :19, :24]
        expected = jnp.abs(large - target).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_what_a_term_is_against(outputs, batch):
    """Each path, with constant images: output 0.5, input 0, target 1, map 0.9."""
    batch = {**batch, "map": jnp.full((2, 16, 16, 3), 0.9)}
    aux = {**outputs.aux, "relit": jnp.full((2, 16, 16, 3), 0.3)}
    outputs = outputs.replace(aux=aux)
    terms = {
        "target": {"name": "l1"},
        "input": {"name": "l1", "against": "image"},
        "map": {"name": "l1", "on": "aux.relit", "against": "map"},
        "aux": {"name": "l1", "against": "aux.relit"},
        "small": {
            "name": "l1",
            "on": "aux.guide",
            "against": "image",
            "resize": "target_area",
        },
    }
    loss = WeightedLoss(terms)
    _, found = loss(outputs, batch, {}, 0)
    expected = {"target": 0.5, "input": 0.5, "map": 0.6, "aux": 0.2, "small": 0.25}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5)
    assert WeightedLoss(loss.terms).terms == loss.terms
    loss.check_keys(("image", "target", "map"), "the set")
    with pytest.raises(ValueError, match="compare with images") as raised:
        loss.check_keys(("image",), "image_folder all")
    for part in (
        "image_folder all does not have",
        "'target' with 'target', 'map' with",
    ):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match=r"'map' is against 'map', which the batch"):
        loss(outputs, {k: v for k, v in batch.items() if k != "map"}, {}, 0)
    with pytest.raises(ValueError, match=r"names 'aux.relit', which this model does"):
        loss(outputs.replace(aux={"guide": aux["guide"]}), batch, {}, 0)


def test_losses_without_a_target(outputs, batch, monkeypatch):
    """Zero-reference terms: the model's own loss, and a loss of one image."""
    monkeypatch.setitem(registry._PARTS, "loss", dict(registry._PARTS["loss"]))

    @registry.register("exposure_for_test", LossCard(needs_target=False))
    def exposure(image, *, level: float = 0.6):
        return jnp.square(image.mean((1, 2, 3)) - level)

    loss = WeightedLoss(
        {
            "own": {"name": "model_loss", "on": "losses.nll"},
            "exposure": {"name": "exposure_for_test", "level": 0.75, "weight": 10.0},
            "input": {"name": "l1", "against": "image"},
        }
    )
    assert loss.terms["own"]["against"] == loss.terms["exposure"]["against"] == ""
    loss.check_keys(("image",), "the photos")
    total, terms = loss(outputs, {"image": batch["image"]}, {}, 0)
    np.testing.assert_allclose(terms["exposure"], 0.625, rtol=1e-6)
    np.testing.assert_allclose(total, 3.0 + 0.625 + 0.5, rtol=1e-6)
    with pytest.raises(
        ValueError, match="'exposure_for_test' compares no images; leave"
    ):
        complete_term({"name": "exposure_for_test", "against": "image"})


def test_a_network_behind_a_loss(outputs, batch, monkeypatch):
    monkeypatch.setitem(registry._PARTS, "loss", dict(registry._PARTS["loss"]))

    @registry.register("scaled_for_test", LossCard())
    @dataclasses.dataclass(frozen=True)
    class Scaled(NetworkLoss):
        """A difference times a constant from a file."""

        file: str = "a"

        @property
        def constants_key(self):
            return f"scale:{self.file}"

        def load_constants(self):
            return {"scale": jnp.float32(3.0)}

        def constants_shapes(self):
            return {"scale": jax.ShapeDtypeStruct((), jnp.float32)}

        def __call__(self, prediction, target, constants):
            return constants["scale"] * (target - prediction).mean((1, 2, 3))

    loss = WeightedLoss(
        {
            "one": "scaled_for_test",
            "same": {"name": "scaled_for_test", "against": "image"},
            "other": {"name": "scaled_for_test", "file": "b"},
        }
    )
    constants = loss.load_constants()
    assert set(constants) == {"scale:a", "scale:b"} == set(loss.constants_shapes())
    _, terms = loss(outputs, batch, constants, 0)
    found = {name: float(value) for name, value in terms.items()}
    assert found == {"one": 1.5, "same": -1.5, "other": 1.5}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            {
                "name": "linear",
                "init_value": 0.0,
                "end_value": 2.0,
                "transition_steps": 10,
            },
            {0: 0.0, 5: 1.0, 10: 2.0, 99: 2.0},
        ),
        (
            {"name": "cosine", "init_value": 2.0, "decay_steps": 10, "alpha": 0.1},
            {0: 2.0, 5: 1.1, 10: 0.2, 99: 0.2},
        ),
        (
            {
                "name": "piecewise_constant",
                "values": [1.0, 0.5, 0.0],
                "boundaries": [3, 6],
            },
            {0: 1.0, 2: 1.0, 3: 0.5, 5: 0.5, 6: 0.0},
        ),
    ],
    ids=lambda value: value.get("name"),
)
def test_weight_schedules(outputs, batch, schedule, expected):
    loss = WeightedLoss({"pixel": {"name": "l1", "weight": schedule}})
    step = jax.jit(lambda step: loss(outputs, batch, {}, step)[0])
    for at, weight in expected.items():
        np.testing.assert_allclose(step(at), 0.5 * weight, atol=1e-6)


def test_terms_of_a_config(outputs, batch):
    terms = {"pixel": complete_term("charbonnier"), "edge": {"name": "edge"}}
    terms["edge"]["weight"] = complete_term(
        {
            "name": "l1",
            "weight": {
                "name": "linear",
                "init_value": 0,
                "end_value": 1,
                "transition_steps": 2,
            },
        }
    )["weight"]
    config = ml_collections.ConfigDict({"terms": terms}).lock()
    loss = WeightedLoss(config.terms)
    assert loss.terms["pixel"] == {
        "name": "charbonnier",
        "eps": 1e-6,
        "clip": False,
        "reduce": "mean",
        "on": "image",
        "against": "target",
        "weight": 1.0,
        "resize": "",
        "space": "",
        "gt_mean": False,
    }
    assert loss.terms["edge"]["weight"]["transition_begin"] == 0
    assert WeightedLoss(loss.terms).terms == loss.terms
    assert np.isfinite(loss(outputs, batch, {}, 1)[0])


def test_whole_output_losses(outputs, batch, monkeypatch):
    def whole(outputs, batch, *, scale: float = 1.0):
        return scale * jnp.abs(outputs.aux["guide"]).mean((1, 2, 3))

    monkeypatch.setitem(registry._PARTS, "loss", dict(registry._PARTS["loss"]))
    card = LossCard(whole_output=True, needs_target=False)
    registry.register("whole_for_test", card)(whole)
    loss = WeightedLoss({"whole": {"name": "whole_for_test", "scale": 2.0}})
    np.testing.assert_allclose(loss(outputs, batch, {}, 0)[0], 0.5)
    with pytest.raises(ValueError, match="leave out 'on'"):
        complete_term({"name": "whole_for_test", "on": "aux.guide"})
    assert loss.terms["whole"]["against"] == ""
    loss.check_keys(("image",), "the set")
    registry.register("paired_for_test", LossCard(whole_output=True))(
        lambda outputs, batch: outputs.image - batch["target"]
    )
    with pytest.raises(ValueError, match=r"'paired' with 'target'\. It has: image\."):
        WeightedLoss({"paired": "paired_for_test"}).check_keys(("image",), "the set")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("ll1", ValueError, "Unknown loss 'll1'. Did you mean 'l1'?"),
        ({"weight": 1.0}, ValueError, "needs a 'name'"),
        (
            {"name": "l1", "wieght": 1.0},
            ValueError,
            "no option 'wieght'. Did you mean 'weight'?",
        ),
        ({"name": "charbonnier", "epz": 1.0}, ValueError, "Did you mean 'eps'?"),
        ({"name": "l1", "on": "guide"}, ValueError, "'aux.NAME' or 'losses.NAME'"),
        ({"name": "l1", "on": "aux."}, ValueError, "got 'aux.'"),
        ({"name": "l1", "against": "losses.nll"}, ValueError, "got 'losses.nll'"),
        ({"name": "l1", "against": "aux."}, ValueError, "or 'aux.NAME'; got 'aux.'"),
        ({"name": "l1", "against": ""}, ValueError, "against 'target', 'image' (the"),
        (
            {"name": "l1", "on": "losses.nll"},
            ValueError,
            "'model_loss' on it, not",
        ),
        (
            {"name": "l1", "resize": "target_aera"},
            ValueError,
            "Did you mean 'target_area'?",
        ),
        ({"name": "l1", "weight": "high"}, TypeError, "got 'high'"),
        ({"name": "l1", "weight": True}, TypeError, "got True"),
        (
            {"name": "l1", "weight": {"name": "liner"}},
            ValueError,
            "Did you mean 'linear'?",
        ),
        (
            {"name": "l1", "weight": {"name": "linear", "init_value": 0.0}},
            ValueError,
            "'linear' needs a value for its field 'end_value'",
        ),
        (
            {
                "name": "l1",
                "weight": {
                    "name": "piecewise_constant",
                    "values": [1.0],
                    "boundaries": [5],
                },
            },
            ValueError,
            "one more value than boundaries",
        ),
    ],
)
def test_mistakes_in_a_spec(spec, error, message):
    with pytest.raises(error) as raised:
        WeightedLoss({"term": spec})
    assert message in str(raised.value)


def test_no_terms():
    for terms in ({}, {"pixel": {"name": "l1", "weight": 0.0}}):
        with pytest.raises(ValueError, match="at least one term"):
            WeightedLoss(terms)


def test_absent_path_lists_what_there_is(outputs, batch):
    loss = WeightedLoss({"guide": {"name": "l1", "on": "aux.guid"}})
    with pytest.raises(ValueError, match="guide") as error:
        loss(outputs, batch, {}, 0)
    assert "Did you mean 'aux.guide'?" in str(error.value)
    assert "It returns: image, aux.guide, losses.nll." in str(error.value)


def test_sizes_must_agree(outputs, batch):
    loss = WeightedLoss({"low": {"name": "l1", "on": "aux.guide"}})
    with pytest.raises(ValueError, match="'low'") as error:
        loss(outputs, batch, {}, 0)
    for part in ("(2, 2, 2, 3)", "(2, 16, 16, 3)", "target_area", "prediction_nearest"):
        assert part in str(error.value)
    uneven = Outputs(outputs.image, aux={"guide": jnp.zeros((2, 3, 2, 3))})
    loss = WeightedLoss(
        {"low": {"name": "l1", "on": "aux.guide", "resize": "target_area"}}
    )
    with pytest.raises(ValueError, match="whole factor"):
        loss(uneven, batch, {}, 0)
    scalar = Outputs(outputs.image, aux={"guide": jnp.float32(1)})
    with pytest.raises(ValueError, match="compares images"):
        loss(scalar, batch, {}, 0)


def test_gradient_reaches_every_prediction(batch):
    guide = {"name": "l1", "on": "aux.guide", "resize": "target_area"}
    loss = WeightedLoss({"pixel": "l1", "guide": guide})

    def objective(image, guide):
        return loss(Outputs(image, aux={"guide": guide}), batch, {}, 0)[0]

    image, guide = jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 2, 2, 3))
    grads = jax.grad(objective, argnums=(0, 1))(image, guide)
    np.testing.assert_allclose(grads[0], -1 / image.size, rtol=1e-5)
    np.testing.assert_allclose(grads[1], -1 / guide.size, rtol=1e-5)
