"""What score files may hold, and what is made of it."""

import json

import pytest

from llie_jax import messages
from llie_jax import weights as weight_files
from llie_jax.evaluation.comparison import results
from tests.evaluation.comparison import toys


def test_files_and_folders(tmp_path):
    toys.write(tmp_path / "a.json", {"1": 20.0})
    toys.write(tmp_path / "run" / "scores.json", {"1": 21.0})
    toys.write(tmp_path / "run" / "eval" / "lol" / "scores.json", {"1": 22.0})
    found = results.read([tmp_path / "a.json", f"Ours={tmp_path}/run"])
    assert [each.means["psnr"] for each in found] == [20.0, 21.0, 22.0]
    assert [each.label for each in found] == ["", "Ours", "Ours"]


def test_a_path_with_an_equals_sign(tmp_path):
    toys.write(tmp_path / "lr=1" / "scores.json", {"1": 20.0})
    (found,) = results.read([tmp_path / "lr=1"])
    assert (found.label, found.name) == ("", "lr=1")


def test_a_file_of_an_older_version(tmp_path):
    images = {"1": {"psnr": "inf", "ssim": 1}, "2": {"psnr": 20.0, "ssim": 0.5}}
    path = toys.write(tmp_path / "a.json", {"1": 20.0}, images=images)
    (found,) = results.read([path])
    assert found.images["1"]["psnr"] == float("inf")
    assert found.columns["psnr"] == results.Column("psnr", "rgb_uint8", "dB", True)
    assert found.setting == results.Setting("default", "output rounded to 8 bits")


def test_recorded_columns_are_believed(tmp_path):
    columns = {"niqe": {"metric": "niqe", "unit": "", "higher_is_better": False}}
    path = toys.write(
        tmp_path / "a.json",
        {"1": 20.0},
        columns=columns,
        images={"1": {"niqe": 3.0, "mystery": 1}},
        mean={"niqe": 3.0, "mystery": 1},
    )
    (found,) = results.read([path])
    assert not found.columns["niqe"].higher_is_better
    assert found.columns["mystery"].metric == "mystery"


def test_marks(tmp_path):
    options = {
        "uses_reference": ["ratio"],
        "overlap": "trained on lol_v1: 3 images",
        "selected_on_test": True,
        "tile": 512,
        "tiled": ["1"],
        "self_ensemble": True,
        "saturation": 1.3,
        "alpha": 1.0,
    }
    path = toys.write(
        tmp_path / "a.json", {"1": 20.0}, options=options, model={"name": "cidnet"}
    )
    (found,) = results.read([path])
    assert found.marks == (
        "uses the reference",
        "trained on lol_v1: 3 images",
        "selected on the test split",
        "self-ensemble of 8",
        "saturation = 1.3",
        "in tiles of 512",
    )
    assert found.changes[0] == "saturation = 1.3"


def test_copies_are_dropped(tmp_path):
    for name in ("a", "b"):
        toys.write(tmp_path / f"{name}.json", {"1": 20.0}, weights_sha256="x")
    with pytest.warns(messages.Note, match=r"b\.json is a copy of .*a\.json"):
        found = results.read([tmp_path / "a.json", tmp_path / "b.json"])
    assert len(found) == 1
    assert len(results.read([tmp_path / "a.json"] * 2)) == 1


def test_the_seed_of_an_older_file_is_in_its_run(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "7").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"seed": 3, "model": {"name": "sci"}}))
    digest = weight_files.file_sha256(run / "config.json")
    weights = {"path": str(run / "checkpoints" / "7"), "config_sha256": digest}
    path = toys.write(tmp_path / "a.json", {"1": 20.0}, weights=weights)
    assert results.read([path])[0].seed == 3
    (run / "config.json").write_text("{}")
    assert results.read([path])[0].seed is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, "it scores no image"),
        ({"images": None}, "it has no 'images'"),
        ({"mean": {}}, "it has no metric"),
        ({"protocol": 3}, "it has no 'protocol'"),
        ({"images": {"1": {"psnr": "nan"}}}, "psnr of '1' is nan, no number"),
        ({"images": {"1": {"psnr": True}}}, "psnr of '1' is True, no number"),
        ({"images": {"1": 3}}, "the scores of '1' are no object"),
        (
            {"images": {"1": {"psnr": 1, "ssim": 1}, "2": {"psnr": 1}}},
            "'2' has the columns psnr, others have psnr, ssim",
        ),
        ({"options": []}, "its 'options' is no object"),
        ({"data": {"references": 1}}, "its 'references' is no object"),
    ],
)
def test_damaged_files(tmp_path, changes, message):
    path = toys.write(tmp_path / "a.json", {"1": 20.0}, **changes)
    with pytest.raises(ValueError, match="is not a score file") as error:
        results.read([path])
    assert message in str(error.value)


def test_mistakes(tmp_path):
    def message(*inputs):
        with pytest.raises((ValueError, OSError)) as error:
            results.read(inputs)
        return str(error.value)

    assert "There is no file or folder" in message(tmp_path / "absent")
    assert "neither a path nor LABEL=PATH" in message("=x")
    (tmp_path / "run").mkdir()
    assert "holds no scores.json" in message(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "has not been scored yet; run `llie-jax eval" in message(tmp_path / "run")
    for text, why in (("no json", "it is not JSON"), ("[1]", "no JSON object")):
        (tmp_path / "x.json").write_text(text)
        assert why in message(tmp_path / "x.json")
