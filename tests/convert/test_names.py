import pytest

from llie_jax.convert import names

PATTERNS = {
    "intro": "intro",
    "encoders.{i}.modules_list.{j}.conv1": "encoders_{i}/block_{j}/expand",
    "encoders.{i}.modules_list.{j}.beta": "encoders_{i}/block_{j}/beta",
    "encoders.{i}.modules_list.{j}.norm": "encoders_{i}/block_{j}/norm",
}


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("intro/kernel", "intro.weight"),
        ("intro/bias", "intro.bias"),
        ("encoders_2/block_10/expand/bias", "encoders.2.modules_list.10.conv1.bias"),
        ("encoders_2/block_0/norm/scale", "encoders.2.modules_list.0.norm.weight"),
        ("encoders_2/block_0/beta", "encoders.2.modules_list.0.beta"),
        ("encoders_x/block_0/beta", None),
        ("other/intro/kernel", None),
        ("intro/other", None),
    ],
)
def test_torch_key(path, key):
    assert names.torch_key(path, PATTERNS) == key


def test_count_known():
    keys = [
        "intro.weight",
        "encoders.0.modules_list.1.beta",
        "encoders.0.modules_list.x.beta",
        "outro.weight",
    ]
    assert names.count_known(keys, PATTERNS) == 2


def test_statistics_slopes_and_aliases():
    patterns = {
        "norm": "norm",
        "act": "act",
        "blocks.{i}.0": "block_{i}",
        "blocks.{i}.{j}": "block_{i}",
    }
    assert names.torch_key("norm/mean", patterns) == "norm.running_mean"
    assert names.torch_key("norm/var", patterns) == "norm.running_var"
    assert names.torch_key("act/slope", patterns) == "act.weight"
    assert names.torch_key("block_2/kernel", patterns) == "blocks.2.0.weight"
    found = names.variable_paths("blocks.2.1.bias", patterns)
    assert found == {"block_2/bias"}
    assert "block_2/kernel" in names.variable_paths("blocks.2.1.weight", patterns)
    assert names.variable_paths("other.weight", patterns) == set()
