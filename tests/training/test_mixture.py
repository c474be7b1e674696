"""Training on a mixture of data sets: shares in the log, resuming, mistakes."""

import jax
import numpy as np
import pytest

from llie_jax import weights
from llie_jax.cli.experiment import load_config
from llie_jax.configs import base
from llie_jax.data import preparing
from llie_jax.training import loop
from llie_jax.weights.run import read_log
from tests.training import toys


def mixed(folder, **changes):
    """A config for two sets in a folder, one of them prepared."""
    config = toys.config("")
    config.data.train.name = "mixture"
    config.data.mixture = {
        "pairs": dict(name=str(folder / "pairs"), repeat=2.0),
        "other": dict(name=str(folder / "tfds/other")),
    }
    base.override(config, changes)
    return config


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    toys.write_pairs(folder / "pairs")
    other = toys.write_pairs(folder / "other", count=4, size=(20, 28))
    preparing.prepare(other, data_dir=folder / "tfds")
    return folder


def test_a_resumed_run_is_bit_equal_and_logs_the_shares(sets, tmp_path):
    config = mixed(sets, **{"data.validation.fraction": 0.0})
    whole = loop.train(config, tmp_path / "whole", progress=False)
    loop.train(config, tmp_path / "parts", stop_at=3, progress=False)
    parts = loop.train(config, tmp_path / "parts", progress=False)
    jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)
    lines = [line for line in read_log(tmp_path / "whole/log.jsonl") if "loss" in line]
    for line in lines:
        assert line["share_pairs"] + line["share_other"] == pytest.approx(1)
    # Two epochs of 12 and 4 samples: three quarters.
    assert np.mean([line["share_pairs"] for line in lines]) == 0.75
    facts = weights.describe(tmp_path / "whole")
    assert facts["source"] == "run"


def test_roots_may_move_and_repeats_may_not(sets, tmp_path):
    config = mixed(sets, **{"data.validation.fraction": 0.0})
    loop.train(config, tmp_path, stop_at=2, progress=False)
    with pytest.raises(ValueError, match=r"data\.mixture\.pairs\.repeat: 2\.0 there"):
        loop.train(mixed(sets, **{"data.mixture.pairs.repeat": 3.0}), tmp_path)


def test_the_recipe_of_darkir():
    config = load_config("darkir:data=mixture")
    assert {key: part.repeat for key, part in config.data.mixture.items()} == {
        "lol_v1": 5.0,
        "lol_v2_real": 5.0,
        "lol_v2_syn": 5.0,
        "lolblur": 1.0,
    }
    # 500 epochs of 10,370 and 10,200 pairs in batches of 16, 1 % of them held out.
    assert base.total_steps(config) == 500 * ((20_570 - 206) // 16)


@pytest.mark.slow
def test_a_small_darkir_on_two_sets(sets, tmp_path):
    config = mixed(sets)
    config.model = base.sized("darkir", "small")
    small = {"stages.s0.steps": 4, "stages.s0.batch_size": 2}
    base.override(config, small | {"data.validation.fraction": 0.0})
    whole = loop.train(config, tmp_path / "whole", progress=False)
    loop.train(config, tmp_path / "parts", stop_at=2, progress=False)
    parts = loop.train(config, tmp_path / "parts", progress=False)
    jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)
