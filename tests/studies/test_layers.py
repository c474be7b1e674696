"""Which layers a model has, and what a reset changes."""

import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax.studies import layers
from tests.studies.conftest import ATTENTION


def changed(before, after):
    before, after = (traverse_util.flatten_dict(x, sep="/") for x in (before, after))
    assert before.keys() == after.keys()
    return {name for name in before if np.any(before[name] != after[name])}


def test_layers(made):
    model, _ = made
    assert layers.layers(model) == ATTENTION
    assert layers.layers(model, pattern="*decoder_0*") == ATTENTION[2:]
    found = layers.layers(model, "feed_forward")
    assert [path.rpartition("/")[2] for path in found] == ["feed_forward"] * 3
    with pytest.raises(ValueError, match="no attention layer that fits 'latent/"):
        layers.layers(model, pattern="latent/*")
    with pytest.raises(ValueError, match=r"Did you mean 'attention'"):
        layers.layers(model, "attenton")


@pytest.mark.parametrize(
    ("name", "attention", "feed_forward"),
    [("restormer", 44, 44), ("retinexformer", 8, 8), ("cidnet", 11, 11)],
)
def test_layers_of_the_full_backbones(name, attention, feed_forward):
    """CIDNet's discarded branch is no layer: resetting it would give 100 dB."""
    model = llie_jax.build(name)
    assert len(layers.layers(model)) == attention
    assert len(layers.layers(model, "feed_forward")) == feed_forward
    assert not any("i_lca5" in path for path in layers.layers(model))


def test_reset_touches_its_layers_only(made):
    model, variables = made
    params = variables["params"]

    def reset(*args, **kwargs):
        return layers.reset(model, params, *args, **kwargs)

    layer, other = ATTENTION[2:], ATTENTION[1]
    first = reset(layer, seed=0)
    names = changed(params, first)
    assert names
    assert all(name.startswith(f"{layer[0]}/") for name in names)
    assert any("reallocate" in name for name in names)
    assert not changed(first, reset(layer, seed=0))
    assert changed(first, reset(layer, seed=1)) <= names
    # A layer is drawn alike whichever others are.
    both = reset([other, *layer], seed=0)
    assert all(name.startswith(f"{other}/") for name in changed(first, both))
    backbone_only = changed(params, reset(layer, seed=0, backbone_only=True))
    assert backbone_only == {name for name in names if "reallocate" not in name}
    scale = f"{layer[0]}/scale"
    assert np.all(traverse_util.flatten_dict(first, sep="/")[scale] == 1)
