"""Whole runs on a toy model: files, resuming, interruption, mistakes."""

import json
import os
import signal
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import weights
from llie_jax.cli.experiment import load_config
from llie_jax.configs import base
from llie_jax.evaluation.report import read_log
from llie_jax.training import loop
from llie_jax.training.checkpoint import Checkpoints
from tests.conftest import ROOT
from tests.training import toys


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return toys.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def unbroken(pairs, tmp_path_factory):
    """An unbroken run of 8 steps: its folder and its result."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, loop.train(toys.config(pairs), workdir, progress=False)


def same(a, b):
    """Asserts that two states are equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_leaves_its_files(unbroken):
    workdir, result = unbroken
    assert result.finished
    assert result.step == 8
    assert int(result.state.collections["counters"]["steps"]) == 8
    lines = read_log(workdir / "log.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4, 6, 8]
    assert {"pixel", "rate", "images_per_second", "data_wait", "psnr"} <= set(steps[0])
    validated = [line for line in lines if "validation_psnr" in line]
    assert [line["step"] for line in validated] == [4, 8]
    assert validated[-1]["validation_psnr"] == result.validation["psnr"]
    assert (workdir / "samples" / "step_0000008.png").stat().st_size > 100
    assert any((workdir / "events").iterdir())
    report = (workdir / "report.html").read_text()
    assert "paired_folder" in report
    assert "<svg" in report
    saved = base.from_json((workdir / "config.json").read_text())
    assert saved.model.name == "toy"


def test_latest_and_best_are_kept(unbroken):
    workdir, _ = unbroken
    checkpoints = Checkpoints(workdir / "checkpoints")
    assert checkpoints.steps()[-1] == 8
    assert len(checkpoints.steps()) <= 2
    checkpoints.close()


def test_the_best_survives_a_restart(tmp_path):
    state = {"step": np.zeros(()), "params": np.zeros(3)}
    for step, psnr in ((1, 20.0), (2, None), (3, 19.0), (4, 18.0), (5, None)):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state, step=step, psnr=psnr)
        checkpoints.wait()
        kept = checkpoints.steps()
        checkpoints.close()
    assert kept == [1, 5]


def test_the_model_of_a_run_is_the_averaged_one(unbroken):
    workdir, result = unbroken
    model, variables = weights.load(workdir, step="latest")
    assert type(model).__name__ == "Toy"
    same(variables["params"], result.state.ema_params)
    assert not np.array_equal(
        variables["params"]["first"]["kernel"], result.state.params["first"]["kernel"]
    )


@pytest.mark.parametrize("residence", ["device", "host"])
def test_resumed_runs_equal_unbroken_ones(pairs, unbroken, tmp_path, residence):
    config = toys.config(pairs, **{"data.residence": residence})
    for stop in (3, 5):
        part = loop.train(config, tmp_path, stop_at=stop, progress=False)
        assert (part.finished, part.step) == (False, stop)
    last = loop.train(config, tmp_path, progress=False)
    assert last.finished
    same(last.state, unbroken[1].state)
    steps = [line["step"] for line in read_log(tmp_path / "log.jsonl")]
    assert steps == sorted(steps)


def test_a_finished_run_has_nothing_left_to_do(pairs, unbroken):
    workdir, result = unbroken
    again = loop.train(toys.config(pairs), workdir, progress=False)
    assert again.finished
    same(again.state.params, result.state.params)


def test_stages_change_the_shapes(pairs, tmp_path):
    config = toys.config(pairs)
    with config.unlocked():
        config.stages.s0.steps = 2
        config.stages.s1 = dict(steps=2, patch_size=12, batch_size=2)
    result = loop.train(base.check(config), tmp_path, progress=False)
    assert result.step == 4


def test_whole_images_of_one_size(pairs, tmp_path):
    changes = {
        "data.train.size": (16, 26),
        "stages.s0": dict(steps=2, patch_size=16, patch_width=26, batch_size=2),
    }
    config = toys.config(pairs)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    result = loop.train(base.check(config), tmp_path, progress=False)
    assert result.step == 2
    assert set(result.validation) == {"psnr", "ssim"}
    config.data.train.size = (18, 26)
    with pytest.raises(ValueError, match=r"another config \(data.train.size"):
        loop.train(config, tmp_path, progress=False)


def test_a_damaged_checkpoint_is_passed_over_loudly(pairs, tmp_path, capsys):
    # Rising scores cannot be relied on, so the better of two is whichever it is.
    config = toys.config(pairs, **{"data.validation.fraction": 0.0})
    loop.train(config, tmp_path, stop_at=4, progress=False)
    kept = tmp_path / "kept"
    (tmp_path / "checkpoints" / "4").rename(kept)
    loop.train(config, tmp_path, stop_at=2, progress=False)
    kept.rename(tmp_path / "checkpoints" / "4")
    for file in (tmp_path / "checkpoints" / "4").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:100])
    result = loop.train(config, tmp_path, stop_at=3)
    assert result.step == 3
    message = capsys.readouterr().err
    assert "checkpoint 4 cannot be read" in message
    assert "resuming at step 2" in message
    assert (tmp_path / "4.damaged").is_dir()


def test_a_loss_that_is_not_finite_stops_the_run(pairs, tmp_path):
    config = toys.config(pairs, **{"optimizer.name": "sgd"})
    config.optimizer.learning_rate = 1e30
    with pytest.raises(loop.NonFiniteError, match=r"Step [2-4]: .*not finite"):
        loop.train(config, tmp_path, progress=False)
    # Whatever was saved is finite.
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    if checkpoints.steps():
        _, variables = weights.load(tmp_path, step="latest")
        chex.assert_tree_all_finite(variables)
    checkpoints.close()


def test_skipping_has_a_bound(pairs, tmp_path):
    config = toys.config(
        pairs, **{"optimizer.name": "sgd", "nonfinite": "skip", "max_skipped": 3}
    )
    config.optimizer.learning_rate = 1e30
    with pytest.raises(loop.NonFiniteError, match="3 skipped steps are the limit"):
        loop.train(config, tmp_path, progress=False)


def test_sigterm_saves_and_leaves(pairs, tmp_path):
    config = toys.config(pairs)
    config.stages.s0.steps = 100_000

    def interrupt():
        while not (tmp_path / "log.jsonl").exists():
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = loop.train(config, tmp_path, progress=False)
    thread.join()
    assert result.signal == signal.SIGTERM
    assert not result.finished
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps()[-1] == result.step > 0
    checkpoints.close()


def test_another_config_in_the_same_folder(pairs, unbroken):
    workdir, _ = unbroken
    config = toys.config(pairs, **{"optimizer.learning_rate": 2e-2, "model.width": 6})
    with pytest.raises(ValueError, match=r"another config \(model.width: 4 there, 6"):
        loop.train(config, workdir, progress=False)


def test_a_folder_of_an_older_version(pairs, tmp_path):
    config = toys.config(pairs)
    older = json.loads(base.to_json(config))
    older["optimizer"]["frozen"] = older["optimizer"].pop("freeze")
    (tmp_path / "config.json").write_text(json.dumps(older))
    with pytest.raises(
        ValueError, match=r"json .*older version .*'frozen'.* Use another --workdir\.$"
    ):
        loop.train(config, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_starting_from_other_weights(pairs, unbroken, tmp_path):
    workdir, _ = unbroken
    config = toys.config(pairs, init_from=str(workdir))
    config.stages.s0.steps = 1
    config.optimizer.learning_rate = 0.0
    config.optimizer.weight_decay = 0.0
    config.schedule = base.spec("constant")
    begun = loop.train(config, tmp_path / "fits", progress=False)
    _, best = weights.load(workdir)
    same(begun.state.params, best["params"])
    other = toys.config(pairs, **{"init_from": str(workdir), "model.width": 6})
    with pytest.raises(ValueError, match="do not fit the model"):
        loop.train(other, tmp_path / "other", progress=False)


def test_starting_from_the_weights_of_a_smaller_model(pairs, unbroken, tmp_path):
    workdir, _ = unbroken
    changes = {
        "init_from": str(workdir),
        "model.extra": True,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.0,
    }
    with pytest.raises(ValueError, match="Missing names: params/extra/bias"):
        loop.train(toys.config(pairs, **changes), tmp_path / "no", progress=False)
    config = toys.config(pairs, init_missing="*/extra/*", **changes)
    config.stages.s0.steps = 1
    begun = loop.train(config, tmp_path / "yes", progress=False).state.params
    _, best = weights.load(workdir)
    assert np.any(begun["extra"]["kernel"])
    same({key: begun[key] for key in best["params"]}, best["params"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.s0.patch_size": 22}, "larger than the image"),
        ({"stages.s0.patch_size": 15}, "multiples of 2"),
        ({"stages.s0.patch_width": 15}, "patch_width is 15; toy needs multiples of 2"),
        ({"stages.s0.patch_width": 18, "data.augment.rotate": True}, "square crops"),
        ({"data.train.root": "/nowhere"}, "nowhere"),
        ({"data.train.name": "lolv1"}, "lol_v1"),
    ],
)
def test_mistakes_are_named_and_leave_no_folder(pairs, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        loop.train(toys.config(pairs, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(pairs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write to"):
        loop.train(toys.config(pairs), tmp_path / "file" / "run", progress=False)


def test_tuples_can_be_changed_on_the_command_line(tmp_path):
    path = ROOT / "llie_jax" / "configs" / "darkir_demo.py"
    config = load_config(path, ["--config.model.dilations=(1, 4)"])
    assert config.model.dilations == (1, 4)
    assert base.from_json(base.to_json(config)) == config


@pytest.mark.parametrize(
    "text", ["def get_config(:", "nothing = 0", "def get_config():\n    return missing"]
)
def test_an_experiment_that_fails_is_named(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.py: "):
        load_config(path)


def test_public_names():
    assert llie_jax.build("toy") == toys.Toy()
    assert jnp.asarray(llie_jax.build("toy").multiple) == 2
