"""Mistakes in specs are named: the part, the field, the value and what is accepted."""

import json

import pytest
from flax import linen as nn

from llie_jax import messages, registry
from llie_jax.types import ModuleFactory


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

    registry.register("all", registry.Card("types"))(make)
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


class Plain(nn.Module):
    """A part without fields."""


class Wide(nn.Module):
    """A part with a required field."""

    width: int


class Odd(nn.Module):
    """A part of another kind."""


class Whole(nn.Module):
    """A model with a slot."""

    slot: ModuleFactory = Plain


@pytest.fixture
def parts(monkeypatch):
    registry.names()  # registers the package's parts before they are put away
    monkeypatch.setattr(registry, "_PARTS", {})
    registry.register("plain", registry.Card("part"))(Plain)
    registry.register("wide", registry.Card("part"))(Wide)
    registry.register("odd", registry.Card("other"))(Odd)
    registry.register("model", registry.Card("model"))(Whole)


def test_a_slot(parts):
    spec = registry.complete_spec(
        {"name": "model", "slot": {"name": "wide", "width": 3}}
    )
    assert spec == {"name": "model", "slot": {"name": "wide", "width": 3}}
    model = registry.build(json.loads(json.dumps(spec)))
    assert model == registry.build(spec)  # compiled once, though built twice
    assert hash(model) == hash(registry.build(spec))
    assert model.slot(name="part").width == 3
    assert model.slot(width=5).width == 5
    assert registry.default_spec("model")["slot"] == {"name": "plain"}
    assert isinstance(registry.build({"name": "model", "slot": "plain"}).slot(), Plain)


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (3, "'slot' of 'model' is a part, by name.*plain, wide; got 3"),
        ("plane", "Unknown part 'plane'. Did you mean 'plain'"),
        ("odd", "Unknown part 'odd'. It is the name of a other.*plain, wide"),
        (Odd, "'slot' of 'model' is a part"),
        ({"name": "wide"}, "'wide' needs a value for its field 'width'"),
        ({"name": "wide", "with": 3}, "'wide' has no field 'with'.*'width'"),
    ],
)
def test_a_slot_that_does_not_fit(parts, slot, expected):
    with pytest.raises(ValueError, match=expected):
        registry.build({"name": "model", "slot": slot})


def test_listed():
    assert messages.listed([]) == "none"
    assert messages.listed([1, 2, 3]) == "1, 2, 3"
    assert messages.listed(iter("abc"), limit=2) == "a, b and 1 more"
