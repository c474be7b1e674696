"""Holds out records for validation."""

import collections
import hashlib
from typing import Any

from llie_jax.data import sources


def split_by_reference(
    source: sources.Source,
    *,
    count: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> tuple[sources.Source, sources.Source]:
    """Holds out a validation part that shares no reference and no scene with the rest.

    Several low-light images may share a reference (LOL-v1: 500 pairs, 414 distinct
    references), so a split by file name would leak training targets into validation.
    Records with equal decoded targets or of one scene therefore stay together; without
    targets, records of one scene do.

    Args:
        source: the records to divide; their targets, if any, are read once.
        count: number of validation records; or
        fraction: their share, between 0 and 1.
        seed: of the choice, which does not depend on the order of the records.

    Returns:
        (training, validation). Validation has at most the requested number of records,
        or one whole group if every group is larger.

    Raises:
        ValueError: if not exactly one of `count` and `fraction` is given, or the
            records form a single group.
    """
    if (count is None) == (fraction is None):
        raise ValueError("Give count or fraction of the validation part, not both.")
    if count is None:
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction} is not between 0 and 1.")
        count = max(1, round(fraction * len(source)))
    if not 0 < count < len(source):
        raise ValueError(
            f"Cannot hold out {count} validation images: {source.name} {source.split} "
            f"has {len(source)}. Hold out between 1 and {len(source) - 1}."
        )

    groups = reference_groups(source)
    if len(groups) == 1:
        raise ValueError(
            f"All {len(source)} images of {source.name} {source.split} show one scene "
            "or share one reference; any validation part would leak into training."
        )

    def rank(group: list[int]) -> bytes:
        key = f"{seed}/{source.names[group[0]]}"
        return hashlib.sha256(key.encode()).digest()

    held_out: list[int] = []
    for group in sorted(groups, key=rank):
        if len(held_out) + len(group) <= count:
            held_out += group
    held_out = held_out or min(groups, key=lambda group: (len(group), rank(group)))
    rest = sorted(set(range(len(source))) - set(held_out))
    return (
        sources.SubsetSource(source, rest, split=f"{source.split}/train"),
        sources.SubsetSource(
            source, sorted(held_out), split=f"{source.split}/validation"
        ),
    )


def reference_groups(source: sources.Source) -> list[list[int]]:
    """Returns record indices, grouped by scene and by equal decoded target, if any."""
    # Records of SID, SMID and SICE share the files of their references.
    files: dict[Any, int] = {}
    if "target" in source.keys:
        for index in range(len(source)):
            files.setdefault(source.identity(index, "target"), index)

    def digest(index: int) -> bytes:
        target = source.image(index, "target")
        content = repr(target.shape).encode() + target.tobytes()
        return hashlib.sha256(content).digest()

    digests = dict(
        zip(files, sources.parallel_map(digest, files.values()), strict=True)
    )

    def keys(index: int) -> list[tuple[str, Any]]:
        found = [("scene", source.scenes[index])]
        if "target" in source.keys:
            content = digests[source.identity(index, "target")]
            found.append(("reference", content))
        return found

    parent = list(range(len(source)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    first: dict[Any, int] = {}
    for index in range(len(source)):
        for key in keys(index):
            parent[root(index)] = root(first.setdefault(key, index))
    groups = collections.defaultdict(list)
    for index in range(len(source)):
        groups[root(index)].append(index)
    return list(groups.values())
