"""Rematerialisation: activations of chosen modules are computed again, not kept.

A module's path is that of its parameters: "encoder_0" is a level, "encoder_0/block_1"
a block of it. Parameter trees and results stay as they are.
"""

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import linen as nn

from llie_jax import messages
from llie_jax.models.base import Model, variable_shapes


@contextlib.contextmanager
def rematerialised(patterns: str) -> Iterator[None]:
    """Calls of matching modules inside keep their inputs only.

    The gradient then needs one more forward pass of these modules, and memory for the
    insides of one at a time. Modules inside of a matching one keep nothing either, so
    a block needs less memory than its level, and a level less than the whole model.

    Args:
        patterns: module paths, separated by commas: "*/block_*", "encoder_0,latent";
            `*` matches any text.
    """
    inside, wanted = False, _split(patterns)

    def call(call_next: Callable, args: tuple, kwargs: dict[str, Any], context) -> Any:
        nonlocal inside
        path = "/".join(context.module.path)
        if inside or context.method_name != "__call__" or not _matches(path, wanted):
            return call_next(*args, **kwargs)

        def again(module):
            nonlocal inside
            inside = True
            try:
                return module(*args, **kwargs)
            finally:
                inside = False

        return nn.remat(again)(context.module)

    with nn.intercept_methods(call) if wanted else contextlib.nullcontext():
        yield


def check(patterns: str, model: Model) -> None:
    """Raises ValueError if a pattern matches no module of the model."""
    wanted = _split(patterns)
    paths = module_paths(model) if wanted else []
    for pattern in wanted:
        if not any(_matches(path, (pattern,)) for path in paths):
            outer = [path for path in paths if path.count("/") < 2]
            raise ValueError(
                f"config.remat has {pattern!r}, which matches no module of "
                f"{type(model).__name__}.{messages.suggest(pattern, paths)} Modules: "
                f"{messages.listed(outer, limit=20)}; * matches any text."
            )


def module_paths(model: Model) -> list[str]:
    """Returns the paths of the modules that have parameters, sorted."""

    def inside(tree, path=""):
        for name, below in tree.items():
            if isinstance(below, dict):
                yield f"{path}{name}"
                yield from inside(below, f"{path}{name}/")

    return sorted(inside(variable_shapes(model)["params"]))


def _split(patterns: str) -> tuple[str, ...]:
    return tuple(filter(None, (each.strip() for each in patterns.split(","))))


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Returns whether a path matches; that of the whole model, "", never does."""
    return bool(path) and any(fnmatch.fnmatchcase(path, each) for each in patterns)
