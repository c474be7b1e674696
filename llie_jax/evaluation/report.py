"""`report.html`: settings, curves, scores and pictures in one file.

It needs no network and nothing beside it: pictures are embedded, curves are drawn as
SVG, and the little script it holds only moves sliders and sorts the table.
"""

import base64
import html
import importlib.resources
import io as bytes_io
import json
import math
import os
import pathlib
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from llie_jax import registry
from llie_jax.evaluation import scores as results
from llie_jax.evaluation.scores import Picture, Scores
from llie_jax.image import io
from llie_jax.metrics import protocol as protocols

PICTURE_BYTES = 8_000_000
"""The embedded pictures take at most this much; further ones are left out."""

_POINTS = 400  # points of a curve; more would not be seen
_JPEG_QUALITY = 85


def write(
    path: str | os.PathLike,
    *,
    title: str,
    scores: Scores | None = None,
    log: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes a report; it is complete or absent.

    Args:
        path: the HTML file.
        title: its heading.
        scores: scores with their pictures.
        log: the `log.jsonl` of a run, for the curves; may be missing.
        settings: the configuration of a run, nested or flat.
    """
    body = [
        _numbers(scores) if scores else "",
        _pictures(scores) if scores else "",
        _curves(read_log(log)) if log else "",
        _table(scores) if scores else "",
        _other(scores) if scores else "",
        _settings(scores, settings),
    ]
    write_page(path, title, body)


def write_page(path: str | os.PathLike, title: str, sections: Sequence[str]) -> None:
    """Writes sections of HTML as one page; it is complete or absent."""
    template = importlib.resources.files(__package__).joinpath("report.html")
    page = string.Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title), body="\n".join(filter(None, sections))
    )
    with io.atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a `log.jsonl`; none if it is missing.

    A line that was cut off, as by a kill, is left out.
    """
    path = pathlib.Path(path)
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _numbers(scores: Scores) -> str:
    """Returns the headline numbers."""
    metrics, mean, floor = scores.protocol.metrics, scores.mean, scores.input_mean
    cards = []
    for column, metric in metrics.items():
        label = results.heading(column, metric)
        if floor:
            label += f", unchanged input {results.text(floor[column], metric)}"
        cards.append((results.text(mean[column], metric), label))
    cards.append((str(scores.count), "images"))
    definitions = ", ".join(
        f"{column.upper()} is {protocols.metric_name(metric)}"
        for column, metric in metrics.items()
    )
    boxes = "".join(
        f'<div class="number"><b>{html.escape(value)}</b>'
        f"<span>{html.escape(label)}</span></div>"
        for value, label in cards
    )
    return (
        f'<p class="soft">Protocol {html.escape(scores.protocol.name)}: '
        f"{html.escape(definitions)}; means over images, no use of the ground truth."
        f'</p>\n<div class="numbers">{boxes}</div>'
    )


def _pictures(scores: Scores) -> str:
    """Returns the before/after pictures, as many as fit the size limit."""
    figures, used = [], 0
    for picture in scores.pictures:
        images = [data_uri(x) for x in (picture.image, picture.output, picture.target)]
        used += sum(map(len, images))
        if used > PICTURE_BYTES:
            break
        figures.append(_figure(picture, images, scores))
    if not figures:
        return ""
    note = ""
    if len(figures) < scores.count:
        note = f" {len(figures)} of {scores.count} images, evenly chosen."
    return (
        "<h2>Before and after</h2>\n"
        f'<p class="soft">Drag across a picture.{note}</p>\n'
        f'<div class="grid">{"".join(figures)}</div>'
    )


def _figure(picture: Picture, images: Sequence[str], scores: Scores) -> str:
    name = html.escape(picture.name)
    row = scores.images[picture.name]
    values = ", ".join(
        f"{column.upper()} {results.text(row[column], metric)}"
        for column, metric in scores.protocol.metrics.items()
    )
    height, width = picture.image.shape[:2]
    size = f'width="{width}" height="{height}"'
    before, output, target = images
    return (
        '<figure><div class="compare">'
        f'<img src="{output}" {size} alt="output for {name}">'
        f'<img class="target" src="{target}" {size} alt="target of {name}">'
        f'<img class="input" src="{before}" {size} alt="input {name}">'
        "<i>input</i><i>output</i>"
        f'<input type="range" value="40" aria-label="input against output of {name}">'
        f"</div><figcaption><b>{name}</b><span class='soft'>{values}</span>"
        "<label><input type='checkbox'> show target</label></figcaption></figure>"
    )


def data_uri(image: np.ndarray, *, kind: str = "jpeg") -> str:
    """Returns an image as what stands in `src`.

    Args:
        image: uint8 [H, W, 3].
        kind: "jpeg", or "png" for what is no photo.
    """
    buffer = bytes_io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, quality=_JPEG_QUALITY)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{content}"


def _table(scores: Scores) -> str:
    """Returns the scores of every image, sorted by a click on a heading."""
    metrics = scores.protocol.metrics
    heads = ["image", *(results.heading(c, m) for c, m in metrics.items())]
    if scores.inputs:
        heads += [f"input {results.heading(c, m)}" for c, m in metrics.items()]
    lines = []
    for name, row in scores.images.items():
        cells = [f'<td data-value="{html.escape(name)}">{html.escape(name)}</td>']
        for values in filter(None, (row, scores.inputs.get(name))):
            for column, metric in metrics.items():
                value = values[column]
                text = results.text(value, metric)
                cells.append(f'<td data-value="{number(value)}">{text}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f"<th><button>{html.escape(heading)}</button></th>" for heading in heads
    )
    return (
        '<h2>Scores of each image</h2>\n<div class="scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table>"
        "</div>"
    )


def number(value: float) -> str:
    """Returns a number as JavaScript reads it."""
    return str(value).replace("inf", "Infinity")


def _other(scores: Scores) -> str:
    """Returns the means of the same outputs under other definitions."""
    if not scores.other:
        return ""
    lines = []
    for name, row in scores.other["protocols"].items():
        protocol = protocols.get(name)
        values = " / ".join(
            results.text(row[c], m) for c, m in protocol.metrics.items()
        )
        lines.append((f"protocol {name}", values, protocol.description))
    for name, value in scores.other["metrics"].items():
        facts = registry.get(name, kind="metric").facts
        lines.append((name, results.text(value, name), facts["used_by"]))
    return (
        "<h2>The same outputs under other definitions</h2>\n"
        f'<div class="scroll settings"><table>{_rows(lines)}</table></div>'
    )


def _settings(scores: Scores | None, settings: Mapping[str, Any] | None) -> str:
    """Returns everything that the numbers depend on."""
    parts = []
    if scores:
        content = scores.to_dict()
        for key in ("images", "mean", "input", "other"):
            content.pop(key, None)
        parts.append(("Evaluation", content, " open"))
    if settings:
        parts.append(("Training", settings, ""))
    if not parts:
        return ""
    blocks = (
        f"<details{state}><summary>{name}</summary>"
        f'<div class="scroll settings"><table>{_rows(_flat(content))}</table></div>'
        "</details>"
        for name, content, state in parts
    )
    return "<h2>Settings</h2>\n" + "\n".join(blocks)


def _rows(lines: Sequence[Sequence[str]]) -> str:
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines)
    return "".join(f"<tr>{row}</tr>" for row in rows)


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns (dotted key, text) of a nested mapping."""
    lines = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            lines.append((f"{prefix}{key}", text))
    return lines


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Returns the curves of a run: loss, and PSNR in training and validation."""

    def series(key):
        points = [(line["step"], line[key]) for line in log if key in line]
        return _thinned([p for p in points if all(map(math.isfinite, p))])

    charts = [
        _chart("loss", {"training": series("loss")}),
        _chart(
            "PSNR (dB)",
            {"training": series("psnr"), "validation": series("validation_psnr")},
        ),
    ]
    charts = "".join(f'<figure class="chart">{c}</figure>' for c in charts if c)
    return f'<h2>Training</h2>\n<div class="grid">{charts}</div>' if charts else ""


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns at most `_POINTS` points, each the mean of its neighbours."""
    if len(points) <= _POINTS:
        return points
    parts = np.array_split(np.asarray(points, np.float64), _POINTS)
    return [tuple(part.mean(axis=0).tolist()) for part in parts]


def _chart(name: str, series: Mapping[str, list[tuple[float, float]]]) -> str:
    """Returns an SVG of the curves, "" if there is nothing to draw.

    Validation is drawn with its points, whose values show under the pointer.
    """
    series = {key: points for key, points in series.items() if points}
    if not series:
        return ""
    width, height, left, right, top, bottom = 480, 270, 52, 12, 30, 30
    steps = [x for points in series.values() for x, _ in points]
    values = [y for points in series.values() for _, y in points]
    # A loss that falls by decades is unreadable on a linear axis.
    log_scale = name == "loss" and min(values) > 0 and max(values) > 10 * min(values)
    scale = math.log10 if log_scale else float
    low, high = limits([scale(value) for value in values])
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x_of(step):
        return left + (step - first) / (last - first) * (width - left - right)

    def y_of(value):
        inner = height - top - bottom
        return top + (high - scale(value)) / (high - low) * inner

    parts = [f'<text class="name" x="{left}" y="18">{html.escape(name)}</text>']
    levels = _decade_ticks(low, high) if log_scale else ticks(low, high)
    parts += y_axis(y_of, levels, left, width - right)
    for tick in ticks(first, last):
        label = f"{tick / 1000:g}k" if tick >= 10_000 else f"{tick:g}"
        parts.append(
            f'<text x="{x_of(tick):.1f}" y="{height - 10}" text-anchor="middle">'
            f"{label}</text>"
        )
    for key, points in series.items():
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="{key}" points="{line}"/>')
        if key == "validation":
            parts += [
                f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3">'
                f"<title>step {x:g}: {y:.2f}</title></circle>"
                for x, y in points
            ]
    legend = "".join(
        f'<tspan class="key-{key}" dx="12">{key}</tspan>' for key in series
    )
    parts.append(f'<text x="{width - right}" y="18" text-anchor="end">{legend}</text>')
    label = f"{name} over training steps"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def x_axis(
    x_of: Callable[[float], float], values: Iterable[float], top: float, bottom: float
) -> list[str]:
    """Returns a vertical line for each value, with the value below it, as SVG."""
    return [
        f'<line class="rule" x1="{x_of(value):.1f}" x2="{x_of(value):.1f}" '
        f'y1="{top}" y2="{bottom}"/><text x="{x_of(value):.1f}" y="{bottom + 16}" '
        f'text-anchor="middle">{value:.4g}</text>'
        for value in values
    ]


def y_axis(
    y_of: Callable[[float], float], values: Iterable[float], left: float, right: float
) -> list[str]:
    """Returns a horizontal line for each value, with the value beside it, as SVG."""
    return [
        f'<line class="rule" x1="{left}" x2="{right}" y1="{y_of(value):.1f}" '
        f'y2="{y_of(value):.1f}"/><text x="{left - 6}" y="{y_of(value) + 4:.1f}" '
        f'text-anchor="end">{value:.3g}</text>'
        for value in values
    ]


def svg_figure(parts: Iterable[str], width: float, height: float, name: str) -> str:
    """Returns a chart of SVG elements, with a name for who cannot see it."""
    return (
        f'<figure class="chart" style="margin-top:1.25rem"><svg viewBox="0 0 {width} '
        f'{height}" role="img" aria-label="{html.escape(name)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def settings_table(facts: Mapping[str, Any]) -> str:
    """Returns what the numbers of a study depend on: name -> value."""
    rows = _rows([(name, str(value)) for name, value in facts.items()])
    return f"<h2>Settings</h2><table class='settings'>{rows}</table>"


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns a range round the values that is never empty."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(abs(high), 1) * 0.05
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers in a range."""
    raw = (high - low) / 5
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _decade_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten between 10^low and 10^high."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    values = [m * 10.0**decade for decade in decades for m in (1, 2, 5)]
    return [value for value in values if low <= math.log10(value) <= high]
