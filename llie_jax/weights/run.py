"""What lies in the folder of a run."""

import json
import os
import pathlib
import warnings
from typing import Any

from llie_jax import files


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a `log.jsonl`; none if it is missing.

    A line is an object with a whole number `step`. Others are left out, with a warning:
    a kill can cut a line, and a disk can damage it. Values that are not finite are
    floats, as they were before they were written.
    """
    path = pathlib.Path(path)
    lines, left_out = [], 0
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        if not text.strip():
            continue
        if (line := _log_line(text)) is None:
            left_out += 1
        else:
            lines.append(line)
    if left_out:
        what = "line is" if left_out == 1 else "lines are"
        warnings.warn(
            f"{left_out} {what} left out of {path}: damaged, or no object with a step.",
            stacklevel=2,
        )
    return lines


def _log_line(text: bytes) -> dict[str, Any] | None:
    """Returns a line of a log, None if it is none."""
    try:
        line = json.loads(text)
        step = line["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # a text that is not UTF-8 is a ValueError too
    if type(step) is not int or not 0 <= step < 2**63:
        return None
    return {key: files.number(value) for key, value in line.items()}
