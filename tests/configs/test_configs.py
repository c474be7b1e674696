"""Every experiment file gives a complete config whose parts exist."""

import json
import pathlib

import pytest

from llie_jax.configs import base
from llie_jax.training.experiment import Experiment

FILES = sorted(
    path
    for path in pathlib.Path(base.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "base")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment(path):
    config = base.load(path)
    experiment = Experiment.from_config(config)
    assert base.to_json(base.from_json(base.to_json(config))) == base.to_json(config)
    text = path.read_text()
    assert f"--config llie_jax/configs/{path.name}" in text  # the header's command
    if "adr" in path.stem.split("_"):
        assert config.model.reallocate.name == "adr"
        assert config.optimizer.no_decay == ("*/embedding",)
        plain = base.load(path.with_stem(path.stem.replace("_adr", "")))
        with plain.unlocked(), config.unlocked():
            del plain.model, config.model
        assert base.to_json(plain) == base.to_json(config)
    assert float(experiment.schedule(0)) > 0


def test_a_saved_config_that_is_older_than_a_key():
    config = base.load(FILES[0])
    text = base.to_json(config)
    older = json.loads(text)
    del older["optimizer"]["frozen"], older["data"]["train"]["size"]
    for stage in older["stages"].values():
        del stage["patch_width"]
    assert base.from_json(json.dumps(older)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.train.size": (0, 64)}, r"size is \(0, 64\); give \(height, width\)"),
        ({"data.train.size": (64,)}, r"size is \(64,\)"),
        ({"stages.s0.patch_width": -1}, "patch_width is -1; .* at least 0"),
        ({"stages.s0.patch_size": 0}, "patch_size is 0; .* at least 1"),
    ],
)
def test_sizes_that_make_no_sense(changes, message):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        base.check(config)
