import json

import numpy as np
import pytest
import safetensors.numpy

from llie_jax import weights
from llie_jax.cli import main
from llie_jax.features import vgg


@pytest.fixture(autouse=True)
def one_subcommand(monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("convert",))


@pytest.fixture
def official(golden, tmp_path):
    arrays = np.load(golden / "darkir_tiny.npz")
    path = tmp_path / "official.safetensors"
    tensors = {
        key.removeprefix("param:"): arrays[key] for key in arrays if "param:" in key
    }
    safetensors.numpy.save_file(tensors, path)
    return path


def test_convert(official, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    options = ["--trained-on", "LOL", "--score", '{"psnr": 3}', "--licence", "MIT"]
    options += ["--selected-on", "LOL test"]
    assert main.main(["convert", str(official), str(out), *options]) == 0
    model, _ = weights.load(out)
    assert (model.width, model.encoder_blocks) == (8, (1, 1, 1))
    metadata = weights.describe(out)["metadata"]
    assert metadata["trained_on"] == "LOL"
    assert metadata["selected_on"] == "LOL test"
    assert metadata["licence"] == "MIT"
    assert json.loads(metadata["score"]) == {"psnr": 3}
    assert metadata["source_sha256"] == weights.file_sha256(official)
    assert "123,870 parameters" in capsys.readouterr().out


def test_spec(official, tmp_path):
    out = tmp_path / "out.safetensors"
    spec = '{"dilations": [1, 2, 3]}'
    assert main.main(["convert", str(official), str(out), "--spec", spec]) == 0
    assert weights.load(out)[0].dilations == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "layout"), [("vgg16", vgg.VGG16), ("vgg19", vgg.VGG19)]
)
def test_vgg(name, layout, tmp_path, capsys):
    rng = np.random.default_rng(0)
    tensors = {"classifier.0.weight": np.zeros((2, 2))}
    for index, layer in enumerate(vgg.layer_names(layout)):
        if layer.startswith("conv"):
            tensors[f"features.{index}.weight"] = rng.random((2, 2, 3, 3), np.float32)
            tensors[f"features.{index}.bias"] = np.zeros(2, np.float32)
    source, out = tmp_path / "official.safetensors", tmp_path / f"{name}.safetensors"
    safetensors.numpy.save_file(tensors, source)
    assert main.main(["convert", str(source), str(out)]) == 0
    assert f"{name}: {2 * sum(layout)} tensors" in capsys.readouterr().out
    params = vgg.load(out, name=name)
    kernel = tensors["features.2.weight"].transpose(2, 3, 1, 0)
    assert np.array_equal(params["conv1_2"]["kernel"], kernel)


def test_fold(golden, tmp_path, capsys):
    arrays = np.load(golden / "mobileie_train_random.npz")
    tensors = {
        key.removeprefix("param:"): arrays[key] for key in arrays if "param:" in key
    }
    official, full, folded, twice = (
        str(tmp_path / f"{name}.safetensors")
        for name in ("official", "full", "folded", "twice")
    )
    safetensors.numpy.save_file(tensors, official)
    options = ["--trained-on", "noise", "--score", '{"psnr": 3}']
    assert main.main(["convert", official, full, *options]) == 0
    assert main.main(["convert", full, folded, "--fold", "--licence", "MIT"]) == 0
    assert "4,075 parameters" in capsys.readouterr().out
    assert not weights.load(folded)[0].branches
    before, after = (weights.describe(path)["metadata"] for path in (full, folded))
    assert after["licence"] == "MIT"
    assert json.loads(after["score"]) == {"psnr": 3}
    for kept in ("trained_on", "source", "source_sha256"):
        assert after[kept] == before[kept] != ""
    assert main.main(["convert", folded, twice, "--fold"]) == 2
    assert "folded already" in capsys.readouterr().err
    assert main.main(["convert", full, twice, "--spec", "{}"]) == 2
    assert "--spec is not for runs and releases" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.pth", "out.safetensors"], "no checkpoint file no.pth"),
        (["{official}", "out.safetensors", "--fold"], "DarkIR has no branches"),
        (["{official}", "out.pth"], "must end in .safetensors"),
        (["{official}", "out.safetensors", "--spec", "{{"], "--spec is not JSON"),
        (["{official}", "out.safetensors", "--spec", "3"], "needs a JSON object"),
        (
            ["{official}", "out.safetensors", "--spec", '{{"width": 9}}'],
            "for params/decoders_0/block_0/norm1/scale (36,)",
        ),
    ],
)
def test_errors(official, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(official=official) for argument in arguments]
    assert main.main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_help(capsys):
    with pytest.raises(SystemExit):
        main.main(["convert", "--help"])
    assert "llie-jax convert" in capsys.readouterr().out
