"""Writes `report.html`: settings, curves, scores and pictures in one offline file."""

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

from llie_jax import metrics
from llie_jax.evaluation import scores as results
from llie_jax.evaluation.scores import Picture, Scores
from llie_jax.metrics import protocol as protocols
from llie_jax.report import charts, page
from llie_jax.weights.run import read_log

PICTURE_BYTES = 8_000_000
"""The size limit of all embedded pictures; further ones are left out."""

_LARGEST = 1e100  # of a curve's values; sums of larger ones overflow


def write(
    path: str | os.PathLike,
    *,
    title: str,
    scores: Scores | None = None,
    log: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    shipped: Sequence[Picture] = (),
) -> None:
    """Writes a report, completely or not at all.

    Args:
        path: the HTML file.
        title: its heading.
        scores: scores with their pictures.
        log: the `log.jsonl` of a run, for the curves; the file may be missing.
        settings: the configuration of a run, nested or flat.
        shipped: results of the weights that ship, shown beside those of the run.
    """
    body = [
        _numbers(scores) if scores else "",
        _pictures(scores) if scores else "",
        _shipped(shipped),
        _curves(read_log(log)) if log else "",
        _table(scores) if scores else "",
        _other(scores) if scores else "",
        _settings(scores, settings),
    ]
    page.write_page(path, title, body)


def _numbers(scores: Scores) -> str:
    """Returns the headline numbers."""
    mean, floor = scores.mean, scores.input_mean
    cards = []
    for column, metric in scores.columns.items():
        label = results.heading(column, metric)
        if floor:
            label += f", unchanged input {results.text(floor[column], metric)}"
        label = ", ".join([label, *scores.marks])
        cards.append((results.text(mean[column], metric), label))
    cards.append((str(scores.count), "images"))
    boxes = "".join(
        f'<div class="number"><b>{html.escape(value)}</b>'
        f"<span>{html.escape(label)}</span></div>"
        for value, label in cards
    )
    definitions = html.escape(results.definitions(scores.protocol))
    used = (
        scores.facts.get("options", {}).get("uses_reference")
        or scores.protocol.uses_reference
    )
    rule = "" if used else ", no use of the ground truth"
    return (
        f'<p class="soft">Protocol {html.escape(scores.protocol.name)}: '
        f"{definitions}; means over images{rule}."
        f'</p>\n<div class="numbers">{boxes}</div>'
    )


def _pictures(scores: Scores) -> str:
    """Returns the before/after pictures, as many as the size limit allows."""
    figures, used = [], 0
    for picture in scores.pictures:
        shown = (picture.image, picture.output, picture.target)
        images = [page.data_uri(x) for x in shown if x is not None]
        used += sum(map(len, images))
        if used > PICTURE_BYTES:
            break
        row = scores.images[picture.name]
        values = ", ".join(
            f"{results.title(column)} {results.text(row[column], metric)}"
            for column, metric in scores.columns.items()
        )
        figures.append(_figure(picture, images, values))
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


def _shipped(pictures: Sequence[Picture]) -> str:
    """Returns the pictures of the weights that ship."""
    if not pictures:
        return ""
    figures = []
    for picture in pictures:
        shown = (picture.image, picture.output, picture.target)
        figures.append(_figure(picture, [page.data_uri(x) for x in shown], ""))
    return (
        "<h2>The weights that come with llie_jax</h2>\n"
        '<p class="soft">What <code>llie-jax enhance</code> makes of photographs that '
        "come with scikit-image. Its training data may hold the same scenes; its card "
        "says so.</p>\n"
        f'<div class="grid">{"".join(figures)}</div>'
    )


def _figure(picture: Picture, images: Sequence[str], values: str) -> str:
    """Returns a picture with its slider and its caption; `images` as data URIs."""
    name = html.escape(picture.name)
    height, width = picture.image.shape[:2]
    size = f'width="{width}" height="{height}"'
    before, output, *target = images
    reference, checkbox = "", ""
    if target:
        reference = (
            f'<img class="target" src="{target[0]}" {size} alt="target of {name}">'
        )
        checkbox = "<label><input type='checkbox'> show target</label>"
    return (
        '<figure><div class="compare">'
        f'<img src="{output}" {size} alt="output for {name}">'
        f'{reference}<img class="input" src="{before}" {size} alt="input {name}">'
        "<i>input</i><i>output</i>"
        f'<input type="range" value="40" aria-label="input against output of {name}">'
        f"</div><figcaption><b>{name}</b><span class='soft'>{values}</span>"
        f"{checkbox}</figcaption></figure>"
    )


def _table(scores: Scores) -> str:
    """Returns the table of all scores; a click on a heading sorts it."""
    columns = scores.columns
    heads = ["image", *(results.heading(c, m) for c, m in columns.items())]
    if scores.inputs:
        heads += [f"input {results.heading(c, m)}" for c, m in columns.items()]
    lines = {
        name: [
            (values[column], results.text(values[column], metric))
            for values in filter(None, (row, scores.inputs.get(name)))
            for column, metric in columns.items()
        ]
        for name, row in scores.images.items()
    }
    return "<h2>Scores of each image</h2>\n" + page.sortable_table(heads, lines)


def _other(scores: Scores) -> str:
    """Returns the means of the same outputs under other definitions."""
    if not scores.other:
        return ""
    lines = []
    for name, row in scores.other["protocols"].items():
        protocol = protocols.get(name)
        values = results.protocol_text(row, protocol)
        lines.append((f"protocol {name}", values, protocol.description))
    for name, value in scores.other["metrics"].items():
        used_by = metrics.card(name).used_by
        lines.append((results.marked(name), results.text(value, name), used_by))
    return (
        "<h2>The same outputs under other definitions</h2>\n"
        f'<div class="scroll settings"><table>{page.rows(lines)}</table></div>'
    )


def _settings(scores: Scores | None, settings: Mapping[str, Any] | None) -> str:
    """Returns the settings of the evaluation and of the training run."""
    parts = []
    if scores:
        content = scores.to_dict()
        for key in ("images", "mean", "input", "other", "columns"):
            content.pop(key, None)
        content.get("data", {}).pop("references", None)
        parts.append(("Evaluation", content, " open"))
    if settings:
        parts.append(("Training", settings, ""))
    if not parts:
        return ""
    blocks = (
        f"<details{state}><summary>{name}</summary>"
        f'<div class="scroll settings"><table>{page.rows(page.flat(content))}'
        "</table></div>"
        "</details>"
        for name, content, state in parts
    )
    return "<h2>Settings</h2>\n" + "\n".join(blocks)


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Returns the curves of a run: loss, and PSNR in training and validation."""

    def series(key):
        points = [(line["step"], line.get(key)) for line in log]
        return charts.thinned([(x, y) for x, y in points if _drawable(y)])

    found = [
        charts.curves("loss", {"training": series("loss")}),
        charts.curves(
            "PSNR (dB)",
            {"training": series("psnr"), "validation": series("validation_psnr")},
        ),
    ]
    figures = "".join(f'<figure class="chart">{c}</figure>' for c in found if c)
    return f'<h2>Training</h2>\n<div class="grid">{figures}</div>' if figures else ""


def _drawable(value: Any) -> bool:
    """Returns whether a value from a log can be drawn."""
    return isinstance(value, int | float) and abs(value) < _LARGEST
