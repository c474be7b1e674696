"""Which results belong together: models, their seeds, data sets and protocols."""

import dataclasses
import functools
import itertools
import pathlib
import statistics
from collections.abc import Sequence

from llie_jax.evaluation.comparison.results import Column, Result, Setting


@dataclasses.dataclass(eq=False)
class Row:
    """A model: results of the same weights, or of runs that differ in their seed.

    Attributes:
        label: its name in tables, unique.
        results: its results, on any data set.
    """

    label: str
    results: list[Result]

    @property
    def spec(self):
        """The model's spec; None for saved images."""
        return self.results[0].spec


@dataclasses.dataclass(eq=False)
class DataSet:
    """The same images, scored by some of the models.

    Attributes:
        label: its name in tables, unique.
        name: in the catalogue; "" if unknown.
        results: all results on it.
    """

    label: str
    name: str
    results: list[Result]

    @functools.cached_property
    def images(self) -> list[str]:
        """The names of all its images."""
        return list(dict.fromkeys(n for r in self.results for n in r.images))


@dataclasses.dataclass(frozen=True)
class Score:
    """A number of a table.

    Attributes:
        values: the mean over images of each run.
        images: how many images they were computed from.
        missing: how many images of the data set others have scored and this has not.
        marks: what makes it unlike others.
        fair: whether it may be compared with others of its column: the model did not
            see the references, was not chosen by the images, and none is missing.
    """

    values: tuple[float, ...]
    images: int
    missing: int
    marks: tuple[str, ...]
    fair: bool

    @property
    def mean(self) -> float:
        """The mean over runs."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over runs; None for one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


class Comparison:
    """Results arranged by model, data set and protocol.

    Args:
        results: from `results.read`.

    Attributes:
        rows: the models, in the order in which they were given.
        data_sets: the data sets, likewise.
        settings: the protocols, likewise.
    """

    def __init__(self, results: Sequence[Result]):
        self.rows = _rows(results)
        self.data_sets = _data_sets(results)
        self.settings = list(dict.fromkeys(result.setting for result in results))
        for row, data, setting in itertools.product(
            self.rows, self.data_sets, self.settings
        ):
            _check_runs(self.results(row, data, setting))

    def results(self, row: Row, data: DataSet, setting: Setting) -> list[Result]:
        """Returns the runs of a model on a data set under a protocol."""
        return [r for r in row.results if r in data.results and r.setting == setting]

    def rows_on(self, data: DataSet, setting: Setting) -> list[Row]:
        """Returns the models with scores on a data set under a protocol."""
        return [row for row in self.rows if self.results(row, data, setting)]

    def columns(self, data: DataSet, setting: Setting) -> list[Column]:
        """Returns the columns that any model has there."""
        return list(
            dict.fromkeys(
                column
                for result in data.results
                if result.setting == setting
                for column in result.columns.values()
            )
        )

    def score(
        self, row: Row, data: DataSet, setting: Setting, column: Column
    ) -> Score | None:
        """Returns a number of the table; None if the model has none.

        Runs are averaged over the images that all of them have scored.
        """
        runs = [
            result
            for result in self.results(row, data, setting)
            if result.columns.get(column.name) == column
        ]
        if not runs:
            return None
        marks = dict.fromkeys(mark for run in runs for mark in run.marks)
        if column.uses_reference:
            marks |= {"uses the reference (GT mean)": None}
        if len(runs) > 1:
            known = {run.seed for run in runs if run.seed is not None}
            seeds = len(known) == len(runs)
            marks |= {f"{len(runs)} {'seeds' if seeds else 'runs'}": None}
        shared = common_images(runs)
        if column.name in next(iter(runs[0].images.values())):
            values = [
                statistics.fmean(run.images[name][column.name] for name in shared)
                for run in runs
                if shared
            ]
        else:
            values = [run.means[column.name] for run in runs]
        if not values:
            return None
        if missing := len(data.images) - len(shared):
            marks |= {f"{len(shared)} of {len(data.images)} images": None}
        return Score(
            values=tuple(values),
            images=len(shared),
            missing=missing,
            marks=tuple(marks),
            fair=not missing and not any(run.flaws for run in runs),
        )

    def per_image(
        self, row: Row, data: DataSet, setting: Setting, column: Column
    ) -> dict[str, float]:
        """Returns a model's score of each image, averaged over its runs."""
        runs = [
            result
            for result in self.results(row, data, setting)
            if result.columns.get(column.name) == column
            and column.name in next(iter(result.images.values()))
        ]
        return {
            name: statistics.fmean(run.images[name][column.name] for run in runs)
            for name in common_images(runs)
        }


def common_images(results: Sequence[Result]) -> list[str]:
    """Returns the names of the images that all results have scored."""
    if not results:
        return []
    first, *others = results
    return [n for n in first.images if all(n in other.images for other in others)]


def _check_runs(runs: Sequence[Result]) -> None:
    """Raises ValueError if two runs of a cell are of the same weights, or of one run.

    Runs of one recipe and one seed are one run, unless the user labelled them.
    """
    seen: dict[str, Result] = {}
    seeds: dict[int, Result] = {}
    for run in runs:
        other = seen.setdefault(run.weights_id, run)
        if other is not run:
            raise ValueError(
                f"{other.path} and {run.path} score the same weights on the same data "
                f"under the protocol {run.setting.name}; give one of them, or a LABEL= "
                "for each."
            )
        if run.label or run.seed is None:
            continue
        other = seeds.setdefault(run.seed, run)
        if other is not run:
            raise ValueError(
                f"{other.path} and {run.path} score different weights of one recipe "
                f"and one seed ({run.seed}), such as two checkpoints of a run, which "
                "are no two seeds; give one of them, or a LABEL= for each."
            )


def _rows(results: Sequence[Result]) -> list[Row]:
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        who = result.label or result.weights.get("recipe_sha256") or result.weights_id
        groups.setdefault((who, *result.changes), []).append(result)
    rows = [Row(_row_label(group), group) for group in groups.values()]
    _make_unique(rows)
    return rows


def _row_label(results: Sequence[Result]) -> str:
    """Returns the given label, the name of the weights, or what their names share."""
    if results[0].label:
        return results[0].label
    names = list(dict.fromkeys(result.name for result in results))
    if len(names) == 1:
        return names[0]
    letters = itertools.takewhile(lambda c: len({*c}) == 1, zip(*names, strict=False))
    shared = "".join(first for first, *_ in letters).rstrip("_-. 0123456789")
    return shared.removesuffix("seed").rstrip("_-. ") or (
        str((results[0].spec or {}).get("name", "")) or names[0]
    )


def _make_unique(rows: Sequence[Row]) -> None:
    """Adds options, then the folder, then a number to labels that several rows have."""

    def options(row: Row) -> str:
        return ", ".join(row.results[0].changes)

    def folder(row: Row) -> str:
        result = row.results[0]
        given = result.weights.get("weights") or result.data.get("pred") or result.path
        return pathlib.Path(str(given)).parent.name

    def number(row: Row) -> str:
        return str(1 + rows.index(row))

    for extra in (options, folder, number):
        labels = [row.label for row in rows]
        for row, label in zip(rows, labels, strict=True):
            if labels.count(label) > 1 and (more := extra(row)):
                row.label = f"{label} ({more})"


def _data_sets(results: Sequence[Result]) -> list[DataSet]:
    """Returns the data sets: named ones first claim the results of saved images."""
    found: list[DataSet] = []
    named = [result for result in results if result.data.get("name")]
    for result in [*named, *(each for each in results if each not in named)]:
        for data in found:
            if all(_same_data(result, other) for other in data.results):
                data.results.append(result)
                break
        else:
            found.append(
                DataSet(_data_label(result), _catalogue_name(result), [result])
            )
    # Back to the order in which they were given.
    found.sort(key=lambda data: min(map(list(results).index, data.results)))
    labels = [data.label for data in found]
    for index, data in enumerate(found):
        if labels.count(data.label) > 1:
            data.label += f" ({labels[: index + 1].count(labels[index])})"
    return found


def _same_data(one: Result, other: Result) -> bool:
    """Returns whether two results score images of one data set.

    The references of images with the same name are equal where their hashes are known.
    Without hashes, named sets are trusted, and other images need the same names.
    """
    shared = one.references.keys() & other.references.keys()
    if any(one.references[name] != other.references[name] for name in shared):
        return False
    keys = [(r.data.get("name"), r.data.get("split")) for r in (one, other)]
    if _catalogue_name(one) and _catalogue_name(other):
        return keys[0] == keys[1]
    if shared:
        return True
    same_names = one.images.keys() == other.images.keys()
    folders = [str(r.data.get("gt") or r.data.get("root")) for r in (one, other)]
    return same_names and keys[0] == keys[1] and folders[0] == folders[1]


_OWN = ("paired_folder", "image_folder")
"""Names of data that are a user's own folder, which tell nothing."""


def _catalogue_name(result: Result) -> str:
    name = str(result.data.get("name") or "")
    return "" if name in _OWN else name


def _data_label(result: Result) -> str:
    data = result.data
    if name := _catalogue_name(result):
        return f"{name} {data.get('split') or ''}".strip()
    folder = pathlib.Path(str(data.get("root") or data.get("gt") or "images"))
    return "/".join(folder.parts[-2:]).lstrip("/") or "images"
