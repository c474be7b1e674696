"""Tables with groups of columns, as HTML, Markdown and LaTeX from one description."""

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence

from llie_jax.report import page


@dataclasses.dataclass(frozen=True)
class Number:
    """A number as text.

    Attributes:
        text: the number.
        marks: what makes it unlike others in its column; stands beside it.
    """

    text: str
    marks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        numbers: one, or several that stand below each other; none leaves it empty.
        value: what to sort by; None sorts last.
        best: whether it is the best of its column.
    """

    numbers: tuple[Number, ...] = ()
    value: float | None = None
    best: bool = False


def cell(text: str, value: float | None = None) -> Cell:
    """Returns a cell of one number without marks."""
    return Cell((Number(text),), value)


@dataclasses.dataclass(frozen=True)
class Group:
    """Neighbouring columns under one heading, "" for none."""

    heading: str
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: its heading.
        corner: the heading of the names of its rows.
        groups: its columns.
        rows: the name of each row, and its cells over all groups.
        note: one paragraph on what is shown.
        terms: names in its headings -> what they mean.
    """

    title: str
    corner: str
    groups: Sequence[Group]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""
    terms: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The headings of all columns."""
        return [column for group in self.groups for column in group.columns]

    @property
    def grouped(self) -> bool:
        """Whether any group has a heading."""
        return any(group.heading for group in self.groups)


def to_html(table: Table, level: int = 2) -> str:
    """Returns a table with its heading; clicking a column's heading sorts it."""
    parts = [f"<h{level}>{html.escape(table.title)}</h{level}>"]
    if table.note:
        parts.append(f'<p class="soft">{html.escape(table.note)}</p>')
    groups = "".join(
        f'<th class="first" colspan="{len(group.columns)}">'
        f"{html.escape(group.heading)}</th>"
        for group in table.groups
    )
    sides = [
        ' class="first"' * (index == 0)
        for group in table.groups
        for index in range(len(group.columns))
    ]
    first = f'<tr class="groups"><th></th>{groups}</tr>' if table.grouped else ""
    heads = "".join(
        f"<th{side}><button>{html.escape(text)}</button></th>"
        for text, side in zip((table.corner, *table.columns), ("", *sides), strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row" data-value="{html.escape(name)}">{html.escape(name)}</th>'
        f"{''.join(map(_html_cell, cells, sides))}</tr>"
        for name, cells in table.rows
    )
    parts.append(
        '<div class="scroll"><table class="sortable models">'
        f"<thead>{first}<tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
    terms = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in table.terms.items()
    )
    if terms:
        parts.append(f"<dl>{terms}</dl>")
    return "\n".join(parts)


def _html_cell(cell: Cell, side: str) -> str:
    value = "" if cell.value is None else page.number(cell.value)
    lines = []
    for number in cell.numbers:
        text = html.escape(number.text)
        text = f"<b>{text}</b>" if cell.best else text
        marks = (f"<small>{html.escape(mark)}</small>" for mark in number.marks)
        lines.append(f"<div>{text}{''.join(marks)}</div>")
    return f'<td{side} data-value="{value}">{"".join(lines) or "–"}</td>'


def to_markdown(table: Table, level: int = 2) -> str:
    """Returns a table with its heading; a column's heading names its group."""

    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = [
        f"{group.heading}: {column}" if group.heading else column
        for group in table.groups
        for column in group.columns
    ]
    lines = [f"{'#' * level} {_markdown(table.title)}", ""]
    if table.note:
        lines += [_markdown(table.note), ""]
    lines += [
        row([_markdown(head) for head in (table.corner, *heads)]),
        row(["---", *("---:" for _ in heads)]),
    ]
    for name, cells in table.rows:
        lines.append(row([_markdown(name), *map(_markdown_cell, cells)]))
    if table.terms:
        lines.append("")
    for name, text in table.terms.items():
        lines.append(f"* {_markdown(name)}: {_markdown(text)}")
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    lines = []
    for number in cell.numbers:
        text = _markdown(number.text)
        text = f"**{text}**" if cell.best else text
        marks = f" [{_markdown(', '.join(number.marks))}]" if number.marks else ""
        lines.append(text + marks)
    return "; ".join(lines) or "–"


def _markdown(text: str) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def to_latex(table: Table) -> str:
    """Returns a table for the package booktabs, with its title as the caption."""
    columns = "l" + "".join("r" * len(group.columns) for group in table.groups)
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_latex(table.title)}. {_latex(table.note)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    if table.grouped:
        cells, rules, left = [""], [], 2
        for group in table.groups:
            right = left + len(group.columns) - 1
            heading = _latex(group.heading)
            cells.append(rf"\multicolumn{{{len(group.columns)}}}{{c}}{{{heading}}}")
            rules.append(rf"\cmidrule(lr){{{left}-{right}}}")
            left = right + 1
        lines += [" & ".join(cells) + r" \\", "".join(rules)]
    heads = [_latex(text) for text in (table.corner, *table.columns)]
    lines += [" & ".join(heads) + r" \\", r"\midrule"]
    for name, cells in table.rows:
        lines.append(" & ".join([_latex(name), *map(_latex_cell, cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.terms:
        lines.append(r"\par\smallskip\raggedright\footnotesize")
    for name, text in table.terms.items():
        lines.append(rf"{_latex(name)}: {_latex(text)}\par")
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    lines = []
    for number in cell.numbers:
        text = _latex(number.text)
        lines.append(rf"\textbf{{{text}}}" if cell.best else text)
        lines += [rf"\scriptsize {_latex(mark)}" for mark in number.marks]
    if len(lines) < 2:
        return lines[0] if lines else "--"
    stacked = r" \\ ".join(lines)
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{stacked}\end{{tabular}}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def _latex(text: str) -> str:
    """Returns a text with LaTeX's special characters escaped, on one line."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))
