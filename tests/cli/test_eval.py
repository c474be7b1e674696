"""`llie-jax eval` from its command line to its files, with a model of two channels."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import llie_jax
from llie_jax import weights
from llie_jax.cli import main as cli
from llie_jax.evaluation import overlap, provenance
from llie_jax.image import io
from llie_jax.models.base import variable_shapes
from tests.conftest import ROOT

SPEC = {
    "name": "darkir",
    "width": 2,
    "encoder_blocks": [1],
    "middle_encoder_blocks": 1,
    "middle_decoder_blocks": 1,
    "decoder_blocks": [1],
    "dilations": [1],
}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype),
        variable_shapes(llie_jax.build(SPEC)),
    )
    weights.save(path, SPEC, variables)
    return path


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        target = rng.integers(0, 256, (13, 15, 3)).astype(np.uint8)
        for name, image in (("low", target // 4), ("high", target)):
            (tmp_path / "pairs" / name).mkdir(parents=True, exist_ok=True)
            io.write_image(tmp_path / "pairs" / name / f"{index}.png", image)
    return tmp_path / "pairs"


def main(*arguments):
    return cli.main(["eval", *map(str, arguments)])


def test_scores_files_and_table(weights_file, pairs, tmp_path, capsys):
    out = tmp_path / "new folder" / "out"
    extra = tmp_path / "extra.json"
    status = main(
        *("--weights", weights_file, "--data", pairs, "--out", out),
        *("--save-images", "--json", extra, "--report-all", "--measure"),
    )
    captured = capsys.readouterr()
    assert status == 0, captured.err
    found = json.loads((out / "scores.json").read_text())
    assert extra.read_text() == (out / "scores.json").read_text()
    assert found["count"] == 3
    assert found["model"]["width"] == 2
    assert found["weights_sha256"] == weights.file_sha256(weights_file)
    assert found["options"]["pad_mode"] == "constant"
    assert found["options"]["selected_on_test"] is False
    assert found["data"]["root"] == str(pairs)
    assert found["columns"]["psnr"] == {
        "metric": "rgb_uint8",
        "unit": "dB",
        "higher_is_better": True,
        "uses_reference": False,
    }
    measured = found["measured"]
    assert measured["size"] == [13, 15]
    assert measured["seconds"] > 0
    assert measured["memory_bytes"] > 0
    assert f"{found['mean']['psnr']:.2f}" in captured.out
    assert "uniform7_gray" in captured.out
    assert len((out / "scores.csv").read_text().splitlines()) == 4
    assert "darkir on paired_folder all" in (out / "report.html").read_text()

    # The saved images have the scores of the report.
    from llie_jax import evaluation

    again = evaluation.compare_folders(out / "images", pairs / "high", progress=False)
    assert again.images == found["images"]
    assert again.facts["data"]["references"] == found["data"]["references"]
    assert len(found["data"]["references"]) == 3


def test_another_protocol_without_files(weights_file, pairs, capsys):
    arguments = ("--weights", weights_file, "--data", pairs)
    assert main(*arguments, "--protocol", "darkir") == 0
    assert "PSNR is rgb_float(clip=False)" in capsys.readouterr().out


@pytest.mark.parametrize(("step", "asked"), [(0, 0), (7, 7), (None, "best")])
def test_the_weights_are_those_described(pairs, monkeypatch, step, asked):
    """The best step of a running run may change at any moment."""
    from llie_jax import evaluation

    steps = []

    def load(_, step):
        steps.append(step)
        raise FileNotFoundError

    monkeypatch.setattr(weights, "describe", lambda _: {"step": step})
    monkeypatch.setattr(weights, "load", load)
    with pytest.raises(FileNotFoundError):
        evaluation.run("x", pairs)
    assert steps == [asked]


def test_mistakes(weights_file, pairs, tmp_path, capsys):
    def message(*arguments):
        assert main(*arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    good = ("--weights", weights_file, "--data", pairs)
    assert "Did you mean 'lol_v1'" in message(*good[:3], "lol_v11")
    assert "no file, folder or published" in message("--weights", "x", *good[2:])
    assert "Did you mean 'cidnet'" in message(*good, "--protocol", "cidne")
    assert "needs an output folder" in message(*good, "--save-images")
    (tmp_path / "file").write_text("")
    assert "Cannot write to" in message(*good, "--out", tmp_path / "file")
    for name in ("low", "high"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    error = message(*good[:3], tmp_path / "empty")
    assert "no images" in error
    assert str(tmp_path / "empty") in error
    (pairs / "low" / "1.png").unlink()
    assert "targets without an input: " in message(*good)


@pytest.fixture
def two_versions(tmp_path, weights_file):
    """Weights trained on LOL-v1, and a LOL-v2-real with one of its two images."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (3, 12, 16, 3)).astype(np.uint8)
    for place, low, high, image in (
        ("lol_v1/our485", "1", "1", target[0]),
        ("lol_v1/our485", "2", "2", target[1]),
        ("lol_v2_real/Test", "low00690", "normal00690", target[1]),
        ("lol_v2_real/Test", "low00691", "normal00691", target[2]),
    ):
        folders = ("low", "high") if "v1" in place else ("Low", "Normal")
        for folder, name, pixels in zip(
            folders, (low, high), (image // 4, image), strict=True
        ):
            (tmp_path / place / folder).mkdir(parents=True, exist_ok=True)
            io.write_image(tmp_path / place / folder / f"{name}.png", pixels)
    trained = tmp_path / "lol.safetensors"
    weights.save(
        trained, SPEC, weights.load(weights_file)[1], trained_on="LOL-v1 and LSRW"
    )
    return trained, tmp_path / "lol_v2_real"


@pytest.mark.parametrize("at_hand", [True, False])
def test_images_that_the_weights_have_seen(
    two_versions, weights_file, tmp_path, monkeypatch, capsys, at_hand
):
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path if at_hand else tmp_path / "x"))
    trained, root = two_versions
    scored = ("--data", "lol_v2_real", "--root", root, "--out", tmp_path / "out")
    fact = (
        "trained on lol_v1: 1 of 2 scored images are training images"
        if at_hand
        else "trained on lol_v1: 86 of the 89 test images"
    )
    assert main("--weights", trained, *scored) == 2
    assert fact in capsys.readouterr().err

    assert main("--weights", trained, *scored, "--allow-overlap") == 0
    table = " ".join(capsys.readouterr().out.split())
    assert f"mean of 2, {fact[:17]}" in table
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["options"]["overlap"].startswith(fact)
    page = (tmp_path / "out" / "report.html").read_text()
    assert fact in page
    assert "no use of the ground truth" in page

    assert main("--weights", weights_file, *scored) == 0  # trained on nothing known
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["options"]["overlap"] == ""


@pytest.mark.parametrize(
    ("text", "scored", "seen"),
    [
        ("LOL-v1", "lol_v2_real", "lol_v1"),
        ("lol_v1 train", "lol_v2_real", "lol_v1"),
        ("LOL and LSRW", "lol_v2_real", "lol_v1"),
        ("LOL-v2 real and synthetic", "lol_v1", "lol_v2_real"),
        ("LOL-v2 real", "lol_v2_real", None),
        ("LOL-Blur", "lol_v2_real", None),
        ("SICE and LOL-v1", "sice_mix", "sice"),
        ("LOL dataset", "sice_grad", None),
        ("LOL-v2 synthetic", "lol_v1", None),
        ("", "lol_v1", None),
    ],
)
def test_which_sets_a_text_names(text, scored, seen, monkeypatch, tmp_path):
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path))  # no set is at hand
    source = types.SimpleNamespace(name=scored, split="test")
    found = overlap.find(text, source)
    assert (found and found.trained_on) == seen


@pytest.mark.parametrize(
    ("trained_on", "name", "split", "seen"),
    [
        ("LOL-v1", "lol_v1", "train", True),
        ("LOL-v1 test", "lol_v1", "train", False),
        ("LOL-v1", "lol_v1", "test", False),
        ("paired_folder", "paired_folder", "train", False),  # perhaps another folder
    ],
)
def test_the_training_split_has_been_seen(trained_on, name, split, seen):
    found = overlap.find(trained_on, types.SimpleNamespace(name=name, split=split))
    assert ("its training split" in str(found)) == seen


def test_images_made_of_parts_of_others_have_no_equal_pixels(monkeypatch):
    monkeypatch.setattr(overlap, "_open", None)  # not called
    source = types.SimpleNamespace(name="sice_grad", split="test")
    assert str(overlap.find("SICE", source)).startswith("trained on sice: the test ima")


@pytest.mark.parametrize(
    ("text", "split", "selected"),
    [
        ("lol_v1 test", "test", True),
        ("LOL-v1 test", "test", True),
        ("LOL-v1", "test", True),
        ("LOL-v1 train", "test", False),
        ("LOL-v1 test", "train", False),
        ("LOL-v2 real test", "test", False),
        ("", "test", False),
    ],
)
def test_what_weights_were_selected_on(text, split, selected):
    source = types.SimpleNamespace(name="lol_v1", split=split)
    assert overlap.was_selected_on(text, source) is selected


def test_scores_of_weights_selected_on_these_images_are_marked(
    two_versions, weights_file, tmp_path, capsys
):
    _, root = two_versions
    chosen = tmp_path / "chosen.safetensors"
    facts = {"selected_on": "LOL-v2 real test"}
    weights.save(chosen, SPEC, weights.load(weights_file)[1], **facts)
    scored = ("--data", "lol_v2_real", "--root", root, "--out", tmp_path / "out")
    assert main("--weights", chosen, *scored) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "mean of 2, selected on the test split" in table
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["options"]["selected_on_test"] is True
    assert "selected on the test split" in (tmp_path / "out/report.html").read_text()


def test_official_weights_are_recognised_by_their_hash(tmp_path):
    record = weights.published()["iat.lol_v1"]
    described = {"metadata": {"source_sha256": record.sha256}}
    assert overlap.training_data(described, None) == ("LOL-v1", None)
    described = {"metadata": {"source_sha256": "0" * 64, "trained_on": "mine"}}
    assert overlap.training_data(described, None) == ("mine", None)


@pytest.mark.parametrize(
    ("name", "split", "selected"),
    [("lol_v1", "test", True), ("lol_v1", "train", False), ("other", "test", False)],
)
def test_weights_that_their_authors_chose_on_the_test_images(name, split, selected):
    source = types.SimpleNamespace(name=name, split=split)
    digest = weights.published()["iat.lol_v1"].sha256
    for described in (
        {"weights": "iat.lol_v1", "metadata": {}},
        {"weights": "x.safetensors", "metadata": {"source_sha256": digest}},
    ):
        assert provenance.selected_on_test(described, source) is selected
    described = {"weights": "dawn", "metadata": {}}
    assert not provenance.selected_on_test(described, source)


def test_what_makes_a_recipe():
    config = {"seed": 1, "model": {"name": "sci"}, "data": {"train": {"root": "/a"}}}
    facts = provenance.training_facts(config)
    assert facts["seed"] == 1
    moved = {**config, "seed": 2, "data": {"train": {"root": "/b"}}}
    other = {**config, "model": {"name": "ruas"}}
    digests = [provenance.training_facts(c)["recipe_sha256"] for c in (moved, other)]
    assert digests[0] == facts["recipe_sha256"] != digests[1]


def test_where_the_sets_of_a_mixture_lie_is_no_part_of_a_recipe():
    def recipe(root, repeat):
        parts = {"a": {"name": "lol_v1", "root": root, "repeat": repeat}}
        config = {"data": {"train": {"name": "mixture"}, "mixture": parts}}
        digest = provenance.training_facts(config)["recipe_sha256"]
        assert parts["a"]["root"] == root  # the config itself is left alone
        return digest

    assert recipe("/a", 1) == recipe("/b", 1) != recipe("/b", 2)


def test_sets_without_a_shared_image(two_versions, tmp_path, monkeypatch):
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path))
    trained, root = two_versions
    for each in (root / "Test").glob("*/*00690.png"):
        each.unlink()
    assert main("--weights", trained, "--data", "lol_v2_real", "--root", root) == 0


def test_the_script_is_the_command():
    helps = [
        subprocess.run(
            [sys.executable, *command, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for command in (["eval.py"], ["-m", "llie_jax.cli.main", "eval"])
    ]
    assert helps[0] == helps[1]
    assert "examples:" in helps[0]
