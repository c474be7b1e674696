"""Which image files are read and written, and what a folder holds besides them.

Files are chosen by their ending, and opened by their content.
"""

import collections
import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping

WRITTEN = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
"""Endings that are read and written -> Pillow's name of the format."""

_LARGEST = {"WEBP": 16_383, "JPEG": 65_500, "AVIF": 65_536}
"""Format -> the longest side that it can hold, in pixels."""

HEIF = (".heic", ".heif", ".hif")
RAW = (
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".rw2", ".orf", ".pef"),
    *(".srw", ".3fr", ".iiq", ".erf", ".mrw", ".x3f"),
)
_EXTRAS = {
    **dict.fromkeys(HEIF, ("pillow_heif", "heic")),
    **dict.fromkeys(RAW, ("rawpy", "raw")),
}
"""Ending -> the library that reads it, and the extra that installs the library."""

READ = (
    *(*WRITTEN, ".apng", ".gif"),
    *(
        ending
        for ending, (library, _) in _EXTRAS.items()
        if importlib.util.find_spec(library)
    ),
)
"""Endings of image files that this installation reads, in lower case."""

FOLDER = "/"
"""What stands for a folder among the endings of files that are not read."""

# Other endings of pictures and films: `--out bright.psd` is a mistake, not a folder.
_OTHER = (
    *(".jp2", ".j2k", ".jxl", ".jxr", ".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr"),
    *(".psd", ".svg", ".ico", ".tga", ".dds", ".eps", ".pdf", ".npy", ".dib"),
    *(".mov", ".mp4", ".avi", ".mkv", ".webm", ".m4v"),
)


def is_read(path: pathlib.Path) -> bool:
    """Returns whether a file has the ending of an image that can be read."""
    return path.suffix.lower() in READ


def is_media(path: pathlib.Path) -> bool:
    """Returns whether a name has the ending of any picture or film, read or not."""
    return path.suffix.lower() in (*READ, *_EXTRAS, *_OTHER)


def listed(endings: Iterable[str] = READ) -> str:
    """Returns endings as text: ".png, .jpg"."""
    return ", ".join(endings)


def written_as(path: str | os.PathLike) -> str:
    """Returns Pillow's name for the format that a file is written in.

    Raises:
        ValueError: if its ending is not in `WRITTEN`.
    """
    suffix = pathlib.PurePath(path).suffix.lower()
    if suffix not in WRITTEN:
        raise ValueError(
            f"{path}: unknown image ending {suffix!r}; files are written as "
            f"{listed(WRITTEN)}."
        )
    return WRITTEN[suffix]


def check_holds(path: str | os.PathLike, height: int, width: int) -> None:
    """Checks that a file of a given name can hold an image.

    Raises:
        ValueError: if its ending is unknown, or its format has no place for the size.
    """
    kind = written_as(path)
    largest = _LARGEST.get(kind)
    if largest and max(height, width) > largest:
        raise ValueError(
            f"{path}: {kind} holds at most {largest} pixels a side, and this image has "
            f"{width} x {height}; write it as .png or .tif."
        )


def extra(ending: str) -> str:
    """Returns "install llie-jax[heic]" for an ending that needs an extra, or ""."""
    if ending in READ or ending not in _EXTRAS:
        return ""
    return f"install llie-jax[{_EXTRAS[ending][1]}]"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files directly inside a folder, or a choice of them.

    Attributes:
        images: those that are read, sorted by name.
        skipped: how many are not, by ending; `FOLDER` stands for folders.
    """

    images: list[pathlib.Path]
    skipped: Mapping[str, int]

    def __or__(self, other: "Listing") -> "Listing":
        """Returns the files of both."""
        skipped = collections.Counter(self.skipped)
        skipped.update(other.skipped)
        return Listing([*self.images, *other.images], skipped)


def list_files(files: Iterable[pathlib.Path], *, also: tuple[str, ...] = ()) -> Listing:
    """Divides files into images and others.

    Hidden files are left out (some systems put `._photo.png` beside `photo.png`).

    Args:
        files: the files.
        also: further endings that count as images, in lower case.
    """
    images, skipped = [], collections.Counter()
    for path in sorted(files):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            skipped[FOLDER] += 1
        elif is_read(path) or path.suffix.lower() in also:
            images.append(path)
        else:
            skipped[path.suffix.lower()] += 1
    return Listing(images, skipped)


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Returns "12 files not read: 7 .heic (install llie-jax[heic]), 5 .mov", or ""."""
    kinds = []
    for ending, number in sorted(skipped.items(), key=lambda item: (-item[1], item[0])):
        hint = f" ({extra(ending)})" if extra(ending) else ""
        if ending != FOLDER:
            kinds.append(f"{number} {ending or 'without ending'}{hint}")
    folders = skipped.get(FOLDER, 0)
    count = sum(skipped.values()) - folders
    found = []
    if count:
        shown = ", ".join(kinds[:5]) + (", ..." if len(kinds) > 5 else "")
        found.append(f"{count} {'file' if count == 1 else 'files'} not read: {shown}")
    if folders:
        found.append(f"{folders} {'folder' if folders == 1 else 'folders'} not read")
    return "; ".join(found)
