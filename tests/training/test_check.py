"""Tests of the check of a run's folder."""

import json
import shutil

import pytest

from llie_jax.cli import main
from llie_jax.training import loop
from llie_jax.training.check import check
from tests.training import toys


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    root = toys.write_pairs(folder / "pairs")
    loop.train(toys.config(root), folder / "run", stop_at=5, progress=False)
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def states(run):
    return {part.name: (part.whole, part.state) for part in check(run)}


def test_a_whole_run(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = run.with_suffix(".json")
    assert main.main(["runs", "check", str(run), "--json", str(result)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("checkpoint 4: whole, ")
    assert lines[0].endswith(" dB")
    assert lines[1].startswith("checkpoint 5: whole, ")
    assert [line.partition(":")[0] for line in lines[2:]] == [
        "config.json",
        "log.jsonl",
        "samples",
    ]
    assert len(json.loads(result.read_text())) == len(lines)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_damage_is_found(run, capsys):
    for path in (run / "checkpoints" / "5" / "state").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    (run / "checkpoints" / "4" / "metrics" / "metrics").write_text("{")
    (run / "config.json").write_text("{")
    (run / "log.jsonl").write_text('{"step": 2}\n{"st')
    sample = next(run.glob("samples/*.png"))
    sample.write_bytes(sample.read_bytes()[:60])
    assert main.main(["runs", "check", str(run)]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    found = states(run)
    assert not any(whole for whole, _ in found.values())
    assert found["checkpoint 5"][1].startswith("damaged: ")
    assert found["checkpoint 4"][1].startswith("arrays whole; ")
    assert found["config.json"] == (False, f"{run / 'config.json'} is damaged.")
    assert found["log.jsonl"][1].startswith("1 lines; 1 line is left out")
    assert found[f"samples/{sample.name}"][1].startswith("damaged: ")


def test_a_changed_config_is_found(run):
    config = json.loads((run / "config.json").read_text())
    config["log"]["every_steps"] = 5
    (run / "config.json").write_text(json.dumps(config))
    assert states(run)["config.json"] == (True, "whole")  # this key may change
    config["seed"] = 5
    (run / "config.json").write_text(json.dumps(config))
    expected = (False, "differs from the config in checkpoint 5")
    assert states(run)["config.json"] == expected


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main.main(["runs", "check", str(tmp_path)]) == 2
    assert "is not a run: it has no checkpoints/" in capsys.readouterr().err
