"""A comparison as one HTML page."""

import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax.evaluation.comparison.grouping import Comparison, DataSet
from llie_jax.evaluation.comparison.pictures import Finder
from llie_jax.evaluation.comparison.results import Column, Setting
from llie_jax.report import charts, page
from llie_jax.report import tables as table_texts

PICTURE_BYTES = 12_000_000
"""The size limit of all embedded pictures; further ones are left out."""

CASES = 8
"""Most images that are shown for a data set and protocol."""

_NOT_OUTPUTS = {"input", "reference"}
"""Labels of pictures that are no model's."""

_COLOURS = ("#c2620f", "#2b6cb0", "#2f855a", "#a23fa2", "#8a6d00", "#c53030", "#0f8a8a")
_SHAPES = ("circle", "square", "triangle", "diamond")


def write(
    path: str | os.PathLike, comparison: Comparison, found: Sequence[table_texts.Table]
) -> None:
    """Writes the page, completely or not at all.

    Args:
        path: the HTML file.
        comparison: what is compared.
        found: the tables, in order.
    """
    budget = _Budget(PICTURE_BYTES)
    parts = [table_texts.to_html(table) for table in found]
    for data in comparison.data_sets:
        finder = Finder(data)
        for setting in comparison.settings:
            parts.append(_scatters(comparison, data, setting))
            parts.append(_cases(comparison, data, setting, finder, budget))
    parts.append(_facts(comparison))
    labels = [row.label for row in comparison.rows]
    title = labels[0] if len(labels) == 1 else f"{len(labels)} models compared"
    page.write_page(path, title, parts)


def _scatters(comparison: Comparison, data: DataSet, setting: Setting) -> str:
    """Returns a chart per column: the score of each image against the first model's."""
    rows = comparison.rows_on(data, setting)
    figures = []
    for column in comparison.columns(data, setting):
        values = {
            row.label: comparison.per_image(row, data, setting, column) for row in rows
        }
        values = {label: found for label, found in values.items() if found}
        if len(values) == 1:
            unchanged = _unchanged(data, setting, column)
            values = {"unchanged input": unchanged, **values} if unchanged else {}
        if len(values) > 1:
            figures.append(_scatter(column, values))
    if not any(figures):
        return ""
    return (
        f"<h2>Image by image, {html.escape(data.label)}, protocol "
        f"{html.escape(setting.name)}</h2>\n<p class='soft'>A point is an image; "
        "above the dashed line its score is higher than that of the model below the "
        f"chart.</p>\n<div class='grid'>{''.join(figures)}</div>"
    )


def _unchanged(data: DataSet, setting: Setting, column: Column) -> dict[str, float]:
    """Returns the scores of the unchanged inputs, empty if no file records them."""
    for result in data.results:
        same = result.setting == setting and result.columns.get(column.name) == column
        if same and result.inputs:
            return {
                n: row[column.name]
                for n, row in result.inputs.items()
                if column.name in row
            }
    return {}


def _scatter(column: Column, values: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a chart of the second and further models against the first."""
    (base, below), *others = values.items()
    points = {
        label: [
            (below[name], found[name], name)
            for name in found
            if name in below
            and math.isfinite(below[name])
            and math.isfinite(found[name])
        ]
        for label, found in others
    }
    numbers = [x for found in points.values() for point in found for x in point[:2]]
    if not numbers:
        return ""
    side, left, top, bottom = 440, 52, 30, 46
    low, high = charts.limits(numbers)

    def x_of(value):
        return left + (value - low) / (high - low) * (side - left - 12)

    def y_of(value):
        return top + (high - value) / (high - low) * (side - top - bottom)

    name = f"{column.heading} of each image"
    ticks = charts.ticks(low, high)
    parts = [charts.heading(name)]
    parts += charts.x_axis(x_of, ticks, top, side - bottom)
    parts += charts.y_axis(y_of, ticks, left, side - 12)
    parts.append(
        f'<line x1="{x_of(low):.1f}" y1="{y_of(low):.1f}" x2="{x_of(high):.1f}" '
        f'y2="{y_of(high):.1f}" stroke="var(--text)" stroke-dasharray="5 4"/>'
        f'<text x="{(left + side - 12) / 2:.0f}" y="{side - 8}" text-anchor="middle">'
        f"{html.escape(base)}</text>"
    )
    keys = []
    for index, (label, found) in enumerate(points.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        shape = _SHAPES[index % len(_SHAPES)]
        for x, y, image in found:
            text = f"{image}: {label} {column.text(y)}, {base} {column.text(x)}"
            mark = _mark(shape, x_of(x), y_of(y), colour, text)
            parts.append(mark)
        key = _mark(shape, 6, 6, colour)
        keys.append(
            f'<span><svg viewBox="0 0 12 12" aria-hidden="true">{key}</svg> '
            f"{html.escape(label)}</span>"
        )
    return (
        f'<figure class="chart"><svg viewBox="0 0 {side} {side}" role="img" '
        f'aria-label="{html.escape(name)}">{"".join(parts)}</svg>'
        f'<div class="keys">{"".join(keys)}</div></figure>'
    )


def _mark(shape: str, x: float, y: float, colour: str, text: str = "") -> str:
    """Returns a point of a chart as SVG, with a tooltip if there is a text."""
    r = 4.5
    style = f'style="fill:{colour}" opacity="0.8"'
    title = f"<title>{html.escape(text)}</title>" if text else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}>{title}</circle>'
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.1), (1.1, 0.9), (-1.1, 0.9)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    }[shape]
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {style}>{title}</polygon>'


class _Budget:
    """Counts the bytes of embedded pictures."""

    def __init__(self, limit: int):
        self._left = limit

    def take(self, size: int) -> bool:
        """Takes bytes and returns True, or returns False if too few are left."""
        if size > self._left:
            return False
        self._left -= size
        return True


def _cases(comparison, data: DataSet, setting: Setting, finder: Finder, budget) -> str:
    """Returns the worst and the best image of each model, with sliders."""
    rows = comparison.rows_on(data, setting)
    columns = [
        column
        for column in comparison.columns(data, setting)
        if any(comparison.per_image(row, data, setting, column) for row in rows)
    ]
    if not columns:
        return ""
    chosen = _extremes(comparison, data, setting, columns[0])
    figures, without = [], set()
    for name, why in list(chosen.items())[:CASES]:
        shown, missing = _shown(comparison, data, setting, finder, name)
        without |= missing
        if set(shown) <= _NOT_OUTPUTS or len(shown) < 2:
            continue  # nothing to compare
        uris = {label: page.data_uri(image) for label, image in shown.items()}
        if not budget.take(sum(map(len, uris.values()))):
            break
        scores = _values(comparison, data, setting, columns, name)
        size = next(iter(shown.values())).shape[:2]
        figures.append(_viewer(name, why, uris, size, scores))
    title = f"Worst and best, {data.label}, protocol {setting.name}"
    notes = []
    if figures:
        notes.append(
            f"By {columns[0].heading}. Drag across a picture; the lists choose what is "
            "left and right."
        )
        if len(figures) < len(chosen):
            notes.append(f"{len(figures)} of {len(chosen)} images are shown.")
    if without:
        notes.append(
            f"Without pictures: {', '.join(sorted(without))}; `llie-jax eval "
            "--save-images` keeps them beside the scores."
        )
    if finder.problem:
        notes.append(f"Inputs and references were not found: {finder.problem}")
    if not notes:
        return ""
    note = html.escape(" ".join(notes))
    return (
        f"<h2>{html.escape(title)}</h2>\n<p class='soft'>{note}</p>\n"
        f"<div class='grid'>{''.join(figures)}</div>"
    )


def _extremes(comparison, data, setting, column: Column):
    """Returns image -> [("worst" or "best", model)], the worst images first."""
    found: dict[str, list[tuple[str, str]]] = {}
    sign = 1 if column.higher_is_better else -1
    for word, choose in (("worst", min), ("best", max)):
        for row in comparison.rows_on(data, setting):
            values = comparison.per_image(row, data, setting, column)
            if values:
                name = choose(values, key=lambda each: sign * values[each])
                found.setdefault(name, []).append((word, row.label))
    return found


def _shown(comparison, data, setting, finder, name) -> tuple[dict[str, Any], set[str]]:
    """Returns label -> picture for one image, and the models without a picture."""
    shown: dict[str, np.ndarray] = {}
    missing = set()
    if (image := finder.input(name)) is not None:
        shown["input"] = image
    for row in comparison.rows_on(data, setting):
        runs = [r for r in comparison.results(row, data, setting) if name in r.images]
        outputs = (finder.output(run, name) for run in runs)
        output = next((each for each in outputs if each is not None), None)
        if output is not None:
            shown[row.label + " (model)" * (row.label in _NOT_OUTPUTS)] = output
        elif runs:
            missing.add(row.label)
    if (target := finder.target(name)) is not None:
        shown["reference"] = target
    return shown, missing


def _values(comparison, data, setting, columns, name) -> list[str]:
    """Returns a line per model with its scores of an image."""
    lines = []
    for row in comparison.rows_on(data, setting):
        found = (
            (column, comparison.per_image(row, data, setting, column).get(name))
            for column in columns
        )
        texts = [
            f"{c.heading} {c.text(value)}" for c, value in found if value is not None
        ]
        if texts:
            lines.append(f"{row.label}: {', '.join(texts)}")
    return lines


def _viewer(
    name: str, why: Sequence[tuple[str, str]], uris: Mapping[str, str], size, scores
) -> str:
    """Returns a figure in which any two of the pictures are compared by a slider.

    Args:
        name: of the image.
        why: ("worst" or "best", model) of each model whose extreme it is.
        uris: label -> picture.
        size: (height, width) of the pictures.
        scores: a line for each model.
    """
    outputs = [label for label in uris if label not in _NOT_OUTPUTS]
    wanted = [model for _, model in why if model in outputs]
    right = (wanted or outputs)[0]
    left = next(label for label in uris if label != right)
    text = html.escape(name)
    images = []
    for label, uri in uris.items():
        side = {left: "left", right: "right"}.get(label, "")
        alt = f"{html.escape(label)}, {text}"
        images.append(f'<img class="{side}" src="{uri}" alt="{alt}">')

    def choice(side: str, selected: str) -> str:
        options = "".join(
            f"<option{' selected' * (label == selected)}>{html.escape(label)}</option>"
            for label in uris
        )
        about = f"{side} picture of {text}"
        return f'<select name="{side}" aria-label="{about}">{options}</select>'

    reasons = html.escape(", ".join(f"{word} of {model}" for word, model in why))
    lines = "".join(f"<div>{html.escape(line)}</div>" for line in scores)
    return (
        f'<figure><div class="compare choice" style="aspect-ratio:{size[1]}/{size[0]}">'
        f"{''.join(images)}<i>{html.escape(left)}</i><i>{html.escape(right)}</i>"
        f'<input type="range" value="40" aria-label="left against right, {text}"></div>'
        f"<figcaption><b>{text}</b><span>{reasons}</span>"
        f"{choice('left', left)}{choice('right', right)}"
        f'<div class="soft" style="flex-basis:100%">{lines}</div>'
        "</figcaption></figure>"
    )


def _facts(comparison: Comparison) -> str:
    """Returns what each number depends on."""
    blocks = []
    for row in comparison.rows:
        for result in row.results:
            weights = {k: v for k, v in result.weights.items() if k != "metadata"}
            facts = {
                "file": str(result.path),
                "model": result.spec or "saved images",
                "weights": weights,
                "data": {k: v for k, v in result.data.items() if k != "references"},
                "options": result.options,
            }
            name = f"{row.label}: {result.path}"
            blocks.append(
                f"<details><summary>{html.escape(name)}</summary><div class='scroll "
                f"settings'><table>{page.rows(page.flat(facts))}</table></div></details>"
            )
    return "<h2>What the numbers depend on</h2>\n" + "\n".join(blocks)
