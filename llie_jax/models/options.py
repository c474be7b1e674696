"""Options of a model that change its enhanced images only after training."""

from collections.abc import Mapping

from flax import linen as nn

from llie_jax import messages


def test_options(model: nn.Module) -> dict[str, float]:
    """Returns the test options of a model and their values.

    A model names them in its attribute `test_options`; they are fields of it. A wrapper
    has those of its host.
    """
    if hasattr(model, "host"):
        return test_options(model.host)
    return {name: getattr(model, name) for name in getattr(model, "test_options", ())}


def with_test_options(model: nn.Module, options: Mapping[str, float]) -> nn.Module:
    """Returns the model with some test options changed.

    Raises:
        ValueError: if the model has no such option; those it has are named.
    """
    known = test_options(model)
    for name in options:
        if name not in known:
            raise ValueError(
                f"{type(model).__name__} has no test option {name!r}."
                f"{messages.suggest(name, known)} It has: {messages.listed(known)}."
            )
    if not options:
        return model
    if hasattr(model, "host"):
        return model.clone(host=with_test_options(model.host, options))
    return model.clone(**options)


def parse(pairs: list[str]) -> dict[str, float]:
    """Returns the options of a command line, `["saturation=1.3"]`.

    Raises:
        ValueError: if one is not NAME=NUMBER.
    """
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            options[name] = float(value)
        except ValueError:
            raise ValueError(
                f"The test option {pair!r} is not NAME=NUMBER, such as saturation=1.3."
            ) from None
    return options
