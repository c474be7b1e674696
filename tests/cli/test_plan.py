import json
import os
import re
import subprocess
import sys

import pytest

from llie_jax import costs
from llie_jax.cli import main
from llie_jax.training import capacity
from tests.training.test_capacity import one_device

CONFIG = """
from llie_jax.configs import base

def get_config():
    config = base.get_config()
    config.model = base.spec(
        "darkir", width=2, encoder_blocks=(1,), middle_encoder_blocks=0,
        middle_decoder_blocks=0, decoder_blocks=(1,), frequency_gate=False,
    )
    config.stages.s0.patch_size = 8
    config.stages.s0.batch_size = 16
    config.data.train.name = "a_set_that_is_not_here"
    return base.check(config)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


def test_eight_cpu_devices(config, tmp_path):
    report = tmp_path / "plan.json"
    arguments = ["plan", "--config", config, "--topology", "cpu:8"]
    arguments += ["--json", str(report), "--config.ema.decay=0.5"]
    result = subprocess.run(
        [sys.executable, "-m", "llie_jax.cli.main", *arguments],
        capture_output=True,
        text=True,
        # Other settings must not interfere.
        env={
            **os.environ,
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + " --xla_force_host_platform_device_count=2",
        },
    )
    assert result.returncode == 0, result.stderr
    assert "8 devices" in result.stdout
    assert "fits" in result.stdout
    assert "stage s0" in result.stderr  # progress

    found = json.loads(report.read_text())
    assert found["topology"]["devices"] == 8
    assert found["topology"]["hosts"] == 1
    assert found["config"]["ema"]["decay"] == 0.5
    stage = found["stages"]["s0"]
    assert (stage["batch_size"], stage["per_device"]) == (16, 2)
    assert stage["fits"]
    assert stage["macs"] > 2 * stage["forward_macs_per_image"] > 0
    # The gradients and a few scalars in float32. The guide's head has no gradient here,
    # and parameters with equal gradients share one sum.
    used = costs.count(found["model"]).inference_params
    reduced = stage["collectives"].pop("all-reduce")["bytes"]
    assert 0.95 * 4 * used < reduced < 4 * used + 100
    assert not stage["collectives"]
    # Parameters, their average, the optimizer's two moments, and the images of pairs.
    assert stage["arguments"] >= 4 * 4 * found["params"] + 2 * 2 * 8 * 8 * 3


def pretend(monkeypatch, *, largest):
    """Makes steps of up to `largest` images fit; returns the list of compiled steps."""
    compiled = []

    def fake(self, crop, per_device):
        compiled.append((crop, per_device))
        return capacity.StepPlan(
            crop=crop,
            batch_size=per_device,
            per_device=per_device,
            fits=per_device <= largest,
            needed=per_device * 2**30,
            macs=1,
            compile_seconds=1.0,
        )

    memory = (largest + 1) * 2**30
    monkeypatch.setattr(capacity, "open_topology", lambda name: one_device(memory))
    monkeypatch.setattr(capacity.Planner, "plan", fake)
    return compiled


def test_a_step_that_does_not_fit(config, monkeypatch, capsys):
    pretend(monkeypatch, largest=10)
    assert main.main(["plan", "--config", config, "--topology", "cpu:1"]) == 1
    out = capsys.readouterr().out
    assert "NO" in out
    assert "Stage s0 does not fit" in out
    assert "--per-device-batch 10" in out or "--per-device-batch 11" in out
    assert "--config.model.dtype=bfloat16" in out


def test_the_largest_batch(config, monkeypatch, capsys, tmp_path):
    compiled = pretend(monkeypatch, largest=50)
    report = tmp_path / "plan.json"
    arguments = ["plan", "--config", config, "--topology", "cpu:1", "--max-batch"]
    assert main.main([*arguments, "--json", str(report)]) == 0
    assert compiled == [((8, 8), n) for n in (16, 32, 64)]
    stage = json.loads(report.read_text())["stages"]["s0"]
    assert stage["per_device"] == 32
    assert {tried["per_device"]: tried["fits"] for tried in stage["tried"]} == {
        16: True,
        64: False,
    }


def test_stages_of_one_shape_are_compiled_once(config, monkeypatch, capsys, tmp_path):
    text = CONFIG.replace(
        "    config.data",
        "    with config.unlocked():\n"
        "        config.stages.s1 = dict(steps=1, patch_size=8, batch_size=16)\n"
        "    config.data",
    )
    path = tmp_path / "two.py"
    path.write_text(text)
    compiled = pretend(monkeypatch, largest=50)
    assert main.main(["plan", "--config", str(path), "--topology", "cpu:1"]) == 0
    assert compiled == [((8, 8), 16)]
    out = capsys.readouterr().out
    assert "stage s0" in out
    assert "stage s1" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "tpu"], "not a topology"),
        (["--config.stages.s0.batch=4"], "mean 'stages.s0.batch_size'"),
        (["--config.seed=x"], "seed=x"),
        (["--config.stages.s0.batch_size=9"], "batch_size is 9, .* multiple of 8"),
        (["--config.stages.s0.patch_size=9"], "multiples of 2"),
        (["--config.ema.decay=2.0"], "ema.decay is 2.0"),
        (["--resident", "485x400"], "COUNTxHEIGHTxWIDTH"),
        (["--per-device-batch", "0"], "give 1 or more"),
        (["--json", "/dev/null/plan.json"], "choose another --json"),
        (["--wrong=1"], "wrong"),
        (["config.seed=1"], "unknown argument"),
    ],
)
def test_mistakes_end_with_one_line(config, monkeypatch, capsys, options, message):
    mesh = type("Mesh", (), {"size": 8})()
    real = capacity.open_topology

    def topology(name):
        if name != "cpu:8":
            return real(name)
        return capacity.Topology(name, "cpu", mesh, chips=8, hosts=1, memory=None)

    monkeypatch.setattr(capacity, "open_topology", topology)
    arguments = ["plan", "--config", config, "--topology", "cpu:8", *options]
    assert main.main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert not captured.out
    assert re.search(message, lines[0]), lines[0]


def test_a_missing_config_names_those_there_are(capsys):
    arguments = ["plan", "--config", "darkir_dem.py", "--topology", "cpu:8"]
    assert main.main(arguments) == 2
    assert "darkir_demo.py" in capsys.readouterr().err


def test_other_commands_still_refuse_unknown_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["models", "--config.seed=1"])
    assert stopped.value.code == 2
    assert "--config.seed=1" in capsys.readouterr().err
