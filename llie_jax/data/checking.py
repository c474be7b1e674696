"""Checks that a data set is complete and undamaged; reads every file once."""

import collections
import dataclasses
import os
from collections.abc import Mapping

from llie_jax.data import catalogue, opening, sources


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
    """

    split: str
    count: int
    expected: int | None
    keys: tuple[str, ...]
    fingerprint: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What `count` counts: "pairs" or "images"."""
        return catalogue.unit(self.keys)

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
    """Checks all splits of a data set: counts, partners, sizes, damaged files.

    Args:
        name_or_folder: as in `open_source`.
        root: as in `open_source`.

    Returns:
        One entry per split; published splits that are absent have count 0.

    Raises:
        FileNotFoundError, ValueError: as `open_source`, if there is nothing to check.
    """
    dataset, folder = opening.resolve(name_or_folder, root=root)
    found = catalogue.locate(dataset, folder) if dataset else {}
    checks = []
    if found:
        for split, folders in found.items():
            scan = sources.scan(folders, dataset)
            source = sources.folder_source(scan, dataset, split)
            check = _check_records(source, scan.problems())
            notes = (*check.notes, *scan.notes())
            checks.append(dataclasses.replace(check, notes=notes))
    else:
        from llie_jax.data import prepared  # imported late, as in `open_source`

        directory = opening.find_prepared(dataset, folder)
        for split in prepared.splits(directory):
            source = prepared.open_prepared(directory, split=split)
            checks.append(_check_records(source, []))
            dataset = catalogue.DATASETS.get(source.name)
    present = [each.split for each in checks]
    for split, expected in (dataset.counts if dataset else {}).items():
        if split not in present:
            checks.append(
                SplitCheck(split, count=0, expected=expected, keys=dataset.keys)
            )
    return checks


def _check_records(source: sources.Source, problems: list[str]) -> SplitCheck:
    """Reads every record of a source."""

    def read(index: int) -> tuple[str, str]:
        try:
            return sources.describe_size(source[index]["image"]), ""
        except (ValueError, OSError) as error:
            return "", str(error)

    results = sources.parallel_map(read, range(len(source)))
    sizes = collections.Counter(size for size, _ in results if size)
    faults = [fault for _, fault in results if fault]
    if not results and not problems:
        problems = ["there are no images"]

    notes = []
    dataset = catalogue.DATASETS.get(source.name)
    if dataset and dataset.image_size:
        published = "{} x {}".format(*dataset.image_size)
        if other := sum(sizes.values()) - sizes[published]:
            notes.append(
                f"{other} {catalogue.unit(source.keys)} do not have the published size "
                f"{published}"
            )
    return SplitCheck(
        split=source.split,
        count=sum(sizes.values()),
        expected=source.expected_counts.get(source.split),
        keys=source.keys,
        fingerprint=source.fingerprint() if len(source) else "",
        sizes=dict(sizes.most_common()),
        notes=tuple(notes),
        problems=(*problems, *faults),
    )
