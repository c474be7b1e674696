"""Test options by name and value."""

import pytest
from flax import linen as nn

from llie_jax.models import options


class Toy(nn.Module):
    """A model with two test options."""

    width: int = 3
    alpha: float = 1.0
    gamma: float = 1.0

    test_options = ("alpha", "gamma")


def test_options_are_changed_and_told():
    model = options.with_test_options(Toy(), options.parse(["alpha=0.8"]))
    assert model == Toy(alpha=0.8)
    assert options.test_options(model) == {"alpha": 0.8, "gamma": 1.0}
    assert options.with_test_options(model, {}) is model
    assert options.test_options(nn.Dense(3)) == {}


def test_mistakes():
    with pytest.raises(
        ValueError, match=r"no test option 'alfa'\. Did you mean 'alpha'"
    ):
        options.with_test_options(Toy(), {"alfa": 1.0})
    with pytest.raises(ValueError, match=r"no test option 'width'.*alpha, gamma"):
        options.with_test_options(Toy(), {"width": 1.0})
    with pytest.raises(ValueError, match="It has: none"):
        options.with_test_options(nn.Dense(3), {"alpha": 1.0})
    for pair in ("alpha", "alpha=", "alpha=much"):
        with pytest.raises(ValueError, match="is not NAME=NUMBER"):
            options.parse([pair])
