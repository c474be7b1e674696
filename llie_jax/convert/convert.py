"""Converts the tensors of an official checkpoint to a model and its variables."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from llie_jax import registry
from llie_jax.convert import names
from llie_jax.convert import tensors as layouts
from llie_jax.convert.checkpoint import state_dict
from llie_jax.messages import listed
from llie_jax.models import base

_COUNTERS = ("*.num_batches_tracked", "num_batches_tracked")


def from_torch(
    tensors: Mapping[str, Any], spec: registry.Spec | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a model and its variables from an official PyTorch checkpoint.

    Every tensor must be used and every variable filled.

    Args:
        tensors: official state-dict keys to arrays; may be nested under `params` or
            `state_dict`, or have the prefix `module.`.
        spec: the model, or some of its fields. Other fields are inferred from keys and
            shapes; those that cannot be inferred (see the model's `TorchKeys`) have the
            paper's value.

    Returns:
        The model, and `{collection: tree of arrays}` for its `apply`.

    Raises:
        ValueError: if the model is not recognised, keys are unknown or missing (the
            message lists both), or shapes differ.
    """
    tensors = state_dict(tensors)
    spec = infer_spec(tensors, spec)
    model = registry.build(spec)
    keys = base.card(spec["name"]).torch
    return model, convert_tensors(
        tensors, base.variable_shapes(model), keys.patterns, unused=keys.unused
    )


def infer_spec(
    tensors: Mapping[str, Any], spec: registry.Spec | None = None
) -> dict[str, Any]:
    """Returns the complete spec of the model of a checkpoint.

    Args:
        tensors: as in `from_torch`.
        spec: the model, or some of its fields, which override inferred ones.

    Raises:
        ValueError: if no model has such tensors, or the spec has unknown fields.
    """
    tensors = state_dict(tensors)
    given = {"name": spec} if isinstance(spec, str) else dict(spec or {})
    name = given.setdefault("name", None) or _find_model(tensors)
    _, fields = registry.split_spec({**given, "name": name})
    keys = base.card(name).torch
    if keys is None:
        raise ValueError(f"{name!r} has no official PyTorch checkpoints to convert.")
    found = keys.infer_spec(
        {key: np.shape(value) for key, value in tensors.items()}, fields
    )
    for key, value in fields.items():
        inner = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = {**found[key], **value} if inner else value
    return registry.complete_spec({**found, "name": name})


def join_parts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the tensors of a checkpoint that is in one file or in several.

    Args:
        parts: official state-dict keys to arrays, of each file.

    Raises:
        ValueError: if no model has such parts, or a part is missing.
    """
    for name in registry.list_models():
        keys = base.card(name).torch
        if keys and keys.join and (joined := keys.join(parts)) is not None:
            return joined
    if len(parts) > 1:
        raise ValueError(
            f"No model has a checkpoint in several files with the keys "
            f"{listed(parts[0], limit=3)}; give one checkpoint and the release file."
        )
    return dict(parts[0])


def convert_tensors(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    torch_keys: Mapping[str, str],
    *,
    unused: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the variables; every tensor must be used and every variable filled.

    Further keys of a shared tensor (aliases) must have equal values. The counters of
    PyTorch's batch norms, which nobody reads, are ignored.

    Args:
        tensors: state-dict keys to arrays.
        shapes: `{collection: tree}` of anything with a shape and a dtype.
        torch_keys: name patterns, see `llie_jax.convert.names`.
        unused: patterns with `*` of keys that the model does not use.

    Raises:
        ValueError: listing the unknown keys, the missing keys, the shapes that differ
            and the aliases whose values differ.
    """
    targets = traverse_util.flatten_dict(shapes, sep="/")
    filled, used, missing, differing = {}, {}, [], []
    for path, target in targets.items():
        inside = path.partition("/")[2]
        key = names.torch_key(inside, torch_keys) or path
        if key not in tensors:
            missing.append(key)
            continue
        used[inside] = key
        source = np.asarray(tensors[key])
        array = layouts.to_flax(source, inside.rpartition("/")[2], target.shape)
        if array is None:
            differing.append(f"{key} {source.shape} for {path} {target.shape}")
        else:
            filled[path] = jnp.asarray(array, target.dtype)
    unknown, read = [], set(used.values())
    for key in tensors.keys() - read:
        if any(fnmatch.fnmatchcase(key, each) for each in (*_COUNTERS, *unused)):
            continue
        same = [
            used[path] for path in names.variable_paths(key, torch_keys) if path in used
        ]
        if not same:
            unknown.append(key)
        elif not np.array_equal(tensors[key], tensors[same[0]]):
            differing.append(f"{key} is not equal to its alias {same[0]}")
    if unknown or missing or differing:
        raise ValueError(
            "The checkpoint does not match the model. "
            f"Unknown keys: {listed(sorted(unknown))}. Missing keys: {listed(missing)}."
            + (f" Other shapes or values: {listed(differing)}." if differing else "")
        )
    return traverse_util.unflatten_dict(filled, sep="/")


def _find_model(tensors):
    """Returns the registered model that knows most of the keys."""
    cards = {name: base.card(name) for name in registry.list_models()}
    patterns = {name: card.torch.patterns for name, card in cards.items() if card.torch}
    known = {name: names.count_known(tensors, keys) for name, keys in patterns.items()}
    # A wrapper knows all the keys of its backbone, so ties go to fewer patterns.
    best = max(known, key=lambda name: (known[name], -len(patterns[name])))
    if known[best] <= len(tensors) / 2:
        raise ValueError(
            f"No model recognised from the keys {listed(tensors, limit=5)}. Models: "
            f"{', '.join(known)}."
        )
    return best
