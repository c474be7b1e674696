"""Checks that a release file's spec asks for no more than its own tensors.

A file from a stranger may ask for a width of 10^9 or a million blocks. Tracing such a
model takes hours or all memory, so the spec is refused before the model is built.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_HEADER = 16 * 2**20
"""Bytes of the largest header that is read; the largest published one has 0.2 MB."""

_MAX_TEXT = 100_000  # characters of a spec
_MAX_DEPTH = 16  # of nested parts and lists
_FREE = 4096  # numbers that need no tensor of that size, such as a number of nodes
_FEW, _MANY = 64, 1000  # blocks: they may share tensors; no network has more

_REPEATS = re.compile(r"stages|groups|rounds|iterations")
_BLOCKS = re.compile(r"blocks|layers|kernels")
_TIMES = re.compile(r"steps")  # numbers of training steps shape nothing


def parse(text: str, shapes: Sequence[tuple[int, ...]]) -> Mapping[str, Any]:
    """Returns the spec in a release file's metadata.

    Args:
        text: the spec as JSON.
        shapes: the shapes of the file's tensors.

    Raises:
        ValueError: if it is not a JSON object, is nested too deeply, or asks for more
            than the tensors.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError(f"its spec has {len(text)} characters, at most {_MAX_TEXT}")
    if _depth(text) > _MAX_DEPTH:
        raise ValueError(f"its spec is nested deeper than {_MAX_DEPTH} levels")
    spec = json.loads(text)
    if not isinstance(spec, Mapping):
        raise ValueError(f"its spec is not a JSON object: {text[:40]}")
    longest = max((side for shape in shapes for side in shape), default=0)
    _check_sizes(spec, max(longest, _FREE))
    repeats, blocks = _work(spec)
    allowed = min(max(len(shapes), _FEW), _MANY)
    if repeats * max(blocks, 1) > allowed:
        raise ValueError(
            f"its spec asks for {repeats * max(blocks, 1):,} blocks; its "
            f"{len(shapes)} tensors allow {allowed}"
        )
    return spec


def _depth(text: str) -> int:
    """Returns how deep brackets are nested, those in strings included."""
    deepest = depth = 0
    for c in re.findall(r"[\[\]{}]", text):
        depth += 1 if c in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _numbers(value: Any) -> list[float]:
    """Returns the numbers of a field: one, those of a list, or none."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def _check_sizes(spec: Mapping[str, Any], largest: int) -> None:
    """Raises ValueError if a number is larger than anything in the file."""
    for key, value in spec.items():
        if isinstance(value, Mapping):
            _check_sizes(value, largest)
        for number in _numbers(value):
            shapes_nothing = _TIMES.search(key) and abs(number) < 2**31
            # NaN is below nothing.
            if not (abs(number) <= largest or shapes_nothing):
                raise ValueError(
                    f"its spec asks for {str(key)[:40]}={str(number)[:20]}, but no "
                    "tensor has such a size"
                )


def _work(spec: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how often a model repeats its blocks, and how many there are."""
    repeats, blocks = 1, 0
    for key, value in spec.items():
        if isinstance(value, Mapping):
            inner_repeats, inner_blocks = _work(value)
            repeats, blocks = repeats * inner_repeats, blocks + inner_blocks
        count = sum(max(int(number), 0) for number in _numbers(value))
        if _REPEATS.search(key):
            repeats *= max(count, 1)
        elif _BLOCKS.search(key):
            blocks += count
    return repeats, blocks
