"""Files and folders: atomic writes, and checks before long work.

JSON has no NaN or infinity: our files hold them as the strings "nan", "inf" and "-inf",
which `plain` writes and `number` reads.
"""

import atexit
import contextlib
import errno
import functools
import math
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

BUCKETS = ("gs://", "s3://", "az://", "hf://")
"""How paths in buckets start."""


def path(name: str | os.PathLike) -> pathlib.Path:
    """Returns a local path, or one in a bucket (`gs://...`).

    Every function in this file passes its paths through it: `pathlib` would create a
    local folder named `gs:`.

    Raises:
        ValueError: if it looks like a bucket's path and is none.
    """
    text = os.fspath(name)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9]+):(?=/)|(gs|s3|az|hf):", text)
    if not scheme:
        return pathlib.Path(name)
    if not text.startswith(BUCKETS) or text in BUCKETS or text[5:6] == "/":
        raise ValueError(
            f"{text!r} is neither a local path nor one in a bucket; write "
            f"{BUCKETS[0]}BUCKET/FOLDER (or {', '.join(BUCKETS[1:])})."
        )
    from etils import epath  # takes 0.2 s, and local paths do not need it

    return epath.Path(name)


def is_local(name: str | os.PathLike) -> bool:
    """Returns whether a path is on this machine, and not in a bucket."""
    return isinstance(path(name), pathlib.Path)


def local(name: str | os.PathLike) -> pathlib.Path:
    """Returns a path on this machine.

    Raises:
        ValueError: if it is in a bucket.
    """
    found = path(name)
    if not isinstance(found, pathlib.Path):
        raise ValueError(f"{found} is in a bucket; here a local path is needed.")
    return found


def local_copy(name: str | os.PathLike) -> pathlib.Path:
    """Returns a path on this machine with the content of a file.

    For libraries that read local files only. The copy of a file in a bucket is made
    once, and removed when the process ends.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    found = path(name)
    if isinstance(found, pathlib.Path):
        return found
    status = found.stat()
    return _copy(found, status.length, status.mtime)


@functools.cache
def _copy(found, *version: int) -> pathlib.Path:
    """Returns the local copy of one version of a file."""
    folder = tempfile.TemporaryDirectory(prefix="llie_jax-")
    atexit.register(folder.cleanup)
    copy = pathlib.Path(folder.name, found.name)
    copy.write_bytes(found.read_bytes())
    return copy


def absolute(name: str | os.PathLike) -> pathlib.Path:
    """Returns a path that means the same from every working directory."""
    found = path(name)
    return found.absolute() if isinstance(found, pathlib.Path) else found


def writable_folder(
    folder: str | os.PathLike,
    *,
    hint: str = "choose another folder",
    create: bool = True,
) -> pathlib.Path:
    """Creates a folder and checks that it is writable, before long work starts.

    Args:
        folder: the folder.
        hint: what an error tells the user to do.
        create: False creates nothing and checks the nearest parent that exists.

    Returns:
        The folder.

    Raises:
        OSError: if nothing can be written there.
    """
    folder = path(folder)
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        there = next(each for each in (folder, *folder.parents) if each.exists())
        _try_to_write(there)
    except OSError as error:
        raise OSError(
            f"Cannot write to {folder} ({error.strerror}); {hint}."
        ) from error
    return folder


def _try_to_write(folder: pathlib.Path) -> None:
    if isinstance(folder, pathlib.Path):
        with tempfile.TemporaryFile(dir=folder):
            return
    trial = _temporary(folder / "trial")
    trial.touch()
    trial.unlink()


_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of writing that name no file."""


@contextlib.contextmanager
def _named(target: pathlib.Path, *also: pathlib.Path) -> Iterator[None]:
    """Lets an error of the system say which file could not be written.

    A full disk names none; `also` are names that the user does not know.
    """
    try:
        yield
    except OSError as error:
        names = {str(path) for path in (target, *also)}
        ours = not names.isdisjoint((error.filename, error.filename2))
        if not ours and not (error.filename is None and error.errno in _OF_DISKS):
            raise
        named = type(error)(f"Cannot write {target}: {error.strerror}.")
        named.errno = error.errno
        raise named from error


@contextlib.contextmanager
def atomic(
    target: str | os.PathLike, *, durable: bool = False
) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside a file, and renames it to the file on success.

    The file is either complete or unchanged, whatever interrupts the write. An error of
    a disk that names no file counts for this one, so read beforehand what goes into it.

    Args:
        target: the file.
        durable: makes that true of a loss of power too; takes milliseconds.

    Raises:
        OSError: if it cannot be written; names the file, unless it is in a bucket.
    """
    target = path(target)
    if not isinstance(target, pathlib.Path):
        # A bucket has no renaming, and an object appears as a whole.
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder, target.name)
            temporary.touch()
            yield temporary
            target.write_bytes(temporary.read_bytes())
        return
    temporary = _temporary(target)
    with _named(target, temporary):
        try:
            temporary.touch()
            yield temporary
            if durable:
                sync(temporary)
            temporary.replace(target)
            if durable:
                sync(target.parent)
        finally:
            with contextlib.suppress(OSError):  # it may never have been there
                temporary.unlink()


def size(name: str | os.PathLike) -> int:
    """Returns the size of a file in bytes, without reading it."""
    found = path(name)
    status = found.stat()
    return status.st_size if isinstance(found, pathlib.Path) else status.length


def sync(target: str | os.PathLike) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk.

    Nothing for a bucket, whose objects are durable once written.
    """
    target = path(target)
    if not isinstance(target, pathlib.Path):
        return
    try:
        descriptor = os.open(target, os.O_RDONLY)
    except PermissionError:
        if target.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: str | os.PathLike) -> None:
    """Waits until all files below a local folder are on the disk, with their names."""
    for place, _, names in os.walk(folder):
        for each in (*(os.path.join(place, name) for name in names), place):
            with contextlib.suppress(FileNotFoundError):  # another process moved it
                sync(each)


def check_output(
    target: str | os.PathLike, inputs: Iterable[str | os.PathLike] = ()
) -> None:
    """Checks that writing a file replaces no input.

    Args:
        target: the file to write.
        inputs: files that are read.

    Raises:
        ValueError: naming the file.
    """
    target = path(target)
    for each in map(path, inputs):
        both = is_local(target) and is_local(each) and each.exists()
        if target.exists() and (target == each or (both and target.samefile(each))):
            raise ValueError(
                f"{target} is an input and would be replaced; name another file."
            )


def check_json(target: str | os.PathLike) -> None:
    """Checks that a file to write is absent, or holds JSON that may be replaced.

    A slip of the pen, `--json results/1.png`, would replace a picture.

    Raises:
        ValueError: if it holds something else.
        OSError: if it is a folder, or cannot be read.
    """
    target = path(target)
    if not target.exists():
        return
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file.")
    with target.open("rb") as file:
        start = file.read(64).lstrip()
    if start and start[:1] not in b"{[":
        raise ValueError(
            f"{target} exists and is not JSON; it is not replaced. Name another file."
        )


def _temporary(target: pathlib.Path) -> pathlib.Path:
    # Not tempfile, whose files are private: a result gets the default permissions.
    return target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def append(target: str | os.PathLike, text: str) -> None:
    """Appends to a text file; an object in a bucket is rewritten.

    Raises:
        OSError: if it cannot be written; names a local file.
    """
    target = path(target)
    if isinstance(target, pathlib.Path):
        with _named(target), target.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        old = target.read_text() if target.exists() else ""
        with atomic(target) as temporary:
            temporary.write_text(old + text)


def inside(folder: str | os.PathLike, name: str, *, suffix: str = "") -> pathlib.Path:
    """Returns the path of a file in a folder, for a name that comes from data.

    Args:
        folder: the folder that the file must stay in.
        name: the name, such as "photo" or "scene/photo"; not trusted.
        suffix: the file's ending, appended to the name.

    Raises:
        ValueError: if the name is empty, absolute or leaves the folder.
    """
    parts = re.split(r"[/\\]", name)  # either separator, on every system
    if (
        not {"", ".", ".."}.isdisjoint(parts)
        or "\0" in name
        or (len(parts) > 1 and re.fullmatch("[A-Za-z]:", parts[0]))
    ):
        raise ValueError(
            f"The name {name!r} does not stay inside {folder}: a file is named by a "
            "relative path without '.', '..' or empty parts. Rename the pair or image."
        )
    return path(folder).joinpath(*parts[:-1], parts[-1] + suffix)


def plain(value: Any) -> Any:
    """Returns a value for JSON: "inf", "-inf" and "nan" become strings.

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
    """Returns the number that `plain` wrote as a string; other values unchanged."""
    return float(value) if value in ("nan", "inf", "-inf") else value
