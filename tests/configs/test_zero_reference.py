"""Recipes without references follow their papers, and need no references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax import losses
from llie_jax.cli.experiment import load_config
from llie_jax.losses.weighted import WeightedLoss
from llie_jax.training.experiment import Experiment
from llie_jax.types import Outputs

RECIPES = ("zero_dce", "zero_dce_pp", "sci", "ruas")


def weights(config):
    return {name: term.weight for name, term in config.loss.terms.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_what_all_have_in_common(name):
    config = load_config(name)
    augment = config.data.augment
    for key in ("flip_horizontal", "flip_vertical", "rotate", "mixup"):
        assert not augment[key]
    assert config.schedule.name == "constant"
    assert config.ema.decay == 0


@pytest.mark.parametrize(
    ("name", "lfpv"),
    [
        *((name, "false") for name in RECIPES),
        ("sci", "true"),
        *(
            pytest.param(name, "true", marks=pytest.mark.slow)
            for name in RECIPES
            if name != "sci"
        ),
    ],
)
def test_a_step_needs_no_references(name, lfpv):
    config = load_config(f"{name}:data=image_folder,lfpv={lfpv}")
    experiment = Experiment.from_config(config)
    experiment.loss.check_keys(("image",), "photos")
    step = experiment.train_step(lambda resident, batch: batch, None)
    batch = {"image": jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)}
    state = jax.eval_shape(experiment.init)
    constants = {"loss": {}, "data": {}}
    _, terms = jax.eval_shape(step, state, constants, batch, jax.random.key(0))
    assert set(config.loss.terms) <= set(terms)


@pytest.mark.parametrize(
    ("name", "side", "steps", "smoothness"),
    [("zero_dce", 256, 200 * 303, 200.0), ("zero_dce_pp", 512, 100 * 303, 1600.0)],
)
def test_zero_dce(name, side, steps, smoothness):
    config = load_config(name)
    assert tuple(config.data.train.size) == (side, side)
    stage = config.stages.s0
    assert (stage.steps, stage.patch_size, stage.batch_size) == (steps, side, 8)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adam", 1e-4)
    assert (optimizer.l2, optimizer.clip_norm) == (1e-4, 0.1)
    assert weights(config) == {
        "spatial": 1.0,
        "exposure": 10.0,
        "colour": 5.0,
        "smoothness": smoothness,
    }
    terms = config.loss.terms
    assert (terms.exposure.cell, terms.exposure.level) == (16, 0.6)
    assert (terms.spatial.cell, terms.spatial.against) == (4, "image")
    assert not terms.smoothness.mean_channels


def test_sci():
    config = load_config("sci")
    stage = config.stages.s0
    assert (stage.patch_size, stage.patch_width, stage.batch_size) == (400, 600, 1)
    assert stage.steps == 1000 * 485
    assert load_config("sci:data=lol_v2_syn").stages.s0.patch_width == 384
    photos = load_config("sci:data=image_folder")
    assert tuple(photos.data.train.size) == (400, 600)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adam", 3e-4)
    assert (optimizer.b1, optimizer.b2) == (0.9, 0.999)
    assert (optimizer.l2, optimizer.clip_norm) == (3e-4, 5.0)
    assert weights(config) == {
        f"{name}{stage}": weight
        for stage in ("", "_1", "_2")
        for name, weight in (("fidelity", 1.5), ("smoothness", 1.0))
    }
    for term in ("fidelity", "smoothness"):
        for end, against in (("", "image"), ("_1", "aux.input_1")):
            found = config.loss.terms[f"{term}{end}"]
            assert (found.on, found.against) == (f"aux.illumination{end}", against)
    assert config.loss.terms.smoothness.ycbcr == "reference"
    assert not config.loss.terms.smoothness.separate_means


def test_ruas():
    config = load_config("ruas")
    stage = config.stages.s0
    assert (stage.steps, stage.patch_size, stage.batch_size) == (800, 320, 1)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum) == ("sgd", 0.9)
    assert (optimizer.l2, optimizer.clip_norm) == (3e-4, 5.0)
    assert optimizer.learning_rate == 0.015
    assert optimizer.learning_rate * optimizer.scaled.factor == pytest.approx(0.001)
    assert config.loss.terms.fidelity.weight == 0.5
    assert config.loss.terms.smoothness.weight == 1.0
    assert config.loss.terms.smoothness.separate_means
    assert config.loss.terms.noise.mean_channels


def test_ruas_trains_its_denoiser_every_fiftieth_step():
    loss = WeightedLoss(load_config("ruas").loss.terms.to_dict())
    image = jnp.linspace(0, 1, 4 * 4 * 3).reshape(1, 4, 4, 3)
    names = ("illumination", "denoised", "denoiser_input")
    outputs = Outputs(image, aux=dict.fromkeys(names, image))
    outputs.aux["denoised"] = 1 - image
    steps = np.arange(801)

    @jax.jit
    @jax.vmap
    def run(step):
        return loss(outputs, {"image": image}, {}, step)[1]

    terms = run(steps)
    counted = steps + 1  # the authors count from 1
    trained = (counted % 50 == 0) & (counted <= 800)
    for name in ("noise", "noise_fidelity"):
        np.testing.assert_array_equal(terms[name] > 0, trained)
    values = terms["noise_fidelity"][trained]
    wanted = 1e-7 * losses.mse(1 - image, image)[0]
    np.testing.assert_allclose(values, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_lfpv_has_a_loss_without_references_too(name):
    plain = load_config(name).loss.terms
    wrapped = load_config(f"{name}:lfpv=true").loss.terms
    assert {f"backbone_{term}" for term in plain} < set(wrapped)
    for term in set(wrapped) - {f"backbone_{term}" for term in plain}:
        own = plain[term.removeprefix("lfpv_")]
        assert wrapped[term] == own
        assert "target" not in (wrapped[term].against, own.against)
