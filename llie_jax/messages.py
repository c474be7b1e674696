"""Building blocks of messages: notes, the nearest known name, and short lists."""

import difflib
import warnings
from collections.abc import Iterable
from typing import Any


class Note(UserWarning):
    """What a user should know about a result; commands print it as one line."""


def note(text: str) -> None:
    """Warns with a `Note`, unless the text is empty."""
    if text:
        warnings.warn(text, Note, stacklevel=3)


def printable(text: str) -> str:
    """Returns a text with control characters and lone surrogates escaped.

    Names of files and records come from data: they may hold what moves a terminal's
    cursor, or bytes that are no UTF-8.
    """
    return "".join(
        c if c.isprintable() or c == " " else c.encode("unicode_escape").decode()
        for c in text
    )


def suggest(name: str, options: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest option, or "" if none is near."""
    near = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def listed(items: Iterable[Any], *, limit: int | None = None) -> str:
    """Returns "a, b and 3 more" for a message, or "none" if there are no items.

    Args:
        items: what to list.
        limit: how many to show; None shows all.
    """
    items = [str(item) for item in items]
    more = len(items) - len(items[:limit])
    return (", ".join(items[:limit]) or "none") + (f" and {more} more" if more else "")
