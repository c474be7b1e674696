"""The study of reset layers as text and charts."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from llie_jax.report import charts

_COLOURS = {
    "attention": "var(--accent)",
    "feed_forward": "var(--second)",
    "module": "var(--accent)",
}


def lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the numbers of `redundancy.ResetStudy` as text."""
    text = [f"PSNR {result['psnr']:.2f} dB"]
    text += dmr_lines(result["dmr"])
    text += [
        f"POI {kind} {_spread(value, ' %', digits=1)}"
        for kind, value in result["poi"].items()
    ]
    for kind, value in result["reset"].items():
        change, share = np.mean(value["psnr_change"]), np.mean(value["poi"])
        text.append(
            f"all {value['layers']} {kind} layers reset: PSNR {change:+.2f} dB, "
            f"{share:.1f} % of the images better"
        )
    for kind, by_layer in result["layers"].items():
        for layer, value in by_layer.items():
            text.append(
                f"  {kind:12} {layer:48} PSNR {np.mean(value['psnr_change']):+7.3f} dB"
                f"  degeneration {np.mean(value['degeneration']):6.2f} dB"
                f"  POI {np.mean(value['poi']):5.1f} %"
            )
    return text + [result["definitions"][key] for key in ("dmr", "poi")]


def dmr_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns DMR of each kind of layers as text, in floats and in 8 bits."""
    return [
        f"DMR {kind} {_spread(value, ' dB')}, in 8 bits "
        f"{_spread(value['in_8_bits'], ' dB')}, {value['layers']} layers"
        for kind, value in result.items()
    ]


def _spread(value: Mapping[str, Any], unit: str, *, digits: int = 2) -> str:
    """Returns a mean over seeds, and their deviation if there are several."""
    text, deviation = f"{value['value']:.{digits}f}{unit}", value["deviation"]
    if deviation is None:
        return text
    return f"{text} (deviation over seeds {deviation:.{digits}f})"


def sections(result: Mapping[str, Any]) -> list[str]:
    """Returns the charts of `redundancy.ResetStudy` as HTML."""
    return [
        _by_layer(result, "degeneration", "Degeneration by resetting one layer, dB"),
        _by_layer(result, "psnr_change", "Change of PSNR by resetting one layer, dB"),
        _by_layer(result, "poi", "Images that are better with one layer reset, %"),
        _histograms(result),
    ]


def _by_layer(result, key: str, name: str) -> str:
    """Returns a chart: for each layer the mean over seeds, and their range."""
    series = {
        kind: {layer: value[key] for layer, value in by_layer.items()}
        for kind, by_layer in result["layers"].items()
    }
    rows = [
        (kind, layer, values)
        for kind, by_layer in series.items()
        for layer, values in by_layer.items()
    ]
    if not rows:
        return ""
    values = [value for *_, found in rows for value in found]
    low, high = min(*values, 0), max(*values, 0)
    margin = 0.04 * (high - low) or 1
    low, high = low - margin * (low < 0), high + margin
    left, right, top, step, width = 330, 20, 30, 18, 960
    height = top + step * len(rows) + 34

    def x_of(value):
        return left + (value - low) / (high - low) * (width - left - right)

    parts = [charts.heading(name)]
    parts += charts.x_axis(x_of, charts.ticks(low, high), top, height - 30)
    for place, (kind, layer, found) in enumerate(rows):
        y = top + step * (place + 0.7)
        mean, colour = float(np.mean(found)), _COLOURS[kind]
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{html.escape(layer)}</text>"
            f'<line x1="{x_of(0):.1f}" x2="{x_of(mean):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-width="6" opacity="0.35"/>'
            f'<line x1="{x_of(min(found)):.1f}" x2="{x_of(max(found)):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{x_of(mean):.1f}" cy="{y:.1f}" r="3.5" '
            f'style="fill:{colour}"><title>{html.escape(layer)}: {mean:.3f}</title>'
            "</circle>"
        )
    parts.append(_legend(width - right, series))
    return charts.svg_figure(parts, width, height, name)


def _histograms(result) -> str:
    """Returns a histogram of the change of PSNR over images, for each kind."""
    found = {
        kind: [
            float(np.mean(after)) - result["images"][name]
            for name, after in value["images"].items()
        ]
        for kind, value in result["reset"].items()
    }
    if not found:
        return ""
    name = "Images by their change of PSNR when all layers of a kind are reset, dB"
    values = [value for changes in found.values() for value in changes]
    low, high = min(*values, 0.0), max(*values, 0.0)
    edges = np.linspace(low, high + 1e-6, 25)
    counts = {kind: np.histogram(v, edges)[0] for kind, v in found.items()}
    largest = max(count.max() for count in counts.values())
    left, right, top, width, height = 40, 20, 30, 960, 260
    base = height - 34

    def x_of(value):
        return left + (value - low) / (edges[-1] - low) * (width - left - right)

    def y_of(count):
        return base - count / largest * (base - top)

    parts = [charts.heading(name)]
    parts += charts.x_axis(x_of, charts.ticks(low, edges[-1]), top, base)
    for place, (kind, count) in enumerate(counts.items()):
        bar = (x_of(edges[1]) - x_of(edges[0])) / len(counts)
        for edge, number in zip(edges, count, strict=False):
            if number:
                parts.append(
                    f'<rect x="{x_of(edge) + place * bar:.1f}" y="{y_of(number):.1f}" '
                    f'width="{max(bar - 1, 1):.1f}" height="{base - y_of(number):.1f}" '
                    f'fill="{_COLOURS[kind]}"><title>{number} images</title></rect>'
                )
    parts.append(
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{largest}</text>'
    )
    parts.append(_legend(width - right, counts))
    return charts.svg_figure(parts, width, height, name)


def _legend(right: float, kinds: Iterable[str]) -> str:
    """Returns the colours of the kinds of layers."""
    return charts.legend(right, {kind: _COLOURS[kind] for kind in kinds})
