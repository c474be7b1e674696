"""Training and evaluation on photos without references, from data to report."""

import json

import jax
import numpy as np
import pytest

from llie_jax import evaluation, metrics, weights
from llie_jax.configs import base
from llie_jax.data import pipeline
from llie_jax.evaluation.report import read_log
from llie_jax.image import io
from llie_jax.metrics import protocol as protocols
from llie_jax.training import loop
from llie_jax.training.experiment import Experiment
from llie_jax.weights.store import Store
from tests.metrics import toys as metric_toys
from tests.training import toys

TERMS = {
    "exposure": {"name": "model_loss", "on": "losses.exposure", "weight": 10.0},
    "near": {"name": "l1", "against": "image", "weight": 0.1},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return toys.write_photos(tmp_path_factory.mktemp("photos") / "dark")


def config(photos, terms=TERMS, **changes):
    found = toys.config(photos, **{"data.train.name": "image_folder", **changes})
    with found.unlocked():
        found.model = base.spec("toy_curve")
        found.loss.terms = terms
    return base.check(found)


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, loop.train(config(photos), workdir, progress=False)


def test_a_run_without_references(run):
    workdir, result = run
    assert result.finished
    assert result.validation == {}
    first, *lines = read_log(workdir / "log.jsonl")
    assert first["step"] == 0  # what it runs on
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        assert {"exposure", "near", "loss"} <= set(line)
        assert not any("psnr" in key for key in line)
        assert line["loss"] == pytest.approx(line["exposure"] + line["near"], rel=1e-5)
    assert lines[-1]["exposure"] < lines[0]["exposure"]
    # Input and output of the two held-out photos, side by side.
    strip = io.read_rgb(workdir / "samples" / "step_0000008.png")
    paired = 3 * 20
    assert strip.shape[1] < paired
    report = (workdir / "report.html").read_text()
    assert "image_folder" in report
    assert "PSNR" not in report


def test_the_newest_weights_count(run):
    workdir, result = run
    checkpoints = Store(workdir / "checkpoints")
    assert checkpoints.steps() == [6, 8]  # the last two; none is the best
    checkpoints.close()
    _, best = weights.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, best["params"], result.state.ema_params)


@pytest.mark.parametrize("residence", ["device", "host"])
def test_resumed_runs_equal_unbroken_ones(photos, run, tmp_path, residence, capsys):
    settings = config(photos, **{"data.residence": residence})
    assert loop.train(settings, tmp_path, stop_at=3).step == 3
    shown = " ".join(capsys.readouterr().err.split())
    assert "no references: validation shows pictures without scores" in shown
    assert "step 2/8 loss" in shown
    assert "PSNR" not in shown
    last = loop.train(settings, tmp_path, progress=False)
    jax.tree.map(np.testing.assert_array_equal, last.state, run[1].state)


def test_scores_without_references(run, photos, tmp_path, monkeypatch):
    with metric_toys.registered(monkeypatch):
        level = protocols.Protocol("level", "", {"level": "toy_level"})
        monkeypatch.setitem(protocols.PROTOCOLS, "level", level)
        evaluation.run(
            run[0],
            photos,
            protocol="level",
            out=tmp_path,
            save_images=True,
            all_protocols=True,
            progress=False,
        )
        found = json.loads((tmp_path / "scores.json").read_text())
        assert (found["count"], found["data"]["name"]) == (6, "image_folder")
        for name, row in found["images"].items():
            image = io.read_rgb(tmp_path / "images" / f"{name}.png")
            assert row["level"] == metrics.compute("toy_level", image)
            assert row["level"] > found["input"]["images"][name]["level"]
    assert (tmp_path / "scores.csv").read_text().startswith("name,level,input_level\n")
    report = (tmp_path / "report.html").read_text()
    assert "toy_curve on image_folder all" in report
    assert "show target" not in report


def test_a_protocol_that_needs_references(run, photos, tmp_path):
    with pytest.raises(ValueError, match=r"Protocol 'default' needs .* all does not"):
        evaluation.run(run[0], photos, out=tmp_path / "no", progress=False)
    assert not (tmp_path / "no").exists()


def test_a_loss_that_needs_references(photos, tmp_path):
    terms = {**TERMS, "pixel": {"name": "l1"}}
    with pytest.raises(
        ValueError,
        match=r"all/train does not have: 'pixel' with 'target'\. It has: image\.",
    ):
        loop.train(config(photos, terms), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_step_with_and_without_a_target(photos):
    settings = toys.config(photos)
    with settings.unlocked():
        settings.loss.terms = {"near": {"name": "l1", "against": "image"}}
    experiment = Experiment.from_config(base.check(settings))
    step = jax.jit(experiment.train_step(pipeline.expand_images, None))
    draw = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
    batch = {"image": draw[0], "index": np.arange(4)}
    results = [
        step(experiment.init(), {"loss": {}, "data": {}}, each, jax.random.key(0))
        for each in (batch, {**batch, "target": draw[1]})
    ]
    (alone, terms), (paired, more) = results
    jax.tree.map(np.testing.assert_array_equal, alone, paired)
    assert set(more) - set(terms) == {"psnr"}


def test_a_plan_of_a_set_without_references(photos):
    from llie_jax.training import capacity
    from tests.training.test_capacity import one_device

    experiment = Experiment.from_config(config(photos))
    planner = capacity.Planner(experiment, one_device(None), resident=(5, 24, 20))
    _, (_, constants, _, _) = planner._step((8, 8), 4)
    assert set(constants["data"]) == {"image"}
    planner = capacity.Planner(experiment, one_device(None))
    _, (_, _, batch, _) = planner._step((8, 8), 4)
    assert set(batch) == {"image", "index"}
