"""Mistakes in specs are named: the part, the field, the value and what is accepted."""

import pytest

from llie_jax import registry


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"width": "a"}, r"'width' of 'darkir' is an integer such as 32; got 'a'"),
        ({"width": 8.0}, r"'width'.*an integer.*got 8\.0"),
        ({"width": True}, r"'width'.*an integer.*got True"),
        ({"width": None}, r"'width'.*an integer.*got None"),
        ({"width": {"name": "darkir"}}, r"'width'.*an integer"),
        ({"encoder_blocks": 3}, r"'encoder_blocks'.*a list such as \[1, 2, 3\]; got 3"),
        ({"encoder_blocks": ["a"]}, r"'encoder_blocks'.*a list.*got \['a'\]"),
        ({"extra_depthwise": 1}, r"'extra_depthwise'.*a boolean such as True; got 1"),
    ],
)
def test_a_value_of_another_type(fields, expected):
    with pytest.raises(ValueError, match=expected):
        registry.build({"name": "darkir", **fields})


def test_values_that_fit():
    def make(*, factor=0.5, mode="a", host=None, needed, parts=(), kind=int):
        return factor, mode, host, needed, parts, kind

    registry.register("all", kind="types")(make)
    given = {
        "factor": 1,
        "mode": "b",
        "host": {"name": "x"},
        "needed": [1],
        "parts": ["x", 1],
        "kind": "y",
    }
    assert registry.split_spec({"name": "all", **given}, kind="types")[1] == given
    with pytest.raises(ValueError, match=r"'mode' of 'all' is a string such as 'a'"):
        registry.split_spec({"name": "all", "mode": 1}, kind="types")


def test_listed():
    assert registry.listed([]) == "none"
    assert registry.listed([1, 2, 3]) == "1, 2, 3"
    assert registry.listed(iter("abc"), limit=2) == "a, b and 1 more"
