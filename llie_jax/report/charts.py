"""Charts as SVG: curves, axes, ticks."""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

_POINTS = 400  # per curve; more would be invisible
_SMALLEST = 1e-100  # on a logarithmic axis; ticks below would be zero


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns at most `_POINTS` points, each the mean of neighbouring ones."""
    if len(points) <= _POINTS:
        return points
    parts = np.array_split(np.asarray(points, np.float64), _POINTS)
    return [tuple(part.mean(axis=0).tolist()) for part in parts]


def curves(name: str, series: Mapping[str, list[tuple[float, float]]]) -> str:
    """Returns an SVG of the curves, "" if there is nothing to draw.

    The validation curve has a marker at each point, with its value as a tooltip.
    """
    series = {key: points for key, points in series.items() if points}
    if not series:
        return ""
    width, height, left, right, top, bottom = 480, 270, 52, 12, 30, 30
    steps = [x for points in series.values() for x, _ in points]
    values = [y for points in series.values() for _, y in points]
    # A loss that falls by orders of magnitude is unreadable on a linear axis.
    lowest, highest = min(values), max(values)
    log_scale = name == "loss" and lowest > _SMALLEST and highest > 10 * lowest
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


def heading(name: str) -> str:
    """Returns the name of a chart, at its upper left, as SVG."""
    return f'<text class="name" x="8" y="18">{html.escape(name)}</text>'


def legend(right: float, colours: Mapping[str, str]) -> str:
    """Returns labels in their colours, at the upper right of a chart, as SVG.

    Args:
        right: where the last label ends.
        colours: label -> CSS colour.
    """
    spans = "".join(
        f'<tspan dx="12" style="fill:{colour}">{html.escape(label)}</tspan>'
        for label, colour in colours.items()
    )
    return f'<text x="{right}" y="18" text-anchor="end">{spans}</text>'


def svg_figure(parts: Iterable[str], width: float, height: float, name: str) -> str:
    """Returns a chart of SVG elements, with a name for screen readers."""
    return (
        f'<figure class="chart" style="margin-top:1.25rem"><svg viewBox="0 0 {width} '
        f'{height}" role="img" aria-label="{html.escape(name)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns a non-empty range around the values."""
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
    """Returns 1, 2 and 5 times each power of ten, between 10^low and 10^high."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    values = [m * 10.0**decade for decade in decades for m in (1, 2, 5)]
    return [value for value in values if low <= math.log10(value) <= high]
