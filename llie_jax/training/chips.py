"""Published figures of accelerators, and what they say about a step.

Sources: the system architecture pages of Cloud TPU (v4, v5e, v5p, v6e), November 2026;
NVIDIA's data sheets of A100, H100, H200 and L4 (dense, without sparsity). A100 is the
one with 40 GB, and H100, where the kind does not say PCIe, that for SXM.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one chip, for each device that JAX shows.

    Attributes:
        flops: floating-point operations per second in bfloat16, at most.
        memory: bytes per second between the chip and its memory, at most.
        links: bytes per second that it sends to other chips over all of its links, at
            most; None if that depends on the machine.
    """

    flops: float
    memory: float
    links: float | None = None


CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 819e9, 200e9),  # v5e
    "TPU v5e": Chip(197e12, 819e9, 200e9),
    "TPU v5": Chip(459e12, 2765e9, 600e9),  # v5p
    "TPU v5p": Chip(459e12, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 1638e9, 400e9),  # v6e
    "TPU v6e": Chip(918e12, 1638e9, 400e9),
    "NVIDIA A100": Chip(312e12, 1555e9),
    "NVIDIA H100 PCIe": Chip(756e12, 2000e9),
    "NVIDIA H100": Chip(989e12, 3350e9),
    "NVIDIA H200": Chip(989e12, 4800e9),
    "NVIDIA L4": Chip(121e12, 300e9),
}
"""Start of a device kind, in whole words, as JAX names it, to its figures."""

LINK_SHARE = 0.5
"""The share of `Chip.links` that `efficiency` counts on: the rings of a slice that is
smaller than a pod are open, so that data pass each link in both directions."""


def find(kind: str) -> Chip | None:
    """Returns the figures of a device kind; None if they are not listed."""
    # Whole words: "NVIDIA L40S" is no L4; "NVIDIA A100-SXM4-40GB" is an A100.
    names = [name for name in CHIPS if re.match(rf"{re.escape(name)}\b", kind)]
    return CHIPS[max(names, key=len)] if names else None


@dataclasses.dataclass(frozen=True)
class Projection:
    """Bounds for one step on a slice.

    Attributes:
        compute_seconds: the least time for arithmetic and memory traffic on one chip.
        reduce_seconds: time for the all-reduces.
        efficiency: speed of a chip in the slice over its speed alone, at least.
    """

    compute_seconds: float
    reduce_seconds: float
    efficiency: float


def project(
    chip: Chip, *, chips: int, flops: float, traffic: float, reduced: float
) -> Projection | None:
    """Projects the scaling efficiency of data parallelism; None without links.

    Assumptions, all to the disadvantage of the slice: computation runs at the chip's
    published peaks (slower computation hides communication better); no all-reduce runs
    beside computation; an all-reduce moves 2 (n - 1) / n of its bytes through every
    chip, at `LINK_SHARE` of the published rate. Two are to its advantage: all chips
    are equally fast, and the input keeps up.

    Args:
        chip: its figures.
        chips: their number n.
        flops: floating-point operations of a chip in one step.
        traffic: bytes between a chip and its memory in one step.
        reduced: bytes that are all-reduced in one step.
    """
    if chip.links is None:
        return None
    compute = max(flops / chip.flops, traffic / chip.memory)
    reduce = 2 * (chips - 1) / chips * reduced / (LINK_SHARE * chip.links)
    return Projection(compute, reduce, compute / (compute + reduce))
