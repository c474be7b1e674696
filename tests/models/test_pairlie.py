"""PairLIE against the official code, and what is particular to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs
from llie_jax.cli.experiment import load_config
from llie_jax.losses.weighted import WeightedLoss
from llie_jax.models import base, pairlie
from llie_jax.models.base import variable_shapes
from llie_jax.nn import layers
from llie_jax.training import loop
from llie_jax.training.experiment import Experiment
from tests.data import trees
from tests.official import nhwc

AXES = ("horizontal", "vertical")
TINY = {"name": "pairlie", "width": 4}


@pytest.fixture(scope="module")
def official(golden):
    with np.load(golden / "pairlie_random.npz") as file:
        arrays = dict(file)
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    model, variables = convert.from_torch(tensors)
    with jax.default_matmul_precision("highest"):
        yield model, variables, arrays


@pytest.mark.parametrize("size", ["", "_odd"])
def test_network_golden(official, size):
    model, variables, arrays = official
    assert llie_jax.registry.spec_of(model) == llie_jax.default_spec("pairlie")
    image = nhwc(arrays[f"input{size}"])

    @jax.jit
    def run(variables, image):
        bright = model.with_options({"exponent": 0.14})
        return model.apply(variables, image), bright.apply(variables, image).image

    outputs, bright = run(variables, image)
    found = {
        "output": bright,
        "output_exp02": outputs.image,
        "L": outputs.aux["illumination"],
        "R": outputs.aux["reflectance"],
        "X": outputs.aux["denoised"],
    }
    for name, value in found.items():
        expected = nhwc(arrays[f"{name}{size}"])
        np.testing.assert_allclose(value, expected, atol=2e-6, rtol=0)


def test_loss_golden(official):
    """The recipe's terms, without their weights, add up to the authors' three."""
    model, variables, arrays = official
    terms = load_config("pairlie").loss.terms.to_dict()
    loss = WeightedLoss({name: {**term, "weight": 1.0} for name, term in terms.items()})
    image, second = nhwc(arrays["input"]), nhwc(arrays["input2"])

    @jax.jit
    def run(variables, image, second):
        outputs = model.apply(variables, image, second=second, train=True)
        batch = {"image": image, "second": second}
        return loss(outputs, batch, {}, 0)[1]

    found = run(variables, image, second)
    parts = {"C": ("pixel",), "P": ("projection",)}
    parts["R"] = tuple(set(found) - {"pixel", "projection"})
    assert len(parts["R"]) == 4
    for name, members in parts.items():
        total = sum(float(found[member]) for member in members)
        np.testing.assert_allclose(total, arrays[f"loss:{name}"], rtol=1e-5)


def test_costs_are_the_published_ones():
    found = costs.count("pairlie")
    assert found.params == found.inference_params == 341_767
    assert round(found.macs / 1e9, 2) == 22.35


def test_official_keys(golden):
    shapes = json.loads((golden / "pairlie_random_keys.json").read_text())
    tensors = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
    spec = convert.infer_spec(tensors)
    assert spec == llie_jax.default_spec("pairlie")
    patterns = base.card("pairlie").torch.patterns
    variables = variable_shapes(llie_jax.build(spec))
    filled = convert.convert_tensors(tensors, variables, patterns)
    assert len(jax.tree.leaves(filled)) == len(shapes) == 30
    del tensors["L_net.L_net.13.bias"]
    with pytest.raises(ValueError, match=r"Missing keys: L_net\.L_net\.13\.bias"):
        convert.from_torch(tensors)


def test_a_checkpoint_without_its_width_is_refused():
    tensors = {"L_net.L_net.13.weight": np.zeros((1, 8, 3, 3))}
    with pytest.raises(ValueError, match=r"no 'N_net\.N_net\.1\.weight'"):
        convert.infer_spec(tensors, "pairlie")


@pytest.fixture(scope="module")
def tiny():
    model = llie_jax.build(TINY)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


@pytest.mark.usefixtures("native_convolutions")
def test_borders_are_reflected():
    module = pairlie.ReflectedConv(2)
    image = jax.random.uniform(jax.random.key(1), (1, 5, 4, 3))
    variables = module.init(jax.random.key(0), image)
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    conv = layers.Conv(2, padding=0)
    expected = conv.apply({"params": variables["params"]["conv"]}, padded)
    np.testing.assert_allclose(module.apply(variables, image), expected, atol=1e-6)


@pytest.mark.usefixtures("native_convolutions")
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1)])
def test_the_smallest_images(tiny, size):
    model, variables = tiny
    output = llie_jax.Enhancer(model, variables)(np.full((*size, 3), 0.2, np.float32))
    assert output.shape == (*size, 3)
    assert output.min() > 0
    assert output.max() < 1


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite(tiny):
    """On flat images, and where the illumination is 0 in float32."""
    model, variables = tiny
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 4, 4, 3))
    loss = WeightedLoss(load_config("pairlie").loss.terms.to_dict())

    @jax.jit
    @jax.grad
    def gradient(variables):
        outputs = model.apply(variables, image, second=image[::-1], train=True)
        total, _ = loss(outputs, {"image": image}, {}, 0)
        return total + jnp.sum(outputs.image)

    chex.assert_tree_all_finite(gradient(variables))

    @jax.jit
    @jax.grad
    def brightness(variables):
        return jnp.sum(model.apply(variables, image).image)

    dark = jax.tree.map(jnp.copy, variables)
    bias = dark["params"]["illumination"]["head"]["conv"]["bias"]
    dark["params"]["illumination"]["head"]["conv"]["bias"] = bias - 200
    assert model.apply(dark, image).aux["illumination"].max() == 0
    chex.assert_tree_all_finite(brightness(dark))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"width": 0}, "width=0; use at least 1"), ({"exponent": -0.1}, "0 or more")],
)
def test_impossible_fields(fields, message):
    model = llie_jax.build({**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


def test_a_second_exposure_of_another_size_is_refused(tiny):
    model, variables = tiny
    image = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match=r"second is \(1, 4, 6, 3\), the image"):
        model.apply(variables, image, second=jnp.zeros((1, 4, 6, 3)), train=True)


def test_the_recipe_is_the_authors():
    config = load_config("pairlie")
    experiment = Experiment.from_config(config)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 1e-4)
    assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.999)
    assert config.stages.s0.to_dict() == {
        "steps": 400 * 324,
        "patch_size": 128,
        "batch_size": 1,
        "patch_width": 0,
    }
    rates = [
        float(experiment.schedule(324 * epoch + shift))
        for epoch in (100, 200, 300)
        for shift in (-1, 0)
    ]
    expected = 1e-4 * np.array([1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert not any(config.data.augment[f"flip_{each}"] for each in AXES)
    weights = {name: term.weight for name, term in config.loss.terms.items()}
    assert weights.pop("projection") == 500
    assert set(weights.values()) == {1.0}
    wrapped = load_config("pairlie:lfpv=true").loss.terms
    assert wrapped.lfpv_pixel.on == "aux.reflectance"
    assert wrapped.lfpv_pixel.against == "aux.second_reflectance"


@pytest.mark.usefixtures("native_convolutions")
@pytest.mark.parametrize("lfpv", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_on_pairs_of_exposures(tmp_path, lfpv):
    names = ("1", "2", "3")
    root = trees.scenes(tmp_path / "scenes", {"cafe": names, "sea": names})
    config = load_config(
        f"pairlie:lfpv={lfpv}",
        [
            f"--config.data.train.root={root}",
            "--config.stages.s0.steps=2",
            "--config.stages.s0.patch_size=8",
            f"--config.model.{'backbone.' if lfpv else ''}width=4",
        ],
    )
    assert loop.train(config, tmp_path / "run", stop_at=1, progress=False).step == 1
    result = loop.train(config, tmp_path / "run", progress=False)  # resumes
    assert result.finished
    assert int(result.state.skipped) == 0


def test_training_needs_a_second_exposure(tmp_path):
    photos = trees.photos(tmp_path / "photos", ("1", "2"))
    config = load_config(
        "pairlie",
        ["--config.data.train.name=image_folder", f"--config.data.train.root={photos}"],
    )
    message = "pairlie needs second; the records of image_folder all have image only"
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path / "run", progress=False)
