"""The command, from weights and pairs to numbers, JSON and report."""

import json

import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import weights
from llie_jax.cli.main import main
from llie_jax.models.base import variable_shapes
from tests.data import trees

SPEC = {
    "name": "retinexformer",
    "width": 4,
    "num_blocks": [1],
    "reallocate": {"name": "adr", "width": 3, "conv": {"name": "static"}},
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A small model without decoder, and two pairs."""
    root = tmp_path_factory.mktemp("redundancy")
    pairs = trees.pairs(root / "pairs", ("a", "b"), size=(16, 16))
    rng = np.random.default_rng(0)
    shapes = traverse_util.flatten_dict(variable_shapes(llie_jax.build(SPEC)))
    variables = {
        path: 0.2 * rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in shapes.items()
    }
    file = root / "toy.safetensors"
    weights.save(file, SPEC, traverse_util.unflatten_dict(variables))
    return ["--weights", str(file), "--data", str(pairs)]


def test_poi_with_json_and_report(arguments, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "poi.json"
    options = ["--seeds", "2", "--json", str(file), "--out", str(out)]
    assert main(["redundancy", "poi", *arguments, *options]) == 0
    result = json.loads(file.read_text())
    assert result["study"] == "poi"
    assert len(result["poi"]["attention"]["by_seed"]) == 2
    assert set(result["layers"]) == {"attention", "feed_forward"}
    assert result["reset"] == {}
    assert json.loads((out / "redundancy.json").read_text()) == result
    assert "<svg" in (out / "report.html").read_text()
    assert "POI" in capsys.readouterr().out


def test_dmr_after_compression(arguments, capsys):
    method = ["--method", "zeroq", "--dmr", "--seeds", "1", "--kind", "attention"]
    assert main(["redundancy", "compress", *arguments, *method]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("after method zeroq, bits 8: PSNR ")
    assert lines[2].startswith("DMR attention ")
    assert "in 8 bits" in lines[2]


def test_compress(arguments, capsys):
    for method in (["magnitude", "--amount", "0"], ["weights", "--bits", "16"]):
        assert main(["redundancy", "compress", *arguments, "--method", *method]) == 0
        before, after = (
            float(line.split("PSNR ")[1].split()[0])
            for line in capsys.readouterr().out.splitlines()
        )
        assert before == pytest.approx(after, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["dmr", "--layers", "latent/*"], "no module that fits 'latent/*'"),
        (["kernels"], "generates no kernels"),
        (["compress", "--amount", "2"], "amount is 2.0"),
        (["compress", "--method", "weights", "--bits", "1"], "bits=1"),
        (["dmr", "--split", "x", "--data", "nowhere"], "nowhere"),
        (["dmr", "--json", "/dev/null/x/y.json"], "/dev/null/x"),
    ],
)
def test_mistakes_are_one_line(arguments, options, message, capsys, tmp_path):
    file = tmp_path / "result.json"
    study, *rest = options
    command = ["redundancy", study, *arguments, "--json", str(file), *rest]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not file.exists()
