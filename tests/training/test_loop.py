"""Whole runs on a toy model: files, resuming, interruption, mistakes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import weights
from llie_jax.cli import main
from llie_jax.cli.experiment import load_config
from llie_jax.configs import base
from llie_jax.training import lock, loop
from llie_jax.training.lock import Lock
from llie_jax.weights import record as records
from llie_jax.weights.run import read_log
from llie_jax.weights.store import Store
from tests.conftest import ROOT
from tests.training import toys


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return toys.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def unbroken(pairs, tmp_path_factory):
    """An uninterrupted run of 8 steps: its folder and its result."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, loop.train(toys.config(pairs), workdir, progress=False)


def same(a, b):
    """Asserts that two states are bit-identical."""
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
    with Store(workdir / "checkpoints") as store:
        steps = store.steps()
    assert steps[-2:] == [6, 8]
    assert set(steps) <= {4, 6, 8}


def test_the_best_survives_a_restart(tmp_path):
    state = {"step": np.zeros(()), "params": np.zeros(3)}
    for step, psnr in ((1, 20.0), (2, None), (3, 19.0), (4, 18.0), (5, None)):
        with Store(tmp_path, writing=True) as store:
            store.save(state, step=step, psnr=psnr)
            store.wait()
            kept = store.steps()
    assert kept == [1, 4, 5]


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


def test_a_damaged_log_stops_neither_resuming_nor_the_report(pairs, tmp_path):
    config = toys.config(pairs)
    loop.train(config, tmp_path, stop_at=4, progress=False)
    log = tmp_path / "log.jsonl"
    damage = [
        b'{"step": 2, "loss": "nan", "psnr": "inf"}',
        b'{"loss": 1.0}',
        b"[1, 2]",
        b'{"step": "two"}',
        b"\xff\xfe{}",
        b'{"step": 4, "lo',
    ]
    log.write_bytes(log.read_bytes() + b"\n".join(damage))
    with pytest.warns(UserWarning, match="5 lines are left out of .*log.jsonl"):
        result = loop.train(config, tmp_path, progress=False)
    assert result.finished
    assert "<svg" in (tmp_path / "report.html").read_text()
    losses = [line["loss"] for line in read_log(log) if "loss" in line]
    assert [loss for loss in losses if not np.isfinite(loss)] != []
    assert "NaN" not in log.read_text()


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
    with pytest.raises(ValueError, match=r"different config \(data.train.size"):
        loop.train(config, tmp_path, progress=False)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_loudly(
    pairs, unbroken, tmp_path, capsys, damage
):
    config = toys.config(pairs)
    loop.train(config, tmp_path, stop_at=4, progress=False)
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob("d/*"):
        content = bytearray(file.read_bytes())
        if damage == "cut":
            del content[100:]
        else:
            content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"Checkpoint 4 is left out, and moved to"):
        result = loop.train(config, tmp_path)
    assert "resuming at step 2" in capsys.readouterr().err
    assert (tmp_path / "4.damaged").is_dir()
    same(result.state, unbroken[1].state)


def test_nothing_left_to_resume_from(pairs, tmp_path):
    config = toys.config(pairs)
    loop.train(config, tmp_path, stop_at=2, progress=False)
    for folder in (tmp_path / "checkpoints").glob("*/digest"):
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"can be used \(2: its digest is missing"):
        loop.train(config, tmp_path, progress=False)


def test_a_loss_that_is_not_finite_stops_the_run(pairs, tmp_path):
    config = toys.config(pairs, **{"optimizer.name": "sgd"})
    config.optimizer.learning_rate = 1e30
    with pytest.raises(loop.NonFiniteError, match=r"Step [2-4]: .*not finite"):
        loop.train(config, tmp_path, progress=False)
    # Everything saved is finite.
    with Store(tmp_path / "checkpoints") as store:
        saved = store.steps()
    if saved:
        _, variables = weights.load(tmp_path, step="latest")
        chex.assert_tree_all_finite(variables)


def test_skipping_has_a_bound(pairs, tmp_path):
    config = toys.config(
        pairs, **{"optimizer.name": "sgd", "nonfinite": "skip", "max_skipped": 3}
    )
    config.optimizer.learning_rate = 1e30
    with pytest.raises(loop.NonFiniteError, match="at most 3 steps may be skipped"):
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
    with Store(tmp_path / "checkpoints") as store:
        assert store.steps()[-1] == result.step > 0


def test_another_config_in_the_same_folder(pairs, unbroken):
    workdir, _ = unbroken
    config = toys.config(pairs, **{"optimizer.learning_rate": 2e-2, "model.width": 6})
    with pytest.raises(ValueError, match=r"different config \(model.width: 4 there, 6"):
        loop.train(config, workdir, progress=False)


@pytest.mark.parametrize("change", ["unknown", "no_name", "renamed"])
def test_a_folder_of_an_older_version(pairs, unbroken, tmp_path, change):
    old = json.loads((unbroken[0] / "config.json").read_text())
    if change == "unknown":
        old["model"]["host"] = {"name": "toy"}
    elif change == "no_name":
        del old["model"]["name"]
    else:
        old["frozen"] = old.pop("ema")
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(
        ValueError, match=r"json is from an older version of llie_jax, or damaged"
    ):
        loop.train(toys.config(pairs), tmp_path, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", ".lock"}


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


EXPERIMENT = """
from tests.training import toys

def get_config():
    return toys.config({root!r})
"""


def recipe(pairs, tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT.format(root=str(pairs)))
    return str(path)


def start(pairs, tmp_path, *more, **environment):
    return subprocess.Popen(
        [sys.executable, "train.py", "--config", recipe(pairs, tmp_path), *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Returns the exit status and the standard error of the process."""
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def command(pairs, tmp_path, *more):
    return finish(start(pairs, tmp_path, *more))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=x", "--config.optimiser.b1=0.5"], "optimi"),
        (["--workdir=x", "--config.parallel=pmapp"], "Did you mean 'pmap'"),
        (["--workdir=x", "--config.optimizer.learning_rate=-1"], "give 0 or more"),
    ],
)
def test_the_command_names_mistakes(pairs, tmp_path, flags, message, capsys):
    status = main.main(["train", "--config", recipe(pairs, tmp_path), *flags])
    err = capsys.readouterr().err
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_a_locked_folder_is_left_alone(pairs, tmp_path):
    loop.train(toys.config(pairs), tmp_path, stop_at=2, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.js*")}
    with (
        Lock(tmp_path / ".lock", hint="-"),
        pytest.raises(OSError, match=rf"in use by process {os.getpid()} .* --workdir"),
    ):
        loop.train(toys.config(pairs), tmp_path, progress=False)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.js*")}


def test_another_start_may_be_faster_in_a_new_folder(pairs, tmp_path, monkeypatch):
    workdir, real = tmp_path / "run", loop.initial_variables

    def slow(experiment):  # everything is checked; the folder is not locked yet
        monkeypatch.setattr(loop, "initial_variables", real)
        loop.train(toys.config(pairs, seed=5), workdir, stop_at=2, progress=False)
        return real(experiment)

    monkeypatch.setattr(loop, "initial_variables", slow)
    with pytest.raises(ValueError, match="seed"):
        loop.train(toys.config(pairs), workdir, progress=False)
    assert json.loads((workdir / "config.json").read_text())["seed"] == 5


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(pairs, tmp_path):
    workdir = tmp_path / "run"
    flags = f"--workdir={workdir}", "--config.stages.s0.steps=1000000"
    first = start(pairs, tmp_path, *flags)
    try:
        while not records.saved_steps(workdir / "checkpoints"):
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.05)
        begun = time.monotonic()
        status, err = command(pairs, tmp_path, *flags)
        assert time.monotonic() - begun < 5
        assert status == 2
        assert f"error: {workdir} is in use by process {first.pid} on " in err
        assert "choose another --workdir" in err
        assert len(err.strip().splitlines()) == 1
        assert first.poll() is None
        steps = [line["step"] for line in read_log(workdir / "log.jsonl")]
        assert steps[:2] == [0, 2]  # the first one's log is whole
    finally:
        first.kill()
        first.communicate()
    config = base.from_json((workdir / "config.json").read_text())
    newest = max(records.saved_steps(workdir / "checkpoints"))
    result = loop.train(config, workdir, stop_at=newest + 1, progress=False)
    assert result.step == newest + 1  # a killed run leaves no lock behind


def start_two(pairs, tmp_path, *flags):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(
            pairs,
            tmp_path,
            *flags,
            JAX_PLATFORMS="cpu",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]


@pytest.mark.slow
def test_all_processes_of_a_refused_run_leave(pairs, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    workdir.mkdir()
    monkeypatch.setattr(lock, "_space", lambda: "elsewhere")
    with Lock(workdir / lock.NAME, hint="-"):
        processes = start_two(pairs, tmp_path, f"--workdir={workdir}")
        for process, reason in zip(
            processes,
            (f"process {os.getpid()}", "process 0 names the holder"),
            strict=True,
        ):
            status, err = finish(process)
            assert status == 2, err
            assert reason in err


@pytest.mark.slow
def test_two_processes_pass_over_a_damaged_checkpoint(pairs, unbroken, tmp_path):
    workdir = tmp_path / "run"
    flags = [f"--workdir={workdir}"]
    for process in start_two(pairs, tmp_path, *flags, "--stop-at=4"):
        status, err = finish(process)
        assert status == 0, err
    for file in (workdir / "checkpoints" / "4" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:100])
    for number, process in enumerate(start_two(pairs, tmp_path, *flags)):
        status, err = finish(process)
        assert status == 0, err
        assert ("Checkpoint 4 is left out" in err) == (number == 0)
    _, variables = weights.load(workdir, step="latest")
    expected = unbroken[1].state.ema_params
    chex.assert_trees_all_close(variables["params"], expected, rtol=1e-5, atol=1e-6)


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
