"""Output helpers that subcommands share."""

import json
import os
import sys
from typing import Any

from rich.console import Console

from llie_jax import files, messages

_PIPE_WIDTH = 160


def console() -> Console:
    """Returns a console for results; wide if the output is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def shown(path: str | os.PathLike) -> str:
    """Returns a path for standard output: as it is, or safe for a terminal."""
    text = os.fspath(path)
    return messages.printable(text) if sys.stdout.isatty() else text


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file, completely or not at all."""
    path = files.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json_argument(text: str, option: str) -> dict[str, Any]:
    """Returns the JSON object given for an option.

    Raises:
        ValueError: if it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not JSON ({error}): {text}") from None
    if not isinstance(value, dict):
        raise ValueError(f'{option} needs a JSON object like {{"width": 64}}: {text}')
    return value
