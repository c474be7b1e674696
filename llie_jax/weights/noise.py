"""Keeps what Orbax prints from its threads away from our one clear line.

When one array of a checkpoint cannot be read or written, what else is under way fails
too. Each then prints a traceback, at once or when its future is collected.
"""

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator

from absl import logging as absl_logging

_LIBRARIES = ("orbax", "tensorstore", "ocdbt")
"""Names in such tracebacks, in lower case."""

_before = sys.unraisablehook


def _hook(unraisable) -> None:
    code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
    reads = code is not None and "orbax" in code.co_filename
    if not reads and str(unraisable.exc_value) != "Event loop is closed":
        _before(unraisable)


def _is_wanted(line: logging.LogRecord) -> bool:
    if "exception was never retrieved" not in str(line.msg):
        return True
    text = str(line.msg)
    if line.exc_info:
        text += "".join(traceback.format_exception(*line.exc_info))
    return not any(name in text.lower() for name in _LIBRARIES)


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
