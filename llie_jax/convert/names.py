"""Maps PyTorch state-dict keys to Flax variable paths.

A model's card has `TorchKeys`, patterns from one to the other. A pattern names a layer
or a single parameter; a field in braces matches a number:

    {"encoders.{i}.modules_list.{j}.conv1": "encoders_{i}/block_{j}/spatial/expand"}

Patterns of layers omit the last part of the key: `weight` is the kernel, the scale or
the slope, `bias` the bias, `running_mean` and `running_var` the statistics of a batch
norm. Where PyTorch lists a shared tensor under several keys, the first pattern names
the one that is read, and the others are its aliases.
"""

import functools
import re
from collections.abc import Iterable, Mapping

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_key(path: str, patterns: Mapping[str, str]) -> str | None:
    """Returns the state-dict key of a variable, None if no pattern matches it.

    Args:
        path: path inside its collection, such as "intro/kernel".
        patterns: a model's `TorchKeys.patterns`.
    """
    layer, _, leaf = path.rpartition("/")
    for torch_pattern, pattern in patterns.items():
        if _fields(torch_pattern) - _fields(pattern):
            continue  # an alias: many keys of one variable
        if found := _regex(pattern).fullmatch(path):
            return torch_pattern.format(**found.groupdict())
        if leaf in _LEAVES and (found := _regex(pattern).fullmatch(layer)):
            return f"{torch_pattern.format(**found.groupdict())}.{_LEAVES[leaf]}"
    return None


def variable_paths(key: str, patterns: Mapping[str, str]) -> set[str]:
    """Returns the variables that a state-dict key may name, inside their collection."""
    layer, _, leaf = key.rpartition(".")
    leaves = [ours for ours, torch in _LEAVES.items() if torch == leaf]
    paths = set()
    for torch_pattern, pattern in patterns.items():
        if found := _regex(torch_pattern).fullmatch(key):
            paths.add(pattern.format(**found.groupdict()))
        if found := _regex(torch_pattern).fullmatch(layer):
            path = pattern.format(**found.groupdict())
            paths |= {f"{path}/{ours}" for ours in leaves}
    return paths


def count_known(keys: Iterable[str], patterns: Mapping[str, str]) -> int:
    """Returns how many of the state-dict keys match a pattern."""
    known = _any(tuple(patterns))
    return sum(
        bool(known.fullmatch(key) or known.fullmatch(key.rpartition(".")[0]))
        for key in keys
    )


@functools.cache
def _any(patterns: tuple[str, ...]) -> re.Pattern:
    """Compiles patterns to one that matches what any of them does."""
    return re.compile("|".join(_expression(each, named=False) for each in patterns))


@functools.cache
def _fields(pattern: str) -> frozenset[str]:
    return frozenset(_regex(pattern).groupindex)


@functools.cache
def _regex(pattern: str) -> re.Pattern:
    """Compiles a pattern: `{i}` matches a number, everything else itself."""
    return re.compile(_expression(pattern, named=True))


def _expression(pattern: str, *, named: bool) -> str:
    """Returns a regular expression, with a group for each field or none."""
    pieces = re.split(r"\{(\w+)\}", pattern)
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = (rf"(?P<{name}>\d+)" if named else r"\d+" for name in pieces[1::2])
    return "".join(pieces)
