"""Runs whose best checkpoint is chosen on the test split, as in many papers."""

import json

import pytest

from llie_jax.cli import main as cli
from llie_jax.configs import base
from llie_jax.evaluation import runner
from llie_jax.training import inputs, loop
from llie_jax.weights import describe
from tests.training import toys


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    found = tmp_path_factory.mktemp("lol")
    toys.write_pairs(found / "our485", count=6)
    toys.write_pairs(found / "eval15", count=3)
    return found


def config(root, **changes):
    return toys.config(
        root,
        **{
            "data.train.name": "lol_v1",
            "data.validation.select_on": "test",
            "stages.s0.steps": 2,
            "evaluate.every_steps": 2,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    loop.train(config(root), workdir, progress=False)
    return workdir


def test_all_training_pairs_are_trained_on(root):
    training, validation = inputs.open_data(base.check(config(root)))
    assert (training.split, len(training)) == ("train", 6)
    assert (validation.split, len(validation)) == ("test", 3)


def test_scores_on_that_split_are_marked(run, root):
    def marks(split):
        scores = runner.run(
            run, "lol_v1", root=root, split=split, allow_overlap=True, progress=False
        )
        return [mark for mark in scores.marks if "selected" in mark]

    assert marks("test") == ["selected on the test split"]
    assert not marks("train")
    assert "selected on the test split" in (run / "report.html").read_text()


def test_converted_weights_still_say_so(run, tmp_path):
    out = tmp_path / "weights.safetensors"
    assert cli.main(["convert", str(run), str(out)]) == 0
    assert describe(out)["metadata"]["selected_on"] == "lol_v1 test"


def test_a_folder_without_a_test_split_is_refused(tmp_path):
    toys.write_pairs(tmp_path)
    found = config(tmp_path, **{"data.train.name": "paired_folder"})
    with pytest.raises(ValueError, match="has no test split; use 'held_out'"):
        inputs.open_data(base.check(found))


def test_photos_without_references_select_nothing(tmp_path):
    for split in ("train", "test"):
        toys.write_photos(tmp_path / split)
    found = config(tmp_path, **{"data.train.name": "image_folder"})
    with pytest.raises(ValueError, match="select_on is 'test', but"):
        inputs.open_data(base.check(found))


def test_an_older_config_without_the_key_held_images_out(run):
    content = json.loads((run / "config.json").read_text())
    del content["data"]["validation"]["select_on"]
    read = base.from_json(json.dumps(content))
    assert read.data.validation.select_on == "held_out"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.validation.select_on": "eval"}, "Accepted: held_out, test"),
        ({"data.train.split": "test"}, "train on another"),
        (
            {
                "data.train.name": "mixture",
                "data.mixture": {"lol": {"name": "lol_v1", "root": "x"}},
            },
            "a mixture has no test split",
        ),
    ],
)
def test_what_cannot_select_is_refused(root, changes, message):
    found = config(root)
    mixed = changes.pop("data.mixture", None)
    base.override(found, changes)
    if mixed:
        with found.unlocked():
            found.data.mixture = mixed
    with pytest.raises(ValueError, match=message):
        base.check(found)
