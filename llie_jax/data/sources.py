"""Sources: sequences of records, each with its images, name and scene.

`opening.open_source` opens one by the name of a data set or by a folder.
"""

import abc
import concurrent.futures
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llie_jax import files, messages
from llie_jax.data import catalogue, frames, locating, scanning
from llie_jax.data.dataset import WHOLE, Dataset
from llie_jax.image import io, levels, reading, resize
from llie_jax.image.reading import Header
from llie_jax.types import Record

_THREADS = 4  # decoding releases the GIL; more threads only use more memory


class Group(NamedTuple):
    """Consecutive records of a source that training draws alike.

    Attributes:
        label: names them in logs.
        count: how many records there are.
        repeat: how often an epoch shows each of them.
        weight: their share of the samples, relative to other groups; 0 uses `repeat`.
    """

    label: str
    count: int
    repeat: float = 1.0
    weight: float = 0.0


class Source(abc.ABC):
    """A sequence of records, sorted by name; can be pickled.

    Attributes:
        name: the data set.
        split: "train", "test", ..., or "all" for a folder without splits.
        keys: the images of every record: `image` first; `target` and others if the set
            has them.
        names: the names of the records, sorted.
        scenes: the scene of each record; records of one scene show the same place.
        expected_counts: published number of records per split; empty if none is
            published.
        size: (height, width) to which the set resizes all images, or None.
        groups: how training draws the records, in order; a mixture has several.
    """

    name: str
    split: str
    keys: tuple[str, ...]
    names: Sequence[str]
    scenes: Sequence[str]
    expected_counts: Mapping[str, int]
    size: tuple[int, int] | None = None

    @abc.abstractmethod
    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        """Returns the bytes of an image file, and its name for error messages."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """How training draws the records: in a single group, each once."""
        return (Group(self.name, len(self)),)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        """Returns the record with its images decoded, [H, W, 3], upright.

        They are as deep as their files: uint8, uint16, or float32 in [0, 1].

        Raises:
            IndexError: if the index is out of range.
            ValueError: if a file is damaged, or the sizes differ; names the files.
        """
        index = range(len(self))[index]
        images, files = {}, {}
        for key in self.keys:
            data, files[key] = self._read(index, key)
            images[key] = self._decode(data, files[key])
        first = self.keys[0]
        for key, image in images.items():
            if image.shape != images[first].shape:
                raise ValueError(
                    f"The sizes of a pair differ: {files[first]} is "
                    f"{describe_size(images[first])}, {files[key]} is "
                    f"{describe_size(image)} (height x width)."
                )
        return {"name": self.names[index], "scene": self.scenes[index], **images}

    def image(self, index: int, key: str) -> np.ndarray:
        """Returns a single image of a record, as `source[index]` has it."""
        return self._decode(*self._read(index, key))

    def _decode(self, data: bytes, file: str) -> np.ndarray:
        if frames.is_frame(file):
            image = frames.decode(data, file)
        else:
            image = io.decode_rgb(data, name=file)
        return resize.resize(image, self.size) if self.size else image

    def identity(self, index: int, key: str) -> Hashable:
        """Returns what is equal for records that share an image's file."""
        return index, key

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image of a record, without decoding pixels.

        Raises:
            ValueError: if the file is not an image; names the file.
        """
        data, file = self._read(index, key)
        return io.decode_header(data, name=file)

    def byte_size(self, index: int, key: str) -> int | None:
        """Returns the size of an image file of a record, in bytes.

        None if it is not known without reading the file, and of `.npy` frames, which a
        prepared set holds as PNGs.
        """
        return None

    def content_digest(self, index: int, key: str) -> str:
        """Returns the SHA-256 of the decoded pixels of an image, its size and dtype."""
        image = self.image(index, key)
        digest = hashlib.sha256(f"{image.dtype} {image.shape}\n".encode())
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def sizes(self) -> np.ndarray:
        """Returns the sizes of all records, int32 [N, 2] of (H, W)."""
        if self.size:
            return np.tile(np.array(self.size, np.int32), (len(self), 1))
        headers = parallel_map(
            lambda index: self.header(index, "image"), range(len(self))
        )
        sizes = [(header.height, header.width) for header in headers]
        return np.array(sizes, np.int32).reshape(-1, 2)

    def dtypes(self) -> dict[str, np.dtype]:
        """Returns the dtype that holds the images of all records, by key."""
        return {
            key: levels.deepest(
                parallel_map(
                    lambda index, key=key: self.header(index, key).dtype,
                    range(len(self)),
                )
            )
            for key in self.keys
        }

    def fingerprint(self) -> str:
        """Returns a hash of the record names, 16 hex digits."""
        names = "\n".join(self.names).encode(errors="surrogateescape")
        return hashlib.sha256(names).hexdigest()[:16]

    def note(self) -> str:
        """Returns e.g. "20 of 485: a subset", or "" for the published count."""
        expected = self.expected_counts.get(self.split)
        if expected is None or len(self) == expected:
            return ""
        kind = "a subset" if len(self) < expected else "more than were published"
        return f"{len(self)} of {expected}: {kind}"


@dataclasses.dataclass(frozen=True)
class FolderSource(Source):
    """Files in folders, one folder per key; made by `open_parts`.

    Attributes:
        files: the files of each record, in the order of the keys.
    """

    name: str
    split: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    scenes: tuple[str, ...]
    files: tuple[tuple[pathlib.Path, ...], ...]
    expected_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] | None = None

    def path(self, index: int, key: str) -> pathlib.Path:
        """Returns the file of an image."""
        return self.files[index][self.keys.index(key)]

    identity = path

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        path = self.path(index, key)
        return path.read_bytes(), str(path)

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image; reads no more of the file."""
        path = self.path(index, key)
        if frames.is_frame(path.name):
            with path.open("rb") as file:
                return frames.decode_header(file.read(512), str(path))
        return reading.read_header(path)

    def byte_size(self, index: int, key: str) -> int | None:
        """Returns the size of an image file, without reading it; None of a frame."""
        path = self.path(index, key)
        return None if frames.is_frame(path.name) else files.size(path)


class SubsetSource(Source):
    """A subset of the records of another source, in the same order.

    It has no expected counts: published counts refer to the whole set.
    """

    def __init__(self, source: Source, indices: Sequence[int], *, split: str):
        self.source = source
        self.indices = tuple(indices)
        self.name = source.name
        self.split = split
        self.keys = source.keys
        self.names = tuple(source.names[index] for index in self.indices)
        self.scenes = tuple(source.scenes[index] for index in self.indices)
        self.expected_counts = {}
        self.size = source.size
        ends = np.cumsum([group.count for group in source.groups])
        counts = np.bincount(
            np.searchsorted(ends, self.indices, "right"), minlength=len(ends)
        )
        self._groups = tuple(
            group._replace(count=int(count))
            for group, count in zip(source.groups, counts, strict=True)
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the source, with what the subset has of them."""
        return self._groups

    def __getitem__(self, index: int) -> Record:
        """Returns the record, as its source has it."""
        return self.source[self.indices[index]]

    def image(self, index: int, key: str) -> np.ndarray:
        """Returns a single image of a record, as its source has it."""
        return self.source.image(self.indices[index], key)

    def sizes(self) -> np.ndarray:
        """Returns the sizes of all records, int32 [N, 2] of (H, W)."""
        return self.source.sizes()[list(self.indices)]

    def dtypes(self) -> dict[str, np.dtype]:
        """Returns the dtype that holds the images of the whole source, by key."""
        return self.source.dtypes()

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        return self.source._read(self.indices[index], key)

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image, as its source reads it."""
        return self.source.header(self.indices[index], key)

    def byte_size(self, index: int, key: str) -> int | None:
        """Returns the size of an image file, as its source knows it."""
        return self.source.byte_size(self.indices[index], key)

    def identity(self, index: int, key: str) -> Hashable:
        """Returns what is equal for records that share an image's file."""
        return self.source.identity(self.indices[index], key)


def check_keys(source: Source, keys: Iterable[str], user: str) -> None:
    """Checks that the records of a source have the needed images.

    Args:
        source: the source.
        keys: the needed images.
        user: what needs them, the subject of the message.

    Raises:
        ValueError: naming the missing and the available images.
    """
    absent = [key for key in keys if key not in source.keys]
    if absent:
        raise ValueError(
            f"{user} needs {messages.listed(absent)}; the records of {source.name} "
            f"{source.split} have {messages.listed(source.keys)} only."
        )


def open_parts(
    parts: locating.Parts,
    *,
    dataset: Dataset = catalogue.DATASETS["paired_folder"],
    split: str = WHOLE,
) -> FolderSource:
    """Opens the records of a split.

    Args:
        parts: the folders, as `locating.locate` finds them.
        dataset: the data set, which says how files pair.
        split: the split.

    Raises:
        ValueError: if there is no image, two files share a name, or a file has no
            partner; names the files.
        OSError: if a folder cannot be read.
    """
    found = scanning.scan(parts, dataset)
    folders = [folder for part in parts for folder in part.folders]
    where = " and ".join(map(str, folders))
    if problems := found.problems():
        problems += [found.not_read()] if found.skipped else []
        wrong = "do not pair" if len(folders) > 1 else "cannot be used"
        advice = "Input and target need the same name; " if len(folders) > 1 else ""
        raise ValueError(
            f"{where} {wrong}: {'; '.join(problems)}. {advice}add, rename or remove "
            "files."
        )
    if not found.files:
        raise ValueError(scanning.no_images(where, found))
    messages.note("; ".join(found.notes()) and f"{where}: {'; '.join(found.notes())}.")
    return folder_source(found, dataset, split)


def folder_source(scan: scanning.Scan, dataset: Dataset, split: str) -> FolderSource:
    """Returns a source of the files that a scan found."""
    return FolderSource(
        name=dataset.name,
        split=split,
        keys=dataset.keys,
        names=tuple(scan.files),
        scenes=tuple(map(dataset.scene, scan.files)),
        files=tuple(scan.files.values()),
        expected_counts=dataset.counts,
        size=dataset.size,
    )


def choose_split(split: str | None, available: list[str], *, where: str) -> str:
    """Returns the split to open.

    Raises:
        ValueError: if the split is absent, or not given and there are several.
    """
    if available == [WHOLE]:
        return WHOLE
    if split is None and len(available) == 1:
        return available[0]
    if split not in available:
        asked = "Choose a split" if split is None else f"There is no split {split!r}"
        raise ValueError(
            f"{asked} of {where}: it has {', '.join(available)}."
            + (messages.suggest(split, available) if split else "")
        )
    return split


def parallel_map(function: Callable, items: Iterable) -> list:
    """Returns `[function(item) for item in items]`, computed by a few threads."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def describe_size(image: np.ndarray) -> str:
    """Returns e.g. "400 x 600", height first."""
    return f"{image.shape[0]} x {image.shape[1]}"
