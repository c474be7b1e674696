"""Writes a self-contained HTML page that works offline.

Pictures are embedded, charts are SVG (see `charts`), and the template's small script
only moves sliders and sorts tables.
"""

import base64
import html
import importlib.resources
import io as bytes_io
import json
import os
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from llie_jax import files

_JPEG_QUALITY = 85


def write_page(path: str | os.PathLike, title: str, sections: Sequence[str]) -> None:
    """Writes sections of HTML as one page, completely or not at all."""
    template = importlib.resources.files(__package__).joinpath("page.html")
    page = string.Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title), body="\n".join(filter(None, sections))
    )
    with files.atomic(path) as temporary:
        temporary.write_bytes(page.encode(errors="backslashreplace"))


def data_uri(image: np.ndarray, *, kind: str = "jpeg") -> str:
    """Returns an image as a data URI, for an `src` attribute.

    Args:
        image: uint8 [H, W, 3].
        kind: "jpeg" for photos, or "png" for other images.
    """
    buffer = bytes_io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, quality=_JPEG_QUALITY)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{content}"


def settings_table(facts: Mapping[str, Any]) -> str:
    """Returns a table of the facts that numbers depend on: name -> value."""
    lines = rows([(name, str(value)) for name, value in facts.items()])
    return f"<h2>Settings</h2><table class='settings'>{lines}</table>"


def figure(
    uri: str, name: str, note: str = "", *, alt: str, height: str = "auto"
) -> str:
    """Returns a picture with square pixels and a caption.

    Args:
        uri: the picture, see `data_uri`.
        name: of the picture.
        note: stands beside the name.
        alt: describes the picture to screen readers.
        height: of the picture as CSS; its width is that of the column.
    """
    name, note, alt = map(html.escape, (name, note, alt))
    return (
        f"<figure><img src='{uri}' alt='{alt}' style='display:block;width:100%;"
        f"height:{height};image-rendering:pixelated'><figcaption><b>{name}</b>"
        f"<span class='soft'>{note}</span></figcaption></figure>"
    )


def sortable_table(
    heads: Sequence[str], lines: Mapping[str, Sequence[tuple[float, str]]]
) -> str:
    """Returns a table with a row for each name; clicking a heading sorts it.

    Args:
        heads: the headings, that of the names first.
        lines: name -> values, each as a number to sort by and as text.
    """
    head = "".join(f"<th><button>{html.escape(text)}</button></th>" for text in heads)
    body = []
    for name, values in lines.items():
        name = html.escape(name)
        cells = "".join(
            f'<td data-value="{number(value)}">{html.escape(text)}</td>'
            for value, text in values
        )
        body.append(f'<tr><td data-value="{name}">{name}</td>{cells}</tr>')
    return (
        '<div class="scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(body)}</tbody></table>"
        "</div>"
    )


def number(value: float) -> str:
    """Returns a number as JavaScript can parse it."""
    return str(value).replace("inf", "Infinity")


def rows(lines: Sequence[Sequence[str]]) -> str:
    """Returns table rows, one per line of cells."""
    cells = (
        "".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines
    )
    return "".join(f"<tr>{row}</tr>" for row in cells)


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flattens a nested mapping to (dotted key, text) pairs."""
    lines = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            lines.append((f"{prefix}{key}", text))
    return lines
