"""Reads a compiled program: collectives, layout changes, padding, costs by module.

Only programs for TPUs have tiled layouts and estimated cycles; for other devices these
figures are empty. A program is read once, in the order in which it runs.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

LANES = 128
"""Elements that a vector register of a TPU holds side by side."""

_LINE = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<kind>[a-z][\w-]*)\((?P<rest>.*)"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_BODY = re.compile(r"body=%?([\w.-]+)")
_OPERAND = re.compile(r"%([\w.-]+)")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_NO_WORK = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in a program.

    Attributes:
        dtype: as HLO names it.
        shape: its sides.
        order: the sides from the fastest to the slowest; () if unknown.
        tile: the tile of the fastest sides, slowest first; () without tiles.
        layout: order and tiles as text, without the kind of memory.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    layout: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return self._bytes(self.shape)

    @property
    def padded_bytes(self) -> int:
        """Bytes with all tiles filled up."""
        sides = list(self.shape)
        for side, tile in zip(self.order, reversed(self.tile), strict=False):
            sides[side] = -(-sides[side] // tile) * tile
        return self._bytes(sides)

    def _bytes(self, sides: Iterable[int]) -> int:
        bits = re.search(r"\d+", self.dtype)  # pred has no bit count
        return math.ceil(math.prod(sides) * int(bits[0] if bits else 8) / 8)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a program.

    Attributes:
        name: its name.
        kind: the HLO opcode.
        type: the type of its result, as text.
        operand: the name of its first operand, "" if it has none.
        cycles: the compiler's estimate, 0 if it gives none.
        path: the JAX operation that it came from, "" if unknown.
        times: how often it runs in a step; 1 in a loop of unknown length.
    """

    name: str
    kind: str
    type: str
    operand: str
    cycles: int
    path: str
    times: int

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its result."""
        return [_array(*found) for found in _ARRAY.findall(self.type)]


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Arrays whose fastest side leaves lanes of a TPU empty.

    Attributes:
        used: the length of that side.
        of: that length, rounded up to whole registers.
        channels: whether the side is that of the channels.
        wasted: bytes of padding that these arrays write in a step.
    """

    used: int
    of: int
    channels: bool
    wasted: int


class Program:
    """A compiled program.

    Args:
        text: from `compiled.as_text()`.
    """

    def __init__(self, text: str):
        self._text = text

    @functools.cached_property
    def _computations(self) -> dict[str, list[str]]:
        found, lines, entry = {}, [], ""
        for line in self._text.splitlines():
            if start := _COMPUTATION.match(line):
                lines = found.setdefault(start[1], [])
                entry = start[1] if line.startswith("ENTRY") else entry
            else:
                lines.append(line)
        return {**found, "": found.get(entry, [])}

    @functools.cached_property
    def operations(self) -> list[Operation]:
        """The operations that run one after the other, with those of loops."""
        return list(self._operations("", 1))

    def _operations(self, computation: str, times: int) -> Iterator[Operation]:
        for line in self._computations.get(computation, ()):
            found = _LINE.match(line)
            if not found:
                continue
            rest = found["rest"]
            if found["kind"] == "while" and (body := _BODY.search(rest)):
                trips = _TRIPS.search(rest)
                yield from self._operations(
                    body[1], times * int(trips[1] if trips else 1)
                )
                continue
            operand, cycles = _OPERAND.match(rest), _CYCLES.search(rest)
            path = _OP_NAME.search(rest)
            yield Operation(
                name=found["name"],
                kind=found["kind"],
                type=found["type"],
                operand=operand[1] if operand else "",
                cycles=int(cycles[1]) if cycles else 0,
                path=path[1] if path else "",
                times=times,
            )

    @property
    def cycles(self) -> int:
        """The compiler's estimate for the whole program."""
        return sum(each.cycles * each.times for each in self.operations)

    def overlap(self) -> dict[str, int]:
        """Returns how the schedule places the all-reduces.

        Returns:
            `alone` and `beside`, the bytes of all-reduces that run alone or beside
            other operations, and `cycles`, those of the operations beside them.
        """
        found = {"alone": 0, "beside": 0, "cycles": 0}
        running = set()
        for each in self.operations:
            size = sum(array.bytes for array in each.arrays) * each.times
            if each.kind == "all-reduce":
                found["alone"] += size
            elif each.kind == "all-reduce-start":
                found["beside"] += size
                running.add(each.name)
            elif each.kind == "all-reduce-done":
                running.discard(each.operand)
            elif running:
                found["cycles"] += each.cycles * each.times
        return found

    def layout_changes(self) -> dict[str, int]:
        """Returns `count`, `bytes` and `cycles` of copies from one layout to another.

        Those that the compiler has fused into other operations do not count.
        """
        found = {"count": 0, "bytes": 0, "cycles": 0}
        types = {each.name: each for each in self.operations}
        for each in self.operations:
            source = types.get(each.operand)
            if each.kind not in ("copy", "transpose") or source is None:
                continue
            before, after = source.arrays, each.arrays
            if [array.layout for array in before] != [array.layout for array in after]:
                found["count"] += each.times
                found["bytes"] += each.times * sum(array.bytes for array in after)
                found["cycles"] += each.times * each.cycles
        return found

    def padding(self) -> tuple[float, list[Lanes]]:
        """Returns the share of padding in what is written, and the worst lanes.

        Values that never leave a fusion do not count.
        """
        values = padded = 0
        wasted = collections.Counter()
        for each in self.operations:
            if each.kind in _NO_WORK or each.kind.endswith(("-start", "-done")):
                continue
            for array in each.arrays:
                values += each.times * array.bytes
                padded += each.times * array.padded_bytes
                if array.order and array.tile and array.tile[-1] == LANES:
                    side = array.order[0]
                    used = array.shape[side]
                    of = -(-used // LANES) * LANES
                    channels = len(array.shape) == 4 and side == 3
                    empty = array.padded_bytes * (of - used) // of
                    wasted[used, of, channels] += each.times * empty
        worst = [Lanes(*key, size) for key, size in wasted.most_common() if size]
        return (1 - values / padded if padded else 0.0), worst

    def costs(self, modules: Sequence[str]) -> list[tuple[str, float]]:
        """Returns (module, share of the cycles) of all modules, the largest first.

        Blocks of one kind count together, with `*` for their numbers, and so do modules
        that the program does not tell apart, with `*` for the names that differ. A
        fusion counts for the module of its last operation. Everything outside of the
        modules is "".

        Args:
            modules: paths of modules, see `remat.module_paths`.
        """
        known, total = collections.defaultdict(list), collections.Counter()
        for each in modules:
            names = tuple(each.split("/"))
            known[names[-1]].append(names)
        for each in self.operations:
            if each.cycles:
                total[_module(each.path, known)] += each.cycles * each.times
        cycles = sum(total.values())
        return [(name, count / cycles) for name, count in total.most_common()]

    def collectives(self) -> dict[str, dict[str, int]]:
        """Returns kind -> {"count", "bytes"} of the collectives.

        The bytes are those of the results on one device. An asynchronous collective
        counts once, at its start.
        """
        found: dict[str, dict[str, int]] = {}
        for each in self.operations:
            kind = each.kind.removesuffix("-start")
            if kind not in _COLLECTIVES:
                continue
            shape = each.type
            if kind != each.kind and kind != "all-reduce":
                # Its type is (operands, results, ...), for all-reduce only results.
                shape = _elements(shape)[1]
            total = found.setdefault(kind, {"count": 0, "bytes": 0})
            total["count"] += each.times
            total["bytes"] += each.times * sum(
                _array(*array).bytes for array in _ARRAY.findall(shape)
            )
        return found


def fitting_width(width: int, lanes: Lanes) -> int:
    """Returns the next width at which such arrays fill their lanes.

    Args:
        width: the model's, to which the number of channels is proportional.
        lanes: from `Program.padding`.
    """
    found = width + 1
    while lanes.used * found % (width * LANES):
        found += 1
    return found


def _array(dtype: str, sides: str, order: str = "", layout: str = "") -> Array:
    tile = _TILE.search(layout)
    return Array(
        dtype=dtype,
        shape=_numbers(sides),
        order=_numbers(order),
        tile=_numbers(tile[1]) if tile else (),
        layout=f"{order}:{re.sub(r'S[(][0-9]+[)]', '', layout)}",
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _elements(shape: str) -> list[str]:
    """Splits the type of a tuple into the types of its elements."""
    elements, depth, start = [], 0, 1
    for place, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            elements.append(shape[start:place])
            start = place + 1
    return elements


@functools.cache
def _parts(path: str) -> tuple[str, ...]:
    """Returns the parts of a JAX operation's path that may be modules.

    The last part is the operation itself, such as "mul". A call of another method than
    `__call__` shows as "backbone.encode".
    """
    parts = (part.partition(".")[0] for part in path.split("/")[:-1])
    return tuple(part for part in parts if not re.search(r"[(\[]", part))


def _module(path: str, known: Mapping[str, Sequence[tuple[str, ...]]]) -> str:
    """Returns the innermost known module of a path, with `*` for what it leaves open.

    JAX's paths omit a module of which only the submodules are called. One such level at
    a time is filled in; with two in a row, the operation counts for what is around
    them.

    Args:
        path: of a JAX operation.
        known: last name of a module -> the paths that end with it.

    Returns:
        The path of the module, its numbers as `*`. If several modules fit, the names
        that differ are `*`.
    """
    found = {()}  # what fits so far, all of one length
    for part in _parts(path):
        below = known.get(part, ())
        for omitted in (0, 1):
            inside = {each for each in below if each[: -1 - omitted] in found}
            if inside:
                found = inside
                break
    numbered = [[re.sub(r"_\d+$", "_*", name) for name in each] for each in found]
    return "/".join(
        names[0] if len(set(names)) == 1 else "*"
        for names in zip(*numbered, strict=True)
    )
