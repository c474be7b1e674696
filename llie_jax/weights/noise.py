"""Keeps what Orbax prints from its threads away from our one clear line.

When one array of a checkpoint cannot be read, the other reads that are under way fail
too. Each then prints a traceback, at once or when its future is collected.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from absl import logging as absl_logging

_before = sys.unraisablehook


def _hook(unraisable) -> None:
    code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
    reads = code is not None and "orbax" in code.co_filename
    if not reads and str(unraisable.exc_value) != "Event loop is closed":
        _before(unraisable)


_READERS = ("orbax", "tensorstore", "ocdbt")
"""What errors of reading a checkpoint name, in small letters."""


def _is_wanted(line: logging.LogRecord) -> bool:
    text = str(line.msg).lower()
    reads = any(name in text for name in _READERS)
    return not (reads and "exception was never retrieved" in text)


sys.unraisablehook = _hook
logging.getLogger("asyncio").addFilter(_is_wanted)


def silence() -> None:
    """Silences Orbax for good; errors are raised all the same."""
    absl_logging.set_verbosity(absl_logging.FATAL)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings of Orbax, such as that a manager for reading is read-only."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(verbosity)
