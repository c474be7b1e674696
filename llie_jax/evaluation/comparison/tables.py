"""The tables of a comparison, for page, Markdown and LaTeX alike."""

import functools
import itertools
import json
from collections.abc import Sequence

from llie_jax import costs
from llie_jax.evaluation import scores as score_files
from llie_jax.evaluation.comparison import published, statistics
from llie_jax.evaluation.comparison.grouping import Comparison, DataSet, Row, Score
from llie_jax.evaluation.comparison.results import Column, Setting
from llie_jax.report.tables import Cell, Group, Number, Table, cell

SHOWN = ("ours", "all", "none")
"""Which published numbers: of the models compared, of all on their data, or none."""

COSTS_SIZE = (256, 256)
_MIB = 2**20


def score_tables(comparison: Comparison) -> list[Table]:
    """Returns a table per protocol: models x data sets x metrics."""
    return [_score_table(comparison, setting) for setting in comparison.settings]


def _score_table(comparison: Comparison, setting: Setting) -> Table:
    places = [
        (data, column)
        for data in comparison.data_sets
        for column in comparison.columns(data, setting)
    ]
    groups = [
        Group(data.label, tuple(column.heading for _, column in columns))
        for data, columns in _grouped(places)
    ]
    rows = [
        row for row in comparison.rows if any(r.setting == setting for r in row.results)
    ]
    scores = {
        (row, place): comparison.score(row, place[0], setting, place[1])
        for row in rows
        for place in places
    }
    best = {
        place: _best({row: scores[row, place] for row in rows}, place[1])
        for place in places
    }
    return Table(
        title=f"Scores, protocol {setting.name}",
        corner="model",
        groups=groups,
        rows=[
            (
                row.label,
                [
                    _score_cell(scores[row, place], place[1], best[place] is row)
                    for place in places
                ],
            )
            for row in rows
        ],
        note=_score_note(setting, [c for _, c in places], any(best.values())),
    )


def _grouped(places):
    for data, found in itertools.groupby(places, key=lambda place: place[0]):
        yield data, list(found)


def _score_note(setting: Setting, columns: Sequence[Column], contest: bool) -> str:
    parts = [f"{setting.conversion[:1].upper()}{setting.conversion[1:]}"]
    defined = [
        f"{score_files.title(c.name)} is {c.metric}"
        for c in columns
        if c.metric != c.name
    ]
    if defined:
        parts += [", ".join(dict.fromkeys(defined)), "means over images"]
    text = "; ".join(filter(None, parts)) + "."
    if contest:
        text += (
            " Bold: the best of a column, apart from numbers that do not compare: the "
            "model saw the references or the images in training, was selected on the "
            "test split, or was scored on crops, on fewer images or by self-ensemble."
        )
    return text


def _best(scores: dict[Row, Score | None], column: Column) -> Row | None:
    """Returns the model with the best comparable number; None without a contest."""
    fair = {row: score.mean for row, score in scores.items() if score and score.fair}
    if len(fair) < 2:
        return None
    return (max if column.higher_is_better else min)(fair, key=fair.get)


def _score_cell(score: Score | None, column: Column, best: bool = False) -> Cell:
    if score is None:
        return Cell()
    text = column.text(score.mean)
    if score.deviation is not None:
        text += f" ± {column.text(score.deviation)}"
    return Cell((Number(text, score.marks),), score.mean, best)


def published_tables(comparison: Comparison, shown: str = "ours") -> list[Table]:
    """Returns a table per data set: our numbers, and printed ones in their own columns.

    Args:
        comparison: what is compared.
        shown: one of `SHOWN`.
    """
    found = (
        _published_table(comparison, data, shown)
        for data in comparison.data_sets
        if shown != "none" and data.name
    )
    return [table for table in found if table]


def _published_table(comparison, data: DataSet, shown: str) -> Table | None:
    entries = [entry for entry in published.entries() if entry.data == data.name]
    here = [
        row
        for row in comparison.rows
        if any(row in comparison.rows_on(data, s) for s in comparison.settings)
    ]
    printed = {row: [e for e in entries if e.fits(row.spec)] for row in here}
    others: dict[str, list[published.Entry]] = {}
    taken = [entry for found in printed.values() for entry in found]
    for entry in entries if shown == "all" else ():
        if entry not in taken:
            others.setdefault(entry.model, []).append(entry)
    lines = [(row.label, row, printed[row]) for row in here]
    lines += [(name, None, found) for name, found in others.items()]
    used = [entry for _, _, found in lines for entry in found]
    if not used:
        return None
    groups, cells = [], {label: [] for label, _, _ in lines}
    for setting in comparison.settings:
        columns = comparison.columns(data, setting)
        if not columns:
            continue
        groups.append(Group(f"here: {setting.name}", tuple(c.heading for c in columns)))
        for label, row, _ in lines:
            cells[label] += [
                _score_cell(
                    row and comparison.score(row, data, setting, column), column, False
                )
                for column in columns
            ]
    for name in dict.fromkeys(entry.protocol for entry in used):
        columns = list(
            dict.fromkeys(c for e in used if e.protocol == name for c in e.values)
        )
        heads = (f"{c.upper()} (dB)" if c == "psnr" else c.upper() for c in columns)
        groups.append(Group(f"printed: {name}", tuple(heads)))
        for label, _, found in lines:
            same = [entry for entry in found if entry.protocol == name]
            cells[label] += [_printed_cell(same, column) for column in columns]
    return Table(
        title=f"Beside printed numbers, {data.label}",
        corner="model",
        groups=groups,
        rows=[(label, cells[label]) for label, _, _ in lines],
        note="Numbers of different groups are not comparable. Many authors chose their "
        "checkpoint on the test images without a word; marks tell where it is known.",
        terms=_printed_terms(used),
    )


def _printed_terms(entries: Sequence[published.Entry]) -> dict[str, str]:
    """Returns protocol -> what it is, and who printed the numbers."""
    terms = {}
    for name in dict.fromkeys(entry.protocol for entry in entries):
        sources = dict.fromkeys(e.source for e in entries if e.protocol == name)
        about = published.protocols()[name].description
        terms[name] = f"{about}. Printed by: {'; '.join(sources)}."
    return terms


def _printed_cell(entries: Sequence[published.Entry], column: str) -> Cell:
    found = [entry for entry in entries if column in entry.values]
    numbers = []
    for entry in found:
        variant = f" ({entry.variant})" if entry.variant else ""
        text = _digits(entry.values[column]) + variant
        numbers.append(Number(text, entry.marks))
    return Cell(tuple(numbers), found[0].values[column] if found else None)


def _digits(value: float) -> str:
    """Returns a printed number: at least two digits after the point, three below 1."""
    shown = f"{value:.4f}".rstrip("0")
    return max(shown, f"{value:.3f}" if value < 1 else f"{value:.2f}", key=len)


def pair_tables(comparison: Comparison) -> list[Table]:
    """Returns a table per data set and protocol: differences of each two models."""
    return [
        table
        for data in comparison.data_sets
        for setting in comparison.settings
        if (table := _pair_table(comparison, data, setting))
    ]


def _pair_table(comparison, data: DataSet, setting: Setting) -> Table | None:
    columns = comparison.columns(data, setting)
    values = {
        (row, column): comparison.per_image(row, data, setting, column)
        for row in comparison.rows_on(data, setting)
        for column in columns
    }
    # Some columns have no values for single images.
    columns = [c for c in columns if any(values[key] for key in values if key[1] == c)]
    lines, counts = [], []
    for first, second in itertools.combinations(comparison.rows_on(data, setting), 2):
        pairs = [_paired(values[first, c], values[second, c], c) for c in columns]
        if not any(pairs):
            continue
        counts += [pair.count + pair.left_out for pair in pairs if pair]
        cells = [
            each
            for pair, column in zip(pairs, columns, strict=True)
            for each in _pair_cells(pair, column, len(data.images))
        ]
        lines.append((f"{first.label} − {second.label}", cells))
    if not lines:
        return None
    return Table(
        title=f"Differences image by image, {data.label}, protocol {setting.name}",
        corner="difference",
        groups=[
            Group(
                column.heading,
                (
                    *("mean", f"{statistics.CONFIDENCE:.0%} interval"),
                    *("better : worse", "sign test p"),
                ),
            )
            for column in columns
        ],
        rows=lines,
        note=f"{statistics.caution(min(counts), max(counts))} Interval: bootstrap "
        "(BCa) over images. Better : worse: images on which the first model is better, "
        "and worse. No p is corrected for the number of comparisons.",
    )


def _paired(first, second, column: Column) -> statistics.Paired | None:
    """Returns the comparison of two models on the images that both have scored."""
    shared = [name for name in first if name in second]
    if not shared:
        return None
    return statistics.paired(
        [first[name] for name in shared],
        [second[name] for name in shared],
        higher_is_better=column.higher_is_better,
    )


def _pair_cells(
    pair: statistics.Paired | None, column: Column, images: int
) -> list[Cell]:
    if pair is None:
        return [Cell()] * 4
    digits = 2 if column.unit == "dB" else 4

    def number(value: float) -> str:
        return f"{value:+.{digits}f}".replace("-", "−")

    marks = []
    if pair.count + pair.left_out < images:
        marks.append(f"{pair.count + pair.left_out} of {images} images")
    if pair.left_out:
        marks.append(f"without {pair.left_out} infinite")
    cells = [Cell(), Cell(), Cell(), Cell()]
    if pair.mean is not None:
        cells[0] = Cell((Number(number(pair.mean), tuple(marks)),), pair.mean)
    if pair.low is not None and pair.high is not None:
        cells[1] = cell(f"{number(pair.low)} to {number(pair.high)}", pair.low)
    cells[2] = cell(f"{pair.better} : {pair.worse}", pair.better)
    if pair.p is not None:
        cells[3] = cell(f"{pair.p:.2g}", pair.p)
    return cells


def cost_table(comparison: Comparison) -> Table | None:
    """Returns parameters, MACs, and time and memory where they were measured."""
    rows = [row for row in comparison.rows if row.spec]
    if not rows:
        return None
    places = list(
        dict.fromkeys(
            _place(result.measured)
            for row in rows
            for result in row.results
            if result.measured
        )
    )
    height, width = COSTS_SIZE
    groups = [
        Group(
            "counted",
            ("parameters", "at inference", f"10^9 MACs at {height} x {width}"),
        ),
        *(Group(f"measured, {place}", ("ms per image", "MiB")) for place in places),
    ]
    lines = [
        (row.label, [*_count_cells(row), *_measured_cells(row, places)]) for row in rows
    ]
    note = "MACs: convolutions, linear layers and matrix products. " + (
        "Time: the median of several runs, one image, one device; other processes "
        "slow it down. MiB: what the compiled program allocates on the device."
        if places
        else "No time or memory was measured; `llie-jax eval --measure` records them."
    )
    return Table("Costs", "model", groups, lines, note)


def _place(measured) -> str:
    size = " x ".join(map(str, measured.get("size", [])))
    return f"{size} on {measured.get('device')}"


def _count_cells(row: Row) -> list[Cell]:
    count = _count(json.dumps(row.spec, sort_keys=True))
    if count is None:
        return [cell("unknown model"), Cell(), Cell()]
    macs = count.macs / 1e9
    return [
        cell(f"{count.params:,}", count.params),
        cell(f"{count.inference_params:,}", count.inference_params),
        cell(f"{macs:.2f}", macs),
    ]


@functools.cache
def _count(spec: str) -> costs.Costs | None:
    """Returns the costs of a spec; None if this version has no such model."""
    try:
        return costs.count(json.loads(spec), COSTS_SIZE)
    except (ValueError, TypeError, KeyError):
        return None


def _measured_cells(row: Row, places: Sequence[str]) -> list[Cell]:
    cells = []
    for place in places:
        found = [
            r.measured
            for r in row.results
            if r.measured and _place(r.measured) == place
        ]
        if not found:
            cells += [Cell(), Cell()]
            continue
        # The least disturbed of several measurements.
        seconds = min(each["seconds"] for each in found)
        memory = max(each["memory_bytes"] for each in found)
        cells += [
            cell(f"{1000 * seconds:.3g}", seconds),
            cell(f"{memory / _MIB:.0f}", memory),
        ]
    return cells
