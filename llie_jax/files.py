"""Files and folders: written completely or not at all, and tried before long work.

JSON has no NaN and no infinity: in every file of ours they are the strings "nan", "inf"
and "-inf", which `plain` writes and `number` reads.
"""

import contextlib
import math
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any


def writable_folder(
    folder: str | os.PathLike,
    *,
    hint: str = "choose another folder",
    create: bool = True,
) -> pathlib.Path:
    """Makes a folder and tries it, so that long work is not lost at its end.

    Args:
        folder: the folder.
        hint: what an error tells the user to do.
        create: False makes nothing and tries the nearest folder above that exists.

    Returns:
        The folder.

    Raises:
        OSError: if nothing can be written there.
    """
    folder = pathlib.Path(folder)
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"Cannot write to {folder} ({error.strerror}); {hint}."
        ) from error
    return folder


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary name beside `path`, and renames it to `path` on success.

    So `path` is complete or as it was before, whatever interrupts the writing.
    """
    path = pathlib.Path(path)
    # Not tempfile: its files are private, a result has the rights of any new file.
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    )
    try:
        temporary.touch()
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def inside(folder: str | os.PathLike, name: str, *, suffix: str = "") -> pathlib.Path:
    """Returns the path of a file in a folder, for a name that comes from data.

    Args:
        folder: the folder that the file must stay in.
        name: the name, such as "photo" or "scene/photo"; as it comes, so not trusted.
        suffix: the file's ending, appended to the name.

    Raises:
        ValueError: if the name is empty, absolute or leaves the folder.
    """
    parts = re.split(r"[/\\]", name)  # either separator, whatever machine reads it
    if (
        not {"", ".", ".."}.isdisjoint(parts)
        or "\0" in name
        or (len(parts) > 1 and re.fullmatch("[A-Za-z]:", parts[0]))
    ):
        raise ValueError(
            f"The name {name!r} does not stay inside {folder}: a file is named by a "
            "relative path without '.', '..' or empty parts. Rename the pair or image."
        )
    return pathlib.Path(folder).joinpath(*parts[:-1], parts[-1] + suffix)


def plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: "inf", "-inf" and "nan" are strings.

    Args:
        value: numbers, strings, None, and lists and mappings of these.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value


def number(value: Any) -> Any:
    """Returns what `plain` made of a number as that number, and all else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value
