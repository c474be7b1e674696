"""Finding the layers of a model, and resetting them to untrained values.

A layer is a module that the model's card names by patterns over paths:
`attention_layers` and `feed_forward_layers`, except `unused_layers`, whose results
nothing reads. Resetting a layer draws its parameters again from the distribution they
had before training.

Source: Li et al., Rethinking Model Redundancy for Low-light Image Enhancement,
arXiv 2412.16459, Section 3.
"""

import fnmatch
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from llie_jax import messages
from llie_jax.models.base import Model, variable_shapes

KINDS = ("attention", "feed_forward")

MODULE = "module"
"""The kind of modules that a pattern names and that are layers of neither kind."""

REALLOCATE = "reallocate"
"""The submodule that belongs to an attention but not to the backbone."""


def layers(
    model: Model, kind: str = "attention", pattern: str | None = None
) -> list[str]:
    """Returns the paths of a model's layers of one kind, in execution order.

    Args:
        model: the model.
        kind: one of `KINDS`.
        pattern: keeps the layers whose path matches, such as `latent/*`.

    Raises:
        ValueError: if no layer is left.
    """
    if kind not in KINDS:
        raise ValueError(
            f"Unknown kind {kind!r}.{messages.suggest(kind, KINDS)} Use one of {KINDS}."
        )
    found = _known(model, kind)
    chosen = [path for path in found if pattern is None or _fits(path, (pattern,))]
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no {kind} layer"
            + (f" that fits {pattern!r}" if pattern else "")
            + f". Layers: {messages.listed(found, limit=8)}."
        )
    return chosen


def fits_layers(model: Model, pattern: str) -> bool:
    """Returns whether a layer of any kind matches a pattern."""
    known = [path for kind in KINDS for path in _known(model, kind)]
    return any(_fits(path, (pattern,)) for path in known)


def modules(model: Model, pattern: str) -> list[str]:
    """Returns the paths of all modules that match, in execution order.

    Args:
        model: the model.
        pattern: over paths, such as `*/reallocate` for ADR's own layers.

    Raises:
        ValueError: if none matches.
    """
    unused = model.card().unused_layers
    found = [path for path in _modules(model) if not _fits(path, unused)]
    chosen = [path for path in found if _fits(path, (pattern,))]
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no module that fits {pattern!r}. Modules: "
            f"{messages.listed(found, limit=8)}."
        )
    return chosen


def _known(model: Model, kind: str) -> list[str]:
    """Returns all layers of a kind that the card names."""
    card = model.card()
    patterns = {
        "attention": card.attention_layers,
        "feed_forward": card.feed_forward_layers,
    }
    return [
        path
        for path in _modules(model)
        if _fits(path, patterns[kind]) and not _fits(path, card.unused_layers)
    ]


@functools.lru_cache(maxsize=4)
def _modules(model: Model) -> tuple[str, ...]:
    """Returns the paths of all modules with parameters, in execution order."""
    found = {}  # a dict keeps the order

    def record(call, args, kwargs, context):
        module = context.module
        if module.path and module.variables.get("params"):
            found["/".join(module.path)] = None
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, model.multiple, model.multiple, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(model.apply, variable_shapes(model), image)
    return tuple(found)


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def reset(
    model: Model,
    params: Mapping[str, Any],
    chosen: Sequence[str],
    *,
    seed: int,
    backbone_only: bool = False,
) -> dict[str, Any]:
    """Returns parameters in which some layers have fresh initial values.

    The random key of a layer depends on the seed and on the layer's place in the model
    only, so its values do not depend on which other layers are reset.

    Args:
        model: the model.
        params: its parameters.
        chosen: paths of the layers.
        seed: of the initial values.
        backbone_only: keeps the parameters of ADR in attention layers.
    """
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    known = [path for kind in KINDS for path in _known(model, kind)]
    places = {path: place for place, path in enumerate(known)}
    for path in chosen:
        key = jax.random.fold_in(jax.random.key(seed), places.get(path, len(places)))
        fresh = traverse_util.flatten_dict(initial(model, key), sep="/")
        for name, value in fresh.items():
            inside = name.startswith(f"{path}/")
            if inside and not (backbone_only and REALLOCATE in name.split("/")):
                flat[name] = value
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.partial(jax.jit, static_argnums=0)
def initial(model: Model, rng: jax.Array) -> dict[str, Any]:
    """Returns the parameters of an untrained model."""
    side = model.multiple
    return model.init(rng, jnp.zeros((1, side, side, 3)))["params"]
