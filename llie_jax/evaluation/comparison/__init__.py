"""Scores of several models side by side: one page, Markdown and LaTeX."""

import os
import pathlib
from collections.abc import Sequence

from llie_jax import files, messages
from llie_jax.evaluation.comparison import page, results, tables
from llie_jax.evaluation.comparison.grouping import Comparison
from llie_jax.report import tables as table_texts

PAGE, MARKDOWN, LATEX = "compare.html", "compare.md", "compare.tex"


def compare(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    published: str = "ours",
) -> list[pathlib.Path]:
    """Writes a comparison of scores as a page, as Markdown and as LaTeX.

    Args:
        inputs: runs, folders and score files, see `results.read`.
        out: the folder of the three files.
        published: which printed numbers are shown, one of `tables.SHOWN`.

    Returns:
        The files.

    Raises:
        OSError: if an input is missing, or `out` cannot be written.
        ValueError: if an input is not a score file, or the same score is given twice.
    """
    if published not in tables.SHOWN:
        raise ValueError(
            f"published is {published!r}; accepted: {', '.join(tables.SHOWN)}."
            f"{messages.suggest(published, tables.SHOWN)}"
        )
    comparison = Comparison(results.read(inputs))
    out = files.writable_folder(out)
    found = [
        *tables.score_tables(comparison),
        *tables.published_tables(comparison, published),
        *tables.pair_tables(comparison),
    ]
    if costs := tables.cost_table(comparison):
        found.append(costs)
    page.write(out / PAGE, comparison, found)
    markdown = "\n".join(table_texts.to_markdown(table) for table in found)
    latex = "\n".join(table_texts.to_latex(table) for table in found)
    _write(out / MARKDOWN, f"# Comparison\n\n{markdown}")
    _write(out / LATEX, f"% Needs the package booktabs.\n{latex}")
    return [out / PAGE, out / MARKDOWN, out / LATEX]


def _write(path: pathlib.Path, text: str) -> None:
    with files.atomic(path) as temporary:
        temporary.write_bytes(text.encode(errors="backslashreplace"))
