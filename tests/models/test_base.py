"""The defaults of `Model`, and the errors for what a model does not define."""

import pytest

from llie_jax.models import base
from llie_jax.registry import register
from llie_jax.types import Outputs


class Toy(base.Model):
    """A model with two test options."""

    width: int = 3
    alpha: float = 1.0
    gamma: float = 1.0

    multiple = 4
    pad_mode = "reflect"
    test_options = ("alpha", "gamma")

    def __call__(self, image, *, target=None, train=False):
        return Outputs(image)


class Plain(base.Model):
    """A model that defines nothing."""


def test_options_are_changed_and_told():
    model = Toy().with_options(base.parse_options(["alpha=0.8"]))
    assert model == Toy(alpha=0.8)
    assert model.options == {"alpha": 0.8, "gamma": 1.0}
    assert model.with_options({}) is model
    assert Plain().options == {}


def test_mistakes_in_options():
    with pytest.raises(
        ValueError, match=r"no test option 'alfa'\. Did you mean 'alpha'"
    ):
        Toy().with_options({"alfa": 1.0})
    with pytest.raises(ValueError, match=r"no test option 'width'.*alpha, gamma"):
        Toy().with_options({"width": 1.0})
    with pytest.raises(ValueError, match="Options: none"):
        Plain().with_options({"alpha": 1.0})
    for pair in ("alpha", "alpha=", "alpha=much"):
        with pytest.raises(ValueError, match="is not NAME=NUMBER"):
            base.parse_options([pair])


def test_a_promise_that_is_not_kept_is_named():
    with pytest.raises(TypeError, match="Plain does not define `multiple`"):
        _ = Plain().multiple
    with pytest.raises(TypeError, match="Plain does not define `pad_mode`"):
        _ = Plain().pad_mode
    assert Toy().multiple == 4
    assert Plain().native_inputs(None) == {}
    assert Plain().with_axis("data") == Plain().for_inference() == Plain()
    assert Plain().card() == base.ModelCard()
    assert Plain().untrainable == ""


def test_a_model_without_branches_cannot_be_folded():
    with pytest.raises(ValueError, match=r"Plain has no branches .* needs no folding"):
        Plain().fold({"params": {}})


def test_a_fact_that_no_card_has():
    with pytest.raises(
        TypeError, match=r"ModelCard has no fact 'weigths'\. Did you mean 'weights'"
    ):
        base.ModelCard(weigths={})


@register("toy_sampler", base.ModelCard(padding=False))
class Sampler(base.Backbone):
    """A backbone that samples and must not be padded."""

    multiple = 4
    pad_mode = "reflect"
    test_streams = ("noise",)


class Round(base.Wrapper):
    """A wrapper that adds nothing."""

    backbone: base.Backbone


def test_a_wrapper_is_padded_and_samples_as_its_backbone():
    assert Toy.test_streams == ()
    assert base.ModelCard().padding
    wrapped = Round(backbone=Sampler())
    assert wrapped.test_streams == ("noise",)
    assert not wrapped.card().padding
