"""Converts the tensors of an official checkpoint to a model and its variables."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from llie_jax import registry
from llie_jax.convert import names, prefixes
from llie_jax.convert import tensors as layouts
from llie_jax.convert.checkpoint import state_dict
from llie_jax.messages import listed, note
from llie_jax.models import base

_COUNTERS = ("*.num_batches_tracked", "num_batches_tracked")


def from_torch(
    tensors: Mapping[str, Any],
    spec: registry.Spec | None = None,
    *,
    use: str | None = None,
    key_prefix: str | None = None,
    ignore: Sequence[str] = (),
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a model and its variables from an official PyTorch checkpoint.

    Every tensor must be used and every variable filled. A prefix of all keys of the
    model, such as `module.` or `net_g.`, is found and stripped; a `Note` names what is
    outside it.

    Args:
        tensors: official state-dict keys to arrays; may be nested, see `state_dict`.
        spec: the model, or some of its fields. Other fields are inferred from keys and
            shapes; those that cannot be inferred (see the model's `TorchKeys`) have the
            paper's value.
        use: "ema" or "raw" if there are averaged weights, see `state_dict`.
        key_prefix: the prefix of the model's keys, if it cannot be found.
        ignore: patterns with `*` of keys to leave out.

    Returns:
        The model, and `{collection: tree of arrays}` for its `apply`.

    Raises:
        ValueError: if the model is not recognised, keys are unknown or missing (the
            message lists both), shapes differ, or values are not finite.
    """
    tensors = state_dict(tensors, use=use)
    tensors = _without(tensors, ignore)
    tensors = prefixes.strip(tensors, _patterns(spec), use=use, prefix=key_prefix)
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
    filled, used, missing, differing, rounded = {}, {}, [], [], []
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
        elif _is_float(target) and not _is_float(source):
            differing.append(f"{key} has {source.dtype} values, not floats")
        else:
            filled[path] = jnp.asarray(array, target.dtype)
            if source.dtype.itemsize > target.dtype.itemsize and not np.array_equal(
                filled[path], array, equal_nan=True
            ):
                rounded.append(key)
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
            + (" Keys can be left out with --ignore PATTERN." if unknown else "")
        )
    _check_finite({key: tensors[key] for key in used.values()})
    if rounded:
        note(
            f"{len(rounded)} tensors are rounded to float32: {listed(rounded, limit=3)}"
        )
    return traverse_util.unflatten_dict(filled, sep="/")


def _without(tensors: Mapping[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """Returns the tensors whose keys match none of the patterns.

    Raises:
        ValueError: if a pattern matches no key, or all.
    """
    for pattern in patterns:
        kept = {k: v for k, v in tensors.items() if not fnmatch.fnmatchcase(k, pattern)}
        if len(kept) in (0, len(tensors)):
            raise ValueError(
                f"The pattern {pattern!r} to ignore matches "
                f"{'no' if kept else 'every'} key; the keys are "
                f"{listed(tensors, limit=5)}."
            )
        tensors = kept
    return dict(tensors)


def _is_float(array) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def _check_finite(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError naming the tensors with values that are not finite."""
    found = [
        f"{key} ({np.count_nonzero(~np.isfinite(value))} of {np.size(value)} values)"
        for key, value in tensors.items()
        if not np.isfinite(value).all()
    ]
    if found:
        raise ValueError(
            f"Tensors with values that are not finite: {listed(found, limit=5)}. The "
            "training diverged, or the file is damaged; use an earlier checkpoint."
        )


def _patterns(spec: registry.Spec | None) -> dict[str, Mapping[str, str]]:
    """Returns the key patterns of all models, or of the one that a spec names."""
    name = spec if isinstance(spec, str) else (spec or {}).get("name")
    cards = {
        each: base.card(each)
        for each in registry.list_models()
        if name is None or each == name
    }
    return {each: card.torch.patterns for each, card in cards.items() if card.torch}


def _find_model(tensors):
    """Returns the registered model that knows most of the keys."""
    patterns = _patterns(None)
    known = {name: names.count_known(tensors, keys) for name, keys in patterns.items()}
    # A wrapper knows all the keys of its backbone, so ties go to fewer patterns.
    best = max(known, key=lambda name: (known[name], -len(patterns[name])))
    if known[best] <= len(tensors) / 2:
        raise ValueError(
            f"No model recognised from the keys {listed(tensors, limit=5)}. Models: "
            f"{', '.join(known)}."
        )
    return best
