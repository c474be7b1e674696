"""The command, from weights and pairs to numbers, JSON and report."""

import json

import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import weights
from llie_jax.cli.main import main
from llie_jax.models.base import variable_shapes
from tests.training import toys

BACKBONE = {"name": "retinexformer", "width": 4, "num_blocks": [1, 1]}
SPEC = {"name": "lfpv", "backbone": BACKBONE, "num_nodes": 5, "patch_size": 2}


def save(file, spec):
    """Writes random weights; what only training needs is left out."""
    rng = np.random.default_rng(0)
    shapes = traverse_util.flatten_dict(variable_shapes(llie_jax.build(spec)))
    variables = {
        path: 0.2 * rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in shapes.items()
    }
    weights.save(file, spec, traverse_util.unflatten_dict(variables))
    return str(file)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    root = tmp_path_factory.mktemp("bank")
    pairs = toys.write_pairs(root / "pairs", count=3, size=(16, 20))
    file = save(root / "toy.safetensors", SPEC)
    return ["--weights", file, "--data", str(pairs)]


def test_json_and_report(arguments, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "bank.json"
    pairs = arguments[-1]
    photos = [x for i in (2, 0) for x in ("--photo", f"{pairs}/low/{i}.png")]
    options = ["--json", str(file), "--out", str(out), "--split", "train"]
    assert main(["bank", *arguments, *photos, *options, "--fitted", "12.5"]) == 0
    result = json.loads(file.read_text())
    assert json.loads((out / "bank.json").read_text()) == result
    assert result["model"]["updaters"] is False
    assert result["data"]["images"] == len(result["images"]) == 3
    assert [photo["name"] for photo in result["photos"]] == ["2.png", "0.png"]
    assert result["split"]["threshold"] == 12.5
    for nodes in result["nodes"].values():
        assert np.shape(nodes["similarity"]) == (5, 5)
        assert sum(nodes["use"]) == pytest.approx(1, abs=1e-5)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 2 + 2 * 2
    text = capsys.readouterr().out
    assert "vectors: 5 nodes" in text
    assert "at least 12.50 dB by the backbone alone (as given)" in text


def test_the_first_input_is_the_photo(arguments, capsys):
    assert main(["bank", *arguments, "--max-images", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("1 image: PSNR of the backbone")
    assert "the median of these images" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "BACKBONE"], "Retinexformer has no bank"),
        (["--photo", "nowhere.png"], "nowhere.png"),
        (["--data", "nowhere"], "nowhere"),
        (["--fitted", "inf"], "fitted=inf; give a PSNR in dB"),
        (["--json", "/dev/null/x/y.json"], "/dev/null/x"),
    ],
)
def test_mistakes_are_one_line(arguments, options, message, capsys, tmp_path):
    if options[-1] == "BACKBONE":
        options = ["--weights", save(tmp_path / "backbone.safetensors", BACKBONE)]
    file = tmp_path / "bank.json"
    assert main(["bank", *arguments, "--json", str(file), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not file.exists()
