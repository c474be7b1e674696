"""Checks that a data set is complete and undamaged; reads every file once."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping

import numpy as np

from llie_jax import messages
from llie_jax.data import catalogue, locating, opening, scanning, sources
from llie_jax.data.dataset import WHOLE, Dataset, unit


@dataclasses.dataclass(frozen=True)
class SplitCheck:
    """The result of checking one split.

    Attributes:
        split: its name.
        count: number of intact records.
        expected: published number of records, or None.
        keys: the images of a record.
        fingerprint: of the names, see `Source.fingerprint`; "" without records.
        sizes: image size "height x width" -> number of records.
        notes: unusual findings that are no faults.
        problems: faults; each names files.
        fixes: commands that repair the faults, or add what is missing.
    """

    split: str
    count: int
    expected: int | None
    keys: tuple[str, ...]
    fingerprint: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What `count` counts: "pairs" or "images"."""
        return unit(self.keys)

    @property
    def state(self) -> str:
        """One phrase: complete, subset, absent, or faulty."""
        if self.problems:
            return "faulty"
        if not self.count:
            return "absent"
        if self.expected is None:
            return "no published count"
        if self.count == self.expected:
            return "complete"
        kind = "subset" if self.count < self.expected else "more than published"
        return f"{kind}: {self.count} of {self.expected}"

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing or wrong."""
        return self.state in ("complete", "no published count")


def check(
    name_or_folder: str | os.PathLike, *, root: str | os.PathLike | None = None
) -> list[SplitCheck]:
    """Checks all splits: counts, partners, sizes, damaged files, duplicates.

    Args:
        name_or_folder: as in `open_source`.
        root: as in `open_source`.

    Returns:
        One entry per split; published splits that are absent have count 0.

    Raises:
        FileNotFoundError, ValueError: as `open_source`, if there is nothing to check.
    """
    dataset, folder = opening.resolve(name_or_folder, root=root)
    found = locating.locate(dataset, folder) if dataset else {}
    checks, seen = [], {}
    if found:
        for split, parts in found.items():
            checks.append(_check_split(dataset, split, parts, seen))
        if directory := locating.prepared(folder):
            checks = [_with_note(each, _use_copy(directory)) for each in checks]
    else:
        from llie_jax.data import prepared  # imported late, as in `open_source`

        directory = opening.find_prepared(dataset, folder)
        for split in prepared.splits(directory):
            source = prepared.open_prepared(directory, split=split)
            dataset = catalogue.DATASETS.get(source.name)
            checks.append(_check_records(source, dataset, seen, scanning.Scan.empty()))
    return [*map(_with_fix(dataset, folder), checks), *_absent(dataset, folder, checks)]


def _use_copy(directory: pathlib.Path) -> str:
    return (
        f"training reads the prepared copy in {directory}; after a change, remove it "
        "and prepare again"
    )


def _with_note(result: SplitCheck, note: str) -> SplitCheck:
    return dataclasses.replace(result, notes=(*result.notes, note))


def _with_fix(dataset: Dataset | None, root: pathlib.Path):
    """Returns a function that adds how to get what a split lacks."""

    def add(result: SplitCheck) -> SplitCheck:
        if dataset is None or result.count >= (result.expected or 0):
            return result
        return dataclasses.replace(
            result, fixes=(*result.fixes, _how_to_get(dataset, root))
        )

    return add


def _absent(
    dataset: Dataset | None, root: pathlib.Path, checks: list[SplitCheck]
) -> list[SplitCheck]:
    """Returns entries for the published splits that are not there."""
    present = [each.split for each in checks]
    return [
        SplitCheck(
            split,
            count=0,
            expected=expected,
            keys=dataset.keys,
            fixes=(_how_to_get(dataset, root),),
        )
        for split, expected in (dataset.counts if dataset else {}).items()
        if split not in present
    ]


def _how_to_get(dataset: Dataset, root: pathlib.Path) -> str:
    """Returns the command that adds missing files, or an instruction."""
    to = shlex.quote(str(root.parent))
    return dataset.unpack.format(to=to) or f"{dataset.get}: {dataset.page}"


def _check_split(
    dataset: Dataset, split: str, parts: locating.Parts, seen: dict
) -> SplitCheck:
    """Checks one split of folders; `seen` collects the contents of all splits."""
    scan = scanning.scan(parts, dataset)
    source = sources.folder_source(scan, dataset, split)
    # Files are checked at their own size.
    source = dataclasses.replace(source, size=None)
    return _check_records(source, dataset, seen, scan, parts[0].root)


def _check_records(
    source: sources.Source,
    dataset: Dataset | None,
    seen: dict[tuple[str, bytes], str],
    scan: scanning.Scan,
    root: pathlib.Path | None = None,
) -> SplitCheck:
    """Reads every record of a source.

    Args:
        source: the records.
        dataset: their data set, if it is known.
        seen: (key, digest of an image) -> where it is, of earlier splits; this split is
            added.
        scan: how the files were found.
        root: the folder whose list can exclude records; None for a prepared set.
    """

    def read(index: int) -> tuple[str, dict[str, bytes], str]:
        try:
            record = source[index]
        except (ValueError, OSError) as error:
            return "", {}, str(error)
        size = sources.describe_size(record["image"])
        return size, {key: _digest(record[key]) for key in source.keys}, ""

    results = sources.parallel_map(read, range(len(source)))
    sizes = collections.Counter(size for size, _, _ in results if size)
    faults = [fault for _, _, fault in results if fault]
    unwanted = [*scan.alone]
    unwanted += [
        name for name, (_, _, fault) in zip(source.names, results, strict=True) if fault
    ]
    problems = scan.problems()
    if not results and not problems:
        problems = ["there are no images"]

    here, copies = {}, collections.defaultdict(list)
    for name, (_, digests, _) in zip(source.names, results, strict=True):
        for key, digest in digests.items():
            here[key, digest] = _qualified(source.split, name)
            if (key, digest) in seen:
                copies[key].append((here[key, digest], seen[key, digest]))
    seen |= here
    unwanted = [_qualified(source.split, name) for name in unwanted]
    for key, pairs in copies.items():
        listed = messages.listed((f"{a} = {b}" for a, b in pairs), limit=5)
        what = {"image": "images", "target": "references"}.get(key, key)
        problems.append(f"{len(pairs)} {what} are in another split too: {listed}")
        # The test split stays as it is published.
        unwanted += [pair[source.split == "test"] for pair in pairs]

    return SplitCheck(
        split=source.split,
        count=sum(sizes.values()),
        expected=source.expected_counts.get(source.split),
        keys=source.keys,
        fingerprint=source.fingerprint() if len(source) else "",
        sizes=dict(sizes.most_common()),
        notes=(*_notes(source, dataset, results), *scan.notes()),
        problems=(*problems, *faults),
        fixes=(*_exclude(unwanted, root), *_remove(scan.doubles)),
    )


def _qualified(split: str, name: str) -> str:
    """Returns the name of a record as the list of excluded records has it."""
    return name if split == WHOLE else f"{split}/{name}"


def _digest(image: np.ndarray) -> bytes:
    """Returns a digest of the pixels, equal for equal images in any format."""
    head = f"{image.dtype} {image.shape}".encode()
    return hashlib.sha256(head + image.tobytes()).digest()


def _notes(
    source: sources.Source, dataset: Dataset | None, results: list[tuple]
) -> list[str]:
    """Returns what is unusual about the records, but no fault."""
    notes = []
    if dataset is None:
        return notes
    if dataset.image_size:
        published = "{} x {}".format(*dataset.image_size)
        odd = [
            f"{name} ({size})"
            for name, (size, _, _) in zip(source.names, results, strict=True)
            if size not in ("", published)
        ]
        if odd:
            notes.append(
                f"{len(odd)} {unit(source.keys)} do not have the published size "
                f"{published}: {messages.listed(odd, limit=5)}"
            )
    if apart := [scene for scene in source.scenes if scene in dataset.misaligned]:
        notes.append(
            f"{len(apart)} pairs of the scenes {messages.listed(sorted(set(apart)))} "
            "are misaligned, as the authors say; papers keep them, and their names in "
            f"{locating.EXCLUDE} leave them out"
        )
    if len(source) != source.expected_counts.get(source.split) and dataset.remarks:
        notes.append(dataset.remarks)
    return notes


def _exclude(names: Iterable[str], root: pathlib.Path | None) -> list[str]:
    """Returns the command that leaves records out."""
    names = sorted(set(names))
    if not names or root is None:
        return []
    file = shlex.quote(str(root / locating.EXCLUDE))
    return [f"printf '%s\\n' {shlex.join(names)} >> {file}"]


def _remove(doubles: list[str]) -> list[str]:
    """Returns the command that removes second files of one name."""
    return [f"rm {shlex.join(doubles)}"] if doubles else []
