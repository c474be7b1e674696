"""Labelled sets: `enhance --tree` keeps names, labels and splits."""

import argparse
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import llie_jax.weights
from llie_jax.cli import data as data_command
from llie_jax.cli import enhance as command
from llie_jax.cli import main
from tests.inference import toys


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the subcommand with a model that doubles the values."""
    monkeypatch.setattr(llie_jax.weights, "load", lambda weights: (toys.Gain(), {}))
    monkeypatch.setattr(
        llie_jax.weights,
        "describe",
        lambda weights: {"weights_sha256": f"of {weights}"},
    )

    def run(*arguments):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        arguments = ["--weights", "toy", *map(str, arguments)]
        status = main.guarded(command.run, parser.parse_args(arguments))
        return status, capsys.readouterr().err

    return run


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".jpg"):
        pixels = np.random.default_rng(seed).integers(0, 90, (8, 10, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    else:
        path.write_text(f"label {seed}")


TREES = {
    "codan": (
        ["train/Bicycle/1.jpg", "test_night/Car/2.png", "val/Dog/3.jpg"],
        ["README.md"],
    ),
    "dark_zurich": (
        ["rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png"],
        [
            "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png",
            "lists_file_names/val_filenames.txt",
        ],
    ),
    "nighttime_driving": (
        ["NighttimeDrivingTest/leftImg8bit/test/night/0_frame_leftImg8bit.png"],
        [
            "NighttimeDrivingTest/gtCoarse_daytime_trainvaltest/test/night/"
            "0_frame_gtCoarse_labelTrainIds.png"
        ],
    ),
    "exdark": (
        ["ExDark/Bicycle/2015_00001.png", "ExDark/Cup/2015_05500.jpg"],
        ["ExDark_Annno/Bicycle/2015_00001.png.txt", "imageclasslist.txt"],
    ),
    "any": (["image/1.png"], ["label/1.txt"]),
}


@pytest.mark.parametrize("name", TREES)
def test_names_labels_and_splits_stay(name, run, tmp_path):
    photos, labels = TREES[name]
    for seed, file in enumerate([*photos, *labels]):
        write(tmp_path / "set" / file, seed)
    out = tmp_path / "out"
    assert run(tmp_path / "set", "--out", out, "--tree", name)[0] == 0
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert found == {*photos, *labels, ".llie_jax.json"}
    for file in labels:
        assert (out / file).read_bytes() == (tmp_path / "set" / file).read_bytes()
    for file in photos:
        dark = np.asarray(Image.open(tmp_path / "set" / file)).astype(int)
        bright = np.asarray(Image.open(out / file))
        assert bright.shape == dark.shape
        exact = file.endswith("png")
        np.testing.assert_allclose(bright, 2 * dark, atol=0 if exact else 40)


def test_a_second_run_resumes(run, tmp_path):
    for seed, file in enumerate(TREES["dark_zurich"][0] + TREES["dark_zurich"][1]):
        write(tmp_path / "set" / file, seed)
    write(tmp_path / "set/rgb_anon/val/night/GOPR0356/b.png")
    arguments = (tmp_path / "set", "--out", tmp_path / "out", "--tree", "dark_zurich")
    assert "val/night: 2 of 50 published photos" in run(*arguments)[1]
    result = tmp_path / "out" / TREES["dark_zurich"][0][0]
    before = result.stat().st_mtime_ns
    (tmp_path / "out/rgb_anon/val/night/GOPR0356/b.png").unlink()
    (tmp_path / "out" / TREES["dark_zurich"][1][1]).unlink()
    status, err = run(*arguments)
    assert (status, "resuming: 1 results are already there" in err) == (0, True)
    assert result.stat().st_mtime_ns == before
    assert (tmp_path / "out/rgb_anon/val/night/GOPR0356/b.png").is_file()
    assert (tmp_path / "out" / TREES["dark_zurich"][1][1]).is_file()


@pytest.mark.parametrize("other", [("--weights", "b"), ("--strength", "0.5")])
def test_other_weights_or_options_do_not_resume(other, run, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"set/{name}.png")
    out = tmp_path / "out"
    arguments = (tmp_path / "set", "--out", out, "--tree", "any")
    assert run(*arguments)[0] == 0
    (out / "b.png").unlink()
    status, err = run(*arguments, *other)
    assert (status, "other weights or options" in err) == (2, True)
    assert not (out / "b.png").exists()
    assert run(*arguments, *other, "--overwrite")[0] == 0
    assert run(*arguments, *other)[0] == 0
    assert run(*arguments)[0] == 2
    (out / ".llie_jax.json").unlink()  # nobody knows what made them
    assert run(*arguments, *other)[0] == 2


def test_an_unfinished_overwrite_does_not_resume(run, tmp_path):
    write(tmp_path / "set/a.png")
    arguments = (tmp_path / "set", "--out", tmp_path / "out", "--tree", "any")
    assert run(*arguments)[0] == 0
    (tmp_path / "set/b.png").write_bytes(b"damaged")
    assert run(*arguments, "--weights", "b", "--overwrite")[0] == 1
    for weights in "toy", "b":
        assert run(*arguments, "--weights", weights)[0] == 2


def test_photos_that_cannot_be_written_are_copied(run, tmp_path):
    write(tmp_path / "set/a.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "set/b.gif")
    out = tmp_path / "out"
    status, err = run(tmp_path / "set", "--out", out, "--tree", "any")
    assert (status, "copied as they are: 1 (.gif files" in err) == (0, True)
    assert (out / "b.gif").read_bytes() == (tmp_path / "set/b.gif").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tree", "dark_zurch"], "Did you mean 'dark_zurich'"),
        (["--tree", "dark_zurich"], "has no photo of dark_zurich in folders rgb_anon"),
        (["--tree", "any", "--format", "png"], "keeps all names and folders; leave"),
        (["--tree", "any", "--out", "set/out"], "is inside the set"),
    ],
)
def test_mistakes(options, words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set/a.png")
    status, err = run("set", *options)
    assert status == 2
    assert words in err
    assert not (tmp_path / "enhanced").exists()


def test_one_folder(run, tmp_path):
    write(tmp_path / "a.png")
    status, err = run(tmp_path / "a.png", "--tree", "any")
    assert (status, "needs one folder" in err) == (2, True)


def test_the_counts_of_a_labelled_set(tmp_path, capsys):
    for file in TREES["dark_zurich"][0]:
        write(tmp_path / file)
    parser = argparse.ArgumentParser()
    data_command.add_arguments(parser)
    arguments = parser.parse_args(["check", "dark_zurich", str(tmp_path)])
    assert data_command.run(arguments) == 0
    out = capsys.readouterr().out
    assert "dark_zurich: 1 photos, 0 other files" in out
    assert "val/night      1 of 50 published" in out
    file = str(tmp_path / "counts.json")
    options = ["check", "dark_zurich", str(tmp_path), "--json", file, "--complete"]
    with pytest.raises(ValueError, match=r"not complete .*val/night: 1 of 50"):
        data_command.run(parser.parse_args(options))
    found = {each["split"]: each for each in json.loads(pathlib.Path(file).read_text())}
    assert found["val/night"] == {"split": "val/night", "count": 1, "expected": 50}
