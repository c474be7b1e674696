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
