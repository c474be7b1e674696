import argparse
import json
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

import llie_jax.weights
from llie_jax.cli import enhance as command
from llie_jax.cli import main
from llie_jax.inference import enhance, photo
from tests import processes
from tests.inference import toys
from tests.test_cluster import free_port


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the subcommand in `tmp_path` with a model that doubles the values."""
    monkeypatch.chdir(tmp_path)
    loaded = []

    def load(weights):
        loaded.append(str(weights))
        return toys.Gain(), {}

    monkeypatch.setattr(llie_jax.weights, "load", load)

    def run(*arguments, weights="toy"):
        arguments = [str(argument) for argument in arguments]
        if weights:
            arguments += ["--weights", weights]
        status = main.main(["enhance", *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    run.loaded = loaded
    return run


def save(path, *, seed=0, size=(13, 17)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(toys.photo(*size, seed=seed)).save(path)
    return path


def doubled(path):
    return np.minimum(2 * photo.read(path).image.astype(int), 255)


def test_one_file_to_one_file(run, tmp_path):
    source = save(tmp_path / "night sky.png")
    status, out, err = run(source, "--out", "bright.bmp")
    assert (status, out, err) == (0, ["bright.bmp"], "")
    with Image.open("bright.bmp") as image:
        assert image.format == "BMP"
    np.testing.assert_array_equal(photo.read("bright.bmp").image, doubled(source))


def test_a_folder_keeps_names_and_formats(run, tmp_path):
    names = ["a.png", "b c.BMP", "d.jpg", "E.WEBP"]
    for name in names:
        save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "in" / ".hidden.png").touch()
    status, out, _ = run("in", "--out", "made/here")
    assert status == 0
    assert sorted(out) == sorted(f"made/here/{name}" for name in names)
    assert sorted(os.listdir("made/here")) == sorted(names)


def test_patterns_files_and_folders_together_each_once(run, tmp_path):
    save(tmp_path / "in" / "a.JPG")
    save(tmp_path / "in" / "b.png")
    save(tmp_path / "other" / "c[1].png")
    status, out, _ = run("in/*.JPG", "in", "other/c[1].png", "--out", "out")
    assert status == 0
    assert out == ["out/a.JPG", "out/b.png", "out/c[1].png"]


def test_format_suffix_and_recursion(run, tmp_path):
    save(tmp_path / "in" / "a.bmp")
    save(tmp_path / "in" / "x" / "a.jpeg")
    arguments = ("in", "--out", "in/out", "--format", "png", "--suffix", "_bright")
    assert run(*arguments)[1] == ["in/out/a_bright.png"]
    expected = ["in/out/a_bright.png", "in/out/x/a_bright.png"]
    # The results of the first run are inside the input folder and must not be inputs.
    assert run(*arguments, "--recursive", "--overwrite")[1] == expected


def test_compare(run, tmp_path):
    source = save(tmp_path / "a.png")
    status, out, _ = run(source, "--out", "out", "--compare")
    assert status == 0
    assert out == ["out/a.png", "out/a_compare.png"]
    both = photo.read("out/a_compare.png").image
    np.testing.assert_array_equal(both[:, :17], photo.read(source).image)
    np.testing.assert_array_equal(both[:, 17:], photo.read("out/a.png").image)


def test_tiles_are_told_and_change_nothing_here(run, tmp_path):
    source = save(tmp_path / "a.png", size=(60, 70))
    status, _, err = run(source, "--out", "out", "--tile", "32")
    assert status == 0
    assert "a.png (9 tiles" in err
    np.testing.assert_array_equal(photo.read("out/a.png").image, doubled(source))
    _, _, err = run(source, "--out", "b.png", "--tile", "32", "--limit", "1")
    assert err == ""


def test_the_default_tile_is_that_of_the_library():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args(["a", "--out", "b"]).tile == enhance.TILE


def test_unreadable_photos_are_reported_and_the_rest_go_on(run, tmp_path):
    save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_text("no image")
    cut = save(tmp_path / "in" / "cut.jpg", size=(64, 64))
    cut.write_bytes(cut.read_bytes()[:900])
    status, out, err = run("in", "--out", "out")
    assert status == 1
    assert out == ["out/good.png"]
    lines = err.splitlines()
    assert any(re.match("error: .*bad.png is not an image", line) for line in lines)
    assert any(re.match("error: Cannot read .*cut.jpg", line) for line in lines)
    assert lines[-1] == "2 of 3 photos failed."
    assert os.listdir("out") == ["good.png"]


def test_wrong_weights_leave_no_folder(run, tmp_path, monkeypatch):
    def load(weights):
        raise FileNotFoundError(f"There is no file {weights}.")

    monkeypatch.setattr(llie_jax.weights, "load", load)
    save(tmp_path / "a.png")
    assert run("a.png", "--out", "new/out")[0] == 2
    assert os.listdir(tmp_path) == ["a.png"]


def test_nothing_readable_ends_before_the_model_is_loaded(run, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    status, out, err = run("bad.png", "--out", "out")
    assert (status, out) == (2, [])
    assert "bad.png" in err
    assert not run.loaded
    assert not (tmp_path / "out").exists()


def test_lost_transparency_is_told(run, tmp_path):
    Image.new("RGBA", (4, 4), (9, 9, 9, 7)).save(tmp_path / "a.png")
    status, _, err = run("a.png", "--out", "a.jpg")
    assert status == 0
    assert err == "a.jpg: without transparency.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent.jpg", "--out", "out"), "no file or folder absent.jpg"),
        (("in/a.png", "--strength", "1.5"), "strength=1.5 is out of range; give 0 to"),
        (("in/a.png", "--warmth", "nan"), "warmth=nan is out of range; give -1 to 1"),
        (("in/a.png", "--json", "in/a.png/x"), "Cannot write to in/a.png.*--json"),
        (("*.jpeg", "--out", "out"), r"No photo matches '\*.jpeg'"),
        (("empty", "--out", "out"), "empty holds no photo.*--recursive"),
        (("in", "--out", "one.png"), "one file, but there are 2"),
        (("in/a.png", "--out", "in"), "in/a.png is one of the photos"),
        (("in/a.png", "--out", "in/a.png", "--overwrite"), "one of the photos"),
        (("in/a.png", "link.png", "--out", "link.png/"), "link.png"),
        (("in", "--out", "out", "--format", "png"), "both become out/a.png"),
        (("in/a.png", "--out", "old"), "old/a.png already exist; --overwrite"),
        (("in/a.png", "--out", "b.png", "--suffix", "_x"), "for folders"),
        (
            ("in/a.png", "--out", "in/a.bmp/x"),
            "Cannot write to in/a.bmp/x.*another --out",
        ),
    ],
)
def test_mistakes_end_before_the_model_is_loaded(run, tmp_path, arguments, words):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "a.bmp")
    save(tmp_path / "old" / "a.png")
    (tmp_path / "empty").mkdir()
    os.link(tmp_path / "in" / "a.png", tmp_path / "link.png")
    before = (tmp_path / "in" / "a.png").read_bytes()
    status, out, err = run(*arguments)
    assert (status, out) == (2, [])
    assert re.search(words, err)
    assert len(err.splitlines()) == 1
    assert not run.loaded
    assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_a_hard_link_to_the_photo_is_not_overwritten(run, tmp_path):
    save(tmp_path / "a.png")
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    status, _, err = run("a.png", "--out", "b.png", "--overwrite")
    assert status == 2
    assert "one of the photos" in err


def test_a_format_that_is_only_read(run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif")
    status, out, err = run("a.gif", "--out", "out")
    assert (status, out) == (0, ["out/a.png"])
    assert err == "note: 1 photo becomes a .png: .gif files are read, not written\n"
    assert run("a.gif", "--out", "out", "--format", "jpg")[1:] == (["out/a.jpg"], "")


def test_overwrite(run, tmp_path):
    source = save(tmp_path / "in" / "a.png")
    save(tmp_path / "out" / "a.png", seed=1)
    assert run("in", "--out", "out", "--overwrite")[0] == 0
    np.testing.assert_array_equal(photo.read("out/a.png").image, doubled(source))


def test_weights_left_out(run, tmp_path):
    """The weights that ship, a folder of results, and the gate."""
    Image.new("RGB", (4, 4), (30, 20, 10)).save(tmp_path / "dark.png")
    Image.new("RGB", (4, 4), (220, 220, 40)).save(tmp_path / "dusk.png")
    Image.new("RGB", (4, 4), (240, 245, 250)).save(tmp_path / "day.png")
    photos = ("dark.png", "dusk.png", "day.png")
    status, out, err = run(*photos, weights=None)
    assert (status, out) == (0, [f"enhanced/{name}" for name in photos])
    assert run.loaded == ["None"]
    dark, dusk, day = err.splitlines()
    # Twice as bright, but for the level that keeps black photos finite.
    assert dark == "dark.png: dark, full effect (2.0 times brighter)."
    words = r"dusk.png: \d\d% of the effect \(in full, 1.2 times brighter\)\."
    assert re.fullmatch(words, dusk)
    assert day.startswith("day.png: well exposed, left as it is")
    assert photo.read("enhanced/dark.png").image[0, 0].tolist() == [60, 40, 20]
    assert photo.read("enhanced/day.png").image[0, 0].tolist() == [240, 245, 250]
    arguments = ("day.png", "--out", "all", "--no-gate")
    assert run(*arguments, weights=None)[2] == ""
    assert photo.read("all/day.png").image[0, 0].tolist() == [255, 255, 255]


def test_other_weights_have_a_gate_on_demand(run, tmp_path):
    Image.new("RGB", (4, 4), (240, 245, 250)).save(tmp_path / "day.png")
    assert run("day.png", "--out", "a.png")[2] == ""
    assert photo.read("a.png").image[0, 0].tolist() == [255, 255, 255]
    assert "left as it is" in run("day.png", "--out", "b.png", "--gate")[2]
    assert photo.read("b.png").image[0, 0].tolist() == [240, 245, 250]
    arguments = ("day.png", "--out", "c.png", "--gate", "--strength", "0")
    assert run(*arguments)[2] == ""  # nothing for a gate to do


def test_look(run, tmp_path):
    Image.new("RGB", (4, 4), (100, 50, 20)).save(tmp_path / "a.png")
    run("a.png", "--out", "b.png", "--strength", "0.5")
    assert photo.read("b.png").image[0, 0].tolist() == [150, 75, 30]
    run("a.png", "--out", "c.png", "--strength", "0", "--saturation", "0")
    red, green, blue = photo.read("c.png").image[0, 0]
    assert red == green == blue
    run("a.png", "--out", "d.png", "--strength", "0", "--warmth", "-1")
    red, _, blue = photo.read("d.png").image[0, 0]
    assert red < 100
    assert blue > 20


def test_report(run, tmp_path, monkeypatch):
    facts = {"weights": "toy", "weights_sha256": "abc"}
    monkeypatch.setattr(llie_jax.weights, "describe", lambda weights: facts)
    Image.new("RGBA", (4, 4), (240, 245, 250, 9)).save(tmp_path / "a.png")
    arguments = ("--out", "b.jpg", "--gate", "--strength", "0.5", "--json", "c.json")
    assert run("a.png", *arguments)[0] == 0
    found = json.loads((tmp_path / "c.json").read_text())
    (one,) = found.pop("photos")
    look = {"strength": 0.5, "saturation": 1.0, "warmth": 0.0}
    assert found == {**facts, "options": {**look, "gate": True, "model": {}}}
    assert one.pop("seconds") > 0
    assert one.pop("gain") == pytest.approx(256 / 246)
    assert one == {
        "photo": "a.png",
        "results": ["b.jpg"],
        "share": 0.0,
        "tiles": 1,
        "lost": ["transparency"],
    }


def test_a_failed_write_is_reported(run, tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    replace = os.replace

    def full(source, target):
        if target.name == "a.png":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    status, out, err = run("in", "--out", "out")
    assert (status, out) == (1, ["out/b.png"])
    assert err.count("Cannot write out/a.png: No space left on device") == 1
    assert os.listdir("out") == ["b.png"]


def test_standard_output_holds_paths_only_in_a_terminal_too(run, tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    status, out, err = run("a.png", "--out", "b.png")
    assert (status, out) == (0, ["b.png"])
    assert "1/1 a.png" in err


@pytest.mark.slow
def test_two_processes_share_the_photos(tmp_path):
    names = [f"{i}.png" for i in range(5)]
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, seed=seed)
    (tmp_path / "in" / "3.png").write_bytes(b"damaged")
    facts = tmp_path / "facts.json"
    command = ["enhance", tmp_path / "in", "--no-gate", "--json", facts]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2]
    command += ["--out", tmp_path / "out", "--process-id"]
    started = [
        processes.start("llie_jax.cli.main", *command, i, devices=1) for i in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 1, err
        # Each process enhances its own part.
        mine = [line for line in out.splitlines() if line.endswith(".png")]
        assert len(mine) == (3 if process is started[0] else 1)
        assert ("1 of 5 photos failed" in err) == (process is started[0])
        assert ("3.png" in err) == (process is started[1])
    done = [name for name in names if name != "3.png"]
    assert sorted(os.listdir(tmp_path / "out")) == done
    found = [photo["photo"] for photo in json.loads(facts.read_text())["photos"]]
    assert found == [str(tmp_path / "in" / name) for name in done]
