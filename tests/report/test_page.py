"""Pieces of pages, whose texts may hold anything."""

import math

from llie_jax.report import charts, page


def test_figure():
    found = page.figure("data:x", "a<b", "c&d", alt="e'f", height="2rem")
    assert "src='data:x' alt='e&#x27;f'" in found
    assert "<b>a&lt;b</b><span class='soft'>c&amp;d</span>" in found
    assert "height:2rem" in found


def test_sortable_table():
    lines = {"a<b": [(1.25, "1.3"), (math.inf, "inf")]}
    found = page.sortable_table(["image", "x, dB", "y & z"], lines)
    assert found.count("<th><button>") == 3
    assert "y &amp; z" in found
    assert '<td data-value="a&lt;b">a&lt;b</td>' in found
    assert '<td data-value="1.25">1.3</td>' in found
    assert '<td data-value="Infinity">inf</td>' in found


def test_legend():
    found = charts.legend(90, {"a<b": "red", "c": "blue"})
    assert 'x="90"' in found
    assert found.count("<tspan") == 2
    assert 'style="fill:red">a&lt;b</tspan>' in found
