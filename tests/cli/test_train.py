"""`llie-jax train` from its command line to its files."""

import contextlib
import json
import os
import subprocess
import sys

import jax
import pytest

from llie_jax import cluster
from llie_jax.cli import main
from llie_jax.training import loop
from tests.conftest import ROOT
from tests.training import toys


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return toys.write_pairs(tmp_path_factory.mktemp("data"))


EXPERIMENT = """
from tests.training import toys

def get_config():
    return toys.config({root!r})
"""


def command(pairs, tmp_path, *more):
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT.format(root=str(pairs)))
    return subprocess.run(
        [sys.executable, "train.py", "--config", path, *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_trains_and_says_so(pairs, tmp_path):
    workdir = tmp_path / "run"
    done = command(
        pairs, tmp_path, f"--workdir={workdir}", "--config.stages.s0.steps=2"
    )
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stderr
    assert (
        json.loads((workdir / "config.json").read_text())["stages"]["s0"]["steps"] == 2
    )


@pytest.fixture
def call(pairs, tmp_path, monkeypatch):
    """Runs the command with `training.loop.train` replaced by a function."""
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT.format(root=str(pairs)))
    # JAX is in use in this process already.
    monkeypatch.setattr(cluster, "joined", lambda **_: contextlib.nullcontext())

    def call(function, *more):
        monkeypatch.setattr(loop, "train", function)
        return main.main(
            ["train", "--config", str(path), f"--workdir={tmp_path / 'run'}", *more]
        )

    return call


@pytest.mark.parametrize(
    ("signal", "finished", "status"),
    [(None, True, 0), (None, False, 0), (15, False, 143), (2, True, 0)],
)
def test_the_exit_status_names_the_signal(call, tmp_path, signal, finished, status):
    def interrupted(config, workdir, *, stop_at, profile, **_):
        assert workdir == str(tmp_path / "run")
        assert (config.stages.s0.steps, stop_at, profile) == (3, 2, 5)
        return loop.Result(None, 2, finished, signal, None)

    more = ["--stop-at", "2", "--profile=5", "--config.stages.s0.steps=3"]
    assert call(interrupted, *more) == status


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (loop.NonFiniteError("the loss is nan"), "error: the loss is nan\n"),
        (loop.LossSpikeError("the loss rose"), "error: the loss rose\n"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x"), "too little memory"),
    ],
)
def test_a_training_that_fails(call, capsys, error, message):
    def fail(*_, **__):
        raise error

    assert call(fail) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_other_errors_of_the_devices_keep_their_traceback(call):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: x")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        call(fail)


def test_stop_at_is_a_step(call, capsys):
    with pytest.raises(SystemExit, match="2"):
        call(None, "--stop-at=0")
    assert "0 is not at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optimiser.b1=0.5", "optimi"),
        ("--config.parallel=pmapp", "Did you mean 'pmap'"),
        ("--config.optimizer.learning_rate=-1", "give 0 or more"),
        ("--work=x", "--work=x"),
    ],
)
def test_mistakes_are_one_line(call, capsys, flag, message):
    assert call(None, flag) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
