"""Tests of the files in the folder of a run."""

import json
import math
import warnings

import pytest

from llie_jax import files, weights
from llie_jax.weights import run


def test_values_that_are_not_finite_come_back(tmp_path):
    path = tmp_path / "log.jsonl"
    line = {"step": 1, "a": math.inf, "b": -math.inf, "c": 0.5, "stage": "s0"}
    path.write_text(json.dumps(files.plain({**line, "d": math.nan}), allow_nan=False))
    with warnings.catch_warnings(action="error"):
        [found] = run.read_log(path)
    assert math.isnan(found.pop("d"))
    assert found == line


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": 2, "loss": 0.',
        b"[1]",
        b'"step"',
        b"null",
        b"3",
        b'{"loss": 1.0}',
        b'{"step": "2"}',
        b'{"step": true}',
        b'{"step": -1}',
        b'{"step": NaN}',
        b'{"step": 1' + 30 * b"0" + b"}",
        b'{"step": ' + 9999 * b"1" + b"}",
        b"\xff\x00",
        b'{"step": 2, "a": "\xff"}',
        100_000 * b"[",
    ],
)
def test_damaged_lines_are_left_out_and_counted_once(tmp_path, damaged):
    path = tmp_path / "log.jsonl"
    good = b'{"step": 1, "loss": 0.5}'
    path.write_bytes(b"\n".join([damaged, good, b"", damaged, good]))
    with pytest.warns(UserWarning, match=rf"^2 lines are left out of {path}") as seen:
        assert run.read_log(path) == 2 * [{"step": 1, "loss": 0.5}]
    assert len(seen) == 1


@pytest.fixture
def folder(tmp_path):
    found = run.RunFolder.at(tmp_path)
    found.checkpoints.mkdir()
    return found


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no spec under `model`"),
        ({"model": {"width": 4}}, "no spec under `model`"),
        ({"model": {"name": "darkir", "wide": 4}}, "is from an older version.*wide"),
        ({"model": {"name": "darkr"}}, "from an older version.*Did you mean 'darkir'"),
        ([], "is not the config of a run"),
        ("{", "is not the config of a run"),
    ],
)
def test_configs_of_other_versions(folder, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    folder.config.write_text(text)
    with pytest.raises(ValueError, match=rf"{folder.config} .*{message}"):
        weights.load(folder.path)


def test_no_log(tmp_path):
    assert run.read_log(tmp_path / "log.jsonl") == []
