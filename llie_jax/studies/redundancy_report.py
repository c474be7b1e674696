"""The redundancy studies as lines of text and as a page with plots."""

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax.report import charts, page

_COLOURS = {"attention": "var(--accent)", "feed_forward": "var(--second)"}
_MAPS = 8  # kernels that are drawn
_COLUMNS = 720  # values of a kernel that are drawn


def lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the numbers of a study as lines of text.

    Args:
        result: as `llie-jax redundancy` writes it.
    """
    text = [f"PSNR {result['psnr']:.2f} dB"] if "psnr" in result else []
    for kind, value in result.get("dmr", {}).items():
        spread = value["deviation"]
        text.append(
            f"DMR {kind} {value['value']:.2f} dB"
            + ("" if spread is None else f" (deviation over seeds {spread:.2f})")
            + f", {value['layers']} layers"
        )
    for kind, value in result.get("reset", {}).items():
        change, share = np.mean(value["psnr_change"]), np.mean(value["poi"])
        text.append(
            f"all {value['layers']} {kind} layers reset: PSNR {change:+.2f} dB, "
            f"POI {share:.1f} %"
        )
    for kind, by_layer in result.get("layers", {}).items():
        for layer, value in by_layer.items():
            text.append(
                f"  {kind:12} {layer:48} PSNR {np.mean(value['psnr_change']):+7.3f} dB"
                f"  degeneration {np.mean(value['degeneration']):6.2f} dB"
            )
    if "kernel_variation" in result:
        text.append(
            "kernels differ between images by "
            f"{100 * result['kernel_variation']:.2g} % of their length, on average"
        )
        for path, value in result["kernels"].items():
            text.append(f"  {path:64} {100 * value:8.2g} %")
    if "compression" in result:
        settings = ", ".join(f"{k} {v}" for k, v in result["compression"].items())
        text.append(f"after {settings}: PSNR {result['psnr_after']:.2f} dB")
    if "definitions" in result:
        text += [result["definitions"][key] for key in ("dmr", "poi")]
    return text


def write(path: str | os.PathLike, result: Mapping[str, Any]) -> None:
    """Writes the page of a study; it is complete or absent.

    Args:
        path: the HTML file.
        result: as `llie-jax redundancy` makes it, with `maps` for the kernels.
    """
    title = f"Redundancy of {result['model']['name']} on {result['data']['name']}"
    sections = [
        _numbers(result),
        _by_layer(result, "degeneration", "Degeneration by resetting one layer, dB"),
        _by_layer(result, "psnr_change", "Change of PSNR by resetting one layer, dB"),
        _histograms(result),
        _maps(result),
        _details(result),
    ]
    page.write_page(path, title, sections)


def _numbers(result) -> str:
    """Returns the lines without those of single layers."""
    return "".join(
        f"<p>{html.escape(line)}</p>"
        for line in lines(result)
        if not line.startswith("  ")
    )


def _by_layer(result, key: str, name: str) -> str:
    """Returns a chart: for each layer the mean over seeds, and their range."""
    series = {
        kind: {layer: value[key] for layer, value in by_layer.items()}
        for kind, by_layer in result.get("layers", {}).items()
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

    parts = [f'<text class="name" x="8" y="18">{html.escape(name)}</text>']
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
        for kind, value in result.get("reset", {}).items()
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

    parts = [f'<text class="name" x="8" y="18">{html.escape(name)}</text>']
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


def _maps(result) -> str:
    """Returns pictures of generated kernels: a row for each image."""
    maps = result.get("maps")
    if not maps:
        return ""
    chosen = list(maps)
    chosen = [
        chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, _MAPS).astype(int))
    ]
    figures = []
    for path in chosen:
        variation = result["kernels"][path]
        figures.append(
            "<figure><img alt='kernels' style='display:block;width:100%;height:12rem;"
            f"image-rendering:pixelated' src='{_heat_map(maps[path])}'>"
            f"<figcaption><b>{html.escape(path)}</b>"
            f"<span class='soft'>differs by {100 * variation:.2g} %</span>"
            "</figcaption></figure>"
        )
    return (
        "<h2>Generated kernels</h2><p class='soft'>One row for each image, one column "
        f"for each value of the kernel (at most {_COLUMNS}, evenly chosen), dark low "
        "and bright high. Rows that look alike: the kernel hardly depends on the "
        f"image.</p><div class='grid'>{''.join(figures)}</div>"
    )


def _heat_map(kernels: np.ndarray) -> str:
    """Returns an image [images, values] as a data URI."""
    columns = np.linspace(0, kernels.shape[1] - 1, min(_COLUMNS, kernels.shape[1]))
    values = kernels[:, columns.astype(int)]
    low, high = np.percentile(values, (1, 99))
    level = np.clip((values - low) / max(high - low, 1e-30), 0, 1)[..., None]
    dark, middle, bright = np.array([[16, 32, 64], [190, 90, 40], [255, 240, 190]])
    first = dark + (middle - dark) * np.minimum(2 * level, 1)
    colours = first + (bright - middle) * np.maximum(2 * level - 1, 0)
    return page.data_uri(colours.round().astype(np.uint8), kind="png")


def _details(result) -> str:
    """Returns the facts of the study and its definitions."""
    return page.settings_table(
        {
            "study": result["study"],
            "model": result["model"],
            "weights SHA-256": result["weights_sha256"],
            "data": result["data"],
            "reset leaves ADR as it is": result["backbone_only"],
            "device": result.get("device"),
            "versions": result.get("versions"),
        }
    )


def _legend(right: float, kinds: Sequence[str]) -> str:
    spans = "".join(
        f'<tspan dx="12" style="fill:{_COLOURS[kind]}">{kind}</tspan>' for kind in kinds
    )
    return f'<text x="{right}" y="18" text-anchor="end">{spans}</text>'
