"""The study of an LFPV bank as text, charts and pictures."""

import colorsys
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax.report import charts, page
from llie_jax.studies.bank_numbers import part_of

_NAMES = {"vector": "vectors", "patch": "patches"}
_EMPTY = "the bank is empty (all zeros)"
_LABELS = 32  # nodes that all get a number in a chart
_CELLS = 20  # nodes whose similarities are written into the cells
_DIMMEST = 0.3  # brightness of a place that takes nothing of any node
_PARTS = {
    "fully_fitted": "fully fitted by the backbone",
    "not_fully_fitted": "not fully fitted",
}
_COLOURS = {"fully_fitted": "var(--accent)", "not_fully_fitted": "var(--second)"}


def lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the numbers of `bank.BankStudy` as text."""
    count, psnr = result["data"]["images"], result["psnr"]
    text = [
        f"{_images(count)}: {_gain(psnr)}; their images differ by "
        f"{psnr['difference']:.3f} levels of 255"
    ]
    for kind, name in _NAMES.items():
        nodes = result["nodes"][kind]
        if nodes["empty"]:
            text.append(f"{name}: {_EMPTY}")
            continue
        most, least = int(np.argmax(nodes["use"])), int(np.argmin(nodes["use"]))
        text += [
            f"{name}: {nodes['count']} nodes; the most used is {most} with "
            f"{100 * nodes['use'][most]:.1f} % of all places, the least used {least} "
            f"with {100 * nodes['use'][least]:.1f} %",
            f"{name}: entropy of the mean use {nodes['entropy_of_mean']:.2f} of at "
            f"most {nodes['largest_entropy']:.2f} bits, as much as "
            f"{nodes['evenly_used_nodes']:.1f} nodes used evenly; of each place "
            f"{nodes['entropy_per_place']:.2f} bits on average",
        ]
        if nodes["mean_similarity"] is not None:
            text.append(
                f"{name}: mean cosine similarity of two nodes "
                f"{nodes['mean_similarity']:.2f}"
            )
    split = result["split"]
    text.append(_threshold(split))
    for part, name in _PARTS.items():
        value = split[part]
        line = f"{name}: {_images(value['images'])}"
        text.append(line + (f", {_gain(value)}" if value["images"] else ""))
    return text


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _gain(value: Mapping[str, float]) -> str:
    return (
        f"PSNR of the backbone {value['backbone']:.2f} dB, of backbone + LFPV "
        f"{value['bank']:.2f} dB, gain {value['gain']:+.2f} dB"
    )


def _threshold(split: Mapping[str, Any]) -> str:
    origin = "the median of these images" if split["is_median"] else "as given"
    return (
        f"fully fitted means at least {split['threshold']:.2f} dB by the backbone "
        f"alone ({origin}); this threshold is ours, the paper's criterion is not known"
    )


def sections(
    result: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Returns the page of `bank.BankStudy` as HTML.

    Args:
        result: its numbers.
        pictures: its pictures.
    """
    return [
        _uses(result),
        _similarities(result),
        _pictures(result, pictures),
        _scatter(result),
        _table(result),
    ]


def _uses(result) -> str:
    """Returns bar charts of the share that each node has."""
    bars = "".join(
        _bars(nodes["use"], f"Mean share of the {_NAMES[kind]}, %")
        for kind, nodes in result["nodes"].items()
    )
    return (
        "<h2>Which nodes are used</h2><p class='soft'>The mean over all places of all "
        "images, without places inside the padding. The dashed line is even use."
        f"</p><div class='grid'>{bars}</div>"
    )


def _bars(use, name: str) -> str:
    width, height, left, right, top, bottom = 480, 250, 44, 10, 30, 26
    count, high = len(use), 105 * max(use)
    step = (width - left - right) / count

    def y_of(percent):
        return top + (1 - percent / high) * (height - top - bottom)

    parts = [charts.heading(name)]
    parts += charts.y_axis(y_of, charts.ticks(0, high), left, width - right)
    for node, share in enumerate(use):
        x, y = left + step * node, y_of(100 * share)
        parts.append(
            f'<rect x="{x + 0.1 * step:.1f}" y="{y:.1f}" width="{0.8 * step:.1f}" '
            f'height="{y_of(0) - y:.1f}" fill="{_css(node)}"><title>node {node}: '
            f"{100 * share:.2f} %</title></rect>"
        )
    parts += [
        f'<text x="{left + step * (node + 0.5):.1f}" y="{height - 8}" '
        f'text-anchor="middle">{node}</text>'
        for node in _labelled(count)
    ]
    even = y_of(100 / count)
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{even:.1f}" y2="{even:.1f}" '
        'stroke="var(--text)" stroke-dasharray="5 4"/>'
    )
    return charts.svg_figure(parts, width, height, name)


def _labelled(count: int) -> range:
    """Returns the nodes that get a number."""
    return range(0, count, math.ceil(count / _LABELS))


def _similarities(result) -> str:
    """Returns heat maps of the similarity between nodes."""
    maps = "".join(
        f"<p>{_NAMES[kind]}: {_EMPTY}</p>"
        if nodes["empty"]
        else _heat_map(np.array(nodes["similarity"]), f"Similarity of {_NAMES[kind]}")
        for kind, nodes in result["nodes"].items()
    )
    return (
        "<h2>How alike nodes are</h2><p class='soft'>Cosine similarity of any two "
        "nodes: orange 1, grey 0, blue -1. All orange: the nodes have become one."
        f"</p><div class='grid'>{maps}</div>"
    )


def _heat_map(similarity: np.ndarray, name: str) -> str:
    blue, grey, orange = np.array([[80, 145, 215], [232, 232, 230], [240, 150, 70]])
    level = similarity[..., None]
    colours = grey + np.where(level > 0, orange - grey, grey - blue) * level
    picture = page.data_uri(colours.round().astype(np.uint8), kind="png")
    count, left, top, side = len(similarity), 40, 30, 430
    step = side / count
    parts = [
        charts.heading(name),
        f'<image href="{picture}" x="{left}" y="{top}" width="{side}" height="{side}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated"/>',
    ]
    for node in _labelled(count):
        middle = step * (node + 0.5)
        parts.append(
            f'<text x="{left - 6}" y="{top + middle + 4:.1f}" text-anchor="end">{node}'
            f'</text><text x="{left + middle:.1f}" y="{top + side + 16}" '
            f'text-anchor="middle">{node}</text>'
        )
    if count <= _CELLS:
        parts += [
            f'<text x="{left + step * (column + 0.5):.1f}" '
            f'y="{top + step * (row + 0.5) + 3:.1f}" text-anchor="middle" '
            f'style="font-size:9px;fill:#1c1d1f">{value:.2f}</text>'
            for (row, column), value in np.ndenumerate(similarity)
        ]
    return charts.svg_figure(parts, left + side + 10, top + side + 26, name)


def _pictures(result, pictures) -> str:
    """Returns photos, their enhanced images, and their strongest nodes."""
    parts = [
        "<h2>Which node is where</h2><p class='soft'>The strongest node of each place; "
        f"the brighter, the larger its share.</p><p>{_legend(result)}</p>"
    ]
    for picture, facts in zip(pictures, result["photos"], strict=True):
        name, size = picture["name"], facts["studied_size"]
        note = f"{size[0]} x {size[1]} pixels"
        if size != facts["size"]:
            note += f", scaled down from {facts['size'][0]} x {facts['size'][1]}"
        output = np.rint(255 * picture["output"]).astype(np.uint8)
        shown = {
            "input": (page.data_uri(picture["photo"]), note),
            "backbone + LFPV": (page.data_uri(output), ""),
        }
        for kind, plural in _NAMES.items():
            side = picture[kind]["side"]
            drawn = assignment(picture[kind], size)
            shown[plural] = (
                page.data_uri(drawn, kind="png"),
                f"places of {side} x {side} pixels",
            )
        figures = "".join(
            page.figure(uri, label, note, alt=f"{label} of {name}")
            for label, (uri, note) in shown.items()
        )
        parts.append(f"<h3>{html.escape(name)}</h3><div class='grid'>{figures}</div>")
    return "".join(parts)


def _legend(result) -> str:
    """Returns the colour of each node."""
    count = max(nodes["count"] for nodes in result["nodes"].values())
    return " ".join(
        "<span style='display:inline-block;margin-right:.8rem'><span style='display:"
        "inline-block;width:.9em;height:.9em;border-radius:.2em;vertical-align:-.1em;"
        f"background:{_css(node)}'></span> {node}</span>"
        for node in range(count)
    )


def assignment(seen: Mapping[str, Any], size) -> np.ndarray:
    """Returns the strongest node of each place as an image, uint8 [H, W, 3].

    Args:
        seen: `node` and `share` of the places [h, w], and the `side` of one in pixels.
        size: (H, W).
    """
    node, share = np.asarray(seen["node"]), np.asarray(seen["share"])
    palette = np.array([_colour(i) for i in range(node.max() + 1)])
    brightness = _DIMMEST + (1 - _DIMMEST) * share
    colours = np.rint(255 * palette[node] * brightness[..., None]).astype(np.uint8)
    for axis in (0, 1):
        colours = colours.repeat(seen["side"], axis)
    return colours[: size[0], : size[1]]


def _colour(node: int) -> tuple[float, float, float]:
    """Returns RGB in [0, 1]; hues in steps of the golden ratio stay distinct."""
    return colorsys.hsv_to_rgb(0.618034 * node % 1, (0.95, 0.45, 0.7)[node % 3], 1)


def _css(node: int) -> str:
    red, green, blue = (round(255 * value) for value in _colour(node))
    return f"rgb({red},{green},{blue})"


def _scatter(result) -> str:
    """Returns a chart of the gain of each image over the PSNR of its backbone."""
    split = result["split"]
    name = "Gain of each image by the PSNR of the backbone, dB"
    found = {
        image: row
        for image, row in result["images"].items()
        if math.isfinite(row["backbone"]) and math.isfinite(row["gain"])
    }
    if not found:
        return ""
    width, height, left, right, top, bottom = 960, 320, 52, 20, 36, 34
    low, high = charts.limits([row["backbone"] for row in found.values()])
    low, high = min(low, split["threshold"]), max(high, split["threshold"])
    least, most = charts.limits([0.0, *(row["gain"] for row in found.values())])

    def x_of(value):
        return left + (value - low) / (high - low) * (width - left - right)

    def y_of(value):
        return top + (most - value) / (most - least) * (height - top - bottom)

    parts = [charts.heading(name)]
    parts += charts.x_axis(x_of, charts.ticks(low, high), top, height - bottom)
    parts += charts.y_axis(y_of, charts.ticks(least, most), left, width - right)
    x, zero = x_of(split["threshold"]), y_of(0)
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{zero:.1f}" y2="{zero:.1f}" '
        f'stroke="var(--soft)"/><line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" '
        f'y2="{height - bottom}" stroke="var(--text)" stroke-dasharray="5 4"/>'
    )
    for image, row in found.items():
        colour = _COLOURS[part_of(row, split["threshold"])]
        parts.append(
            f'<circle cx="{x_of(row["backbone"]):.1f}" cy="{y_of(row["gain"]):.1f}" '
            f'r="4" style="fill:{colour}" opacity="0.75"><title>{html.escape(image)}: '
            f"backbone {row['backbone']:.2f} dB, gain {row['gain']:+.3f} dB</title>"
            "</circle>"
        )
    legend = {label: _COLOURS[part] for part, label in _PARTS.items()}
    parts.append(charts.legend(width - right, legend))
    return (
        "<h2>What the bank adds</h2><p class='soft'>The dashed line is the threshold, "
        f"{split['threshold']:.2f} dB.</p>"
        f"{charts.svg_figure(parts, width, height, name)}"
    )


def _table(result) -> str:
    """Returns a row for each image; clicking a heading sorts the table."""
    heads = [
        "image",
        "backbone, dB",
        "backbone + LFPV, dB",
        "gain, dB",
        "difference, levels",
    ]
    styles = {"backbone": ".2f", "bank": ".2f", "gain": "+.3f", "difference": ".3f"}
    lines = {
        name: [(row[key], f"{row[key]:{style}}") for key, style in styles.items()]
        for name, row in result["images"].items()
    }
    return f"<h2>Each image</h2>{page.sortable_table(heads, lines)}"
