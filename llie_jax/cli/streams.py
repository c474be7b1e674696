"""Standard output and error that no name and no closed pipe can stop."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any


def make_robust() -> None:
    """Lets the work go on whatever becomes of its messages.

    Characters that the terminal's encoding lacks, and bytes of names that are no UTF-8,
    are escaped. Once the reader of a pipe has gone (`| head`), output goes nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if stream is getattr(sys, f"__{name}__") and stream is not None:
            setattr(sys, name, _Surviving(stream))


class _Surviving:
    """A text stream that a closed pipe does not stop."""

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text; returns its length."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        self._attempt(self._stream.flush)

    def _attempt(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except BrokenPipeError:
            # What is buffered, and all that follows, goes where nobody reads it.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
