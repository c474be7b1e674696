"""Checks that variables match a model: names and shapes, in both directions."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax import traverse_util

from llie_jax.messages import listed
from llie_jax.models.base import variable_shapes


def check_fit(
    variables: Mapping[str, Any], model: nn.Module, where: str, *, missing: str = ""
) -> None:
    """Checks that variables match a model in names and shapes.

    Args:
        variables: `{collection: tree of arrays}`.
        model: the model.
        where: what the variables are; the message starts with it.
        missing: pattern of names that may be missing, such as `*/reallocate/*`.

    Raises:
        ValueError: listing all names and shapes that differ.
    """
    found = shapes(flat(variables))
    expected = {
        name: shape
        for name, shape in shapes(flat(variable_shapes(model))).items()
        if name in found or not fnmatch.fnmatchcase(name, missing)
    }
    check_names(found, expected, where)


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of a tree by path, such as `params/first/kernel`."""
    return traverse_util.flatten_dict(tree, sep="/")


def shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def check_names(
    found: Mapping[str, tuple], expected: Mapping[str, tuple], where: str
) -> None:
    """Raises ValueError with all differences in names and shapes, if there are any.

    Args:
        found: names and shapes of the arrays.
        expected: names and shapes of the model.
        where: what the arrays are; the message starts with it.
    """
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    differing = [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if missing or unknown or differing:
        raise ValueError(
            f"{where} do not fit the model. Unknown names: {listed(unknown)}. Missing "
            f"names: {listed(missing)}. Other shapes: {listed(differing)}."
        )
