"""Building blocks of error messages: the nearest known name, and short lists."""

import difflib
from collections.abc import Iterable
from typing import Any


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
