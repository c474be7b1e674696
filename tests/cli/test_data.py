"""Tests of `llie-jax data`."""

import argparse
import json
import pathlib

import pytest

from llie_jax import data
from llie_jax.cli import data as command
from llie_jax.cli import main
from llie_jax.data import checking, synthetic
from llie_jax.image import io
from tests.data import trees


def call(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    return main.guarded(command.run, args)


def test_list_tells_what_is_here(tmp_path, monkeypatch, capsys):
    trees.lol(tmp_path / "lol_v1")
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path))
    assert call("list") == 0
    out = capsys.readouterr().out
    assert "485 train, 15 test" in out
    assert "BMVC2018website" in out
    assert f"here     {tmp_path / 'lol_v1'}\n" in out
    assert f"here     no ({tmp_path / 'lowlight_demo'})" in out


def test_check_of_a_subset(tmp_path, capsys):
    trees.lol(tmp_path)
    assert call("check", "lol_v1", tmp_path, "--json", tmp_path / "check.json") == 0
    out = capsys.readouterr().out
    assert "lol_v1 train: subset: 3 of 485" in out
    assert "8 x 8 (3)" in out
    report = json.loads((tmp_path / "check.json").read_text())
    assert [split["count"] for split in report] == [3, 1]
    assert call("check", "lol_v1", tmp_path, "--complete") == 2
    assert "not complete (train: subset: 3 of 485" in capsys.readouterr().err


def test_photos_without_references(tmp_path, capsys):
    folder = trees.photos(tmp_path, ("a", "b"))
    assert call("check", folder, "--complete") == 0
    out = capsys.readouterr().out
    assert f"{folder} all: no published count" in out
    assert "  images   2\n" in out
    assert call("list") == 0
    out = capsys.readouterr().out
    assert "image_folder: Your own photos, no references\n  images   any number" in out
    assert call("prepare", folder, "--data-dir", tmp_path / "data") == 0
    written = pathlib.Path(capsys.readouterr().out.strip())
    assert written.parents[1] == tmp_path / "data"
    stored = data.open_source(written, split="test")  # without splits, any will do
    assert (stored.keys, stored.split, len(list(stored))) == (("image",), "all", 2)


def test_check_of_a_faulty_folder(tmp_path, capsys):
    folder = trees.pairs(tmp_path, ("a", "b"))
    (folder / "low/a.png").unlink()
    (folder / "low/b.png").write_bytes(b"damaged")
    assert call("check", folder) == 2
    printed = capsys.readouterr()
    assert "high/a.png" in printed.out
    assert "low/b.png" in printed.out
    assert printed.err.strip() == f"error: {folder} has 2 problems, listed above."


def test_check_of_nothing(tmp_path, capsys):
    assert call("check", tmp_path / "absent") == 2
    assert call("check", "lol_v1", tmp_path / "absent") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_prepare_and_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path / "data"))
    root = trees.lol(tmp_path / "LOLdataset")
    assert call("prepare", "lol_v1", root) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "data/lol_v1/2.0.0")
    assert "train: subset: 3 of 485" in printed.err
    assert len(data.open_source("lol_v1", split="train")) == 3
    # The second time does nothing and succeeds, before any file is decoded.
    monkeypatch.setattr(checking, "check", None)
    assert call("prepare", "lol_v1", root) == 0
    assert "already exists" in capsys.readouterr().err


def test_prepare_refuses_faulty_files(tmp_path, capsys):
    root = trees.lol(tmp_path / "raw")
    (root / "eval15/low/1.png").write_bytes(b"damaged")
    assert call("prepare", "lol_v1", root, "--data-dir", tmp_path / "data") == 2
    assert "eval15/low/1.png" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_prepare_makes_the_demo(tmp_path, monkeypatch, capsys):
    def write_little(root):
        trees.pairs(root / "train", ("cat-1", "cat-2"))
        trees.pairs(root / "test", ("cup-1",), first=50)
        return {"train": 2, "test": 1}

    monkeypatch.setattr(synthetic, "write_demo", write_little)
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path))
    assert call("prepare", "lowlight_demo") == 0
    assert "Made 2 train, 1 test pairs" in capsys.readouterr().err
    assert (tmp_path / "lowlight_demo/train/low/cat-1.png").is_file()
    assert (tmp_path / "lowlight_demo/2.0.0/dataset_info.json").is_file()
    assert data.open_source("lowlight_demo", split="test").scenes == ("cup",)


def test_darken(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    io.write_image(tmp_path / "photos/a b.jpg", trees.image(0))
    options = ("--exposure", 0.02, 0.1, "--full-well", 900, "--seed", 3)
    assert call("darken", tmp_path / "photos", tmp_path / "pairs", *options) == 0
    assert capsys.readouterr().out.strip() == f"2 pairs in {tmp_path / 'pairs'}"
    assert list(data.open_source(tmp_path / "pairs").names) == ["a b-e0.02", "a b-e0.1"]
    assert call("darken", tmp_path / "photos", tmp_path / "new", "--exposure", 7) == 2
    assert "exposure=7.0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("check",), ("unknown",), ()])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(*arguments)
    assert stopped.value.code == 2
