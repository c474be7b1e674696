"""Finds the prefix that frameworks add to the keys of a model.

`module.`, `model.`, `net_g.` and any other, repeated ones too: not from a list, but as
the prefix under which most keys are those of a known model.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llie_jax import messages
from llie_jax.convert import names
from llie_jax.convert.checkpoint import prefer

_SAMPLE = 40  # keys that a prefix is judged by
_PARTS = 5  # of the longest prefix


def strip(
    tensors: Mapping[str, Any],
    patterns: Mapping[str, Mapping[str, str]],
    *,
    use: str | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """Returns the tensors of the model without their prefix; a `Note` names the others.

    Args:
        tensors: arrays by key.
        patterns: model -> its patterns, see `llie_jax.convert.names`.
        use: "raw" or "ema" if two prefixes fit, one of them of averaged weights; None
            takes the averaged ones and says so.
        prefix: the prefix; None finds it.

    Raises:
        ValueError: if no key has the given prefix.
    """
    if prefix is None:
        prefix = _find(list(tensors), patterns, use)
    found = {
        key[len(prefix) :]: value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    if not found:
        known = sorted(_candidates(tensors))[:5]
        raise ValueError(
            f"No key starts with {prefix!r}. Prefixes: {messages.listed(known)}; keys: "
            f"{messages.listed(tensors, limit=3)}."
        )
    others = [key for key in tensors if not key.startswith(prefix)]
    if others:
        messages.note(
            f"keys outside the prefix {prefix!r} are left out: "
            f"{messages.listed(others, limit=3)} (--key-prefix sets another)"
        )
    return found


def _find(
    keys: list[str], patterns: Mapping[str, Mapping[str, str]], use: str | None
) -> str:
    """Returns the prefix under which most keys are known, "" if there is none."""
    scores = {"": _known(keys, patterns)}
    if scores[""] > len(keys) / 2:
        return ""
    for prefix in sorted(_candidates(keys), key=len):
        if any(prefix.startswith(shorter) for shorter in scores if shorter):
            continue  # one of its parts
        bare = [key[len(prefix) :] for key in keys if key.startswith(prefix)]
        known = _known(bare, patterns)
        if known > len(bare) / 2:
            scores[prefix] = known
    best = [
        prefix for prefix in scores if scores[prefix] >= 0.98 * max(scores.values())
    ]
    best = prefer(best, use, after="*")
    return min(best, key=lambda prefix: (-scores[prefix], len(prefix)))


def _candidates(keys: Iterable[str]) -> set[str]:
    """Returns the prefixes of keys that end in a dot."""
    found = set()
    for key in keys:
        parts = key.split(".")[:-1]
        found |= {
            ".".join(parts[:n]) + "." for n in range(1, min(len(parts), _PARTS) + 1)
        }
    # A number counts layers, of which none is a model.
    return {prefix for prefix in found if not prefix[:-1].rpartition(".")[2].isdigit()}


def _known(keys: list[str], patterns: Mapping[str, Mapping[str, str]]) -> float:
    """Returns about how many keys the model knows that knows most, from a sample."""
    sample = keys[:: max(1, len(keys) // _SAMPLE)]
    most = max(
        (names.count_known(sample, each) for each in patterns.values()), default=0
    )
    return most / len(sample) * len(keys) if sample else 0.0
