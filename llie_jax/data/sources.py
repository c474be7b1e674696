"""Sources: sequences of records, each with its images, name and scene.

`opening.open_source` opens one by the name of a data set or by a folder.
"""

import abc
import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import os
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from llie_jax import messages
from llie_jax.data import catalogue
from llie_jax.image import formats, io, levels, reading
from llie_jax.image.reading import Header
from llie_jax.types import Record

_THREADS = 4  # decoding releases the GIL; more threads only use more memory


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
    """

    name: str
    split: str
    keys: tuple[str, ...]
    names: Sequence[str]
    scenes: Sequence[str]
    expected_counts: Mapping[str, int]

    @abc.abstractmethod
    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        """Returns the bytes of an image file, and its name for error messages."""

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
            images[key] = io.decode_rgb(data, name=files[key])
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
        data, file = self._read(index, key)
        return io.decode_rgb(data, name=file)

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image of a record, without decoding pixels.

        Raises:
            ValueError: if the file is not an image; names the file.
        """
        data, file = self._read(index, key)
        return io.decode_header(data, name=file)

    def byte_size(self, index: int, key: str) -> int:
        """Returns the size of an image file of a record, in bytes."""
        return len(self._read(index, key)[0])

    def content_digest(self, index: int, key: str) -> str:
        """Returns the SHA-256 of an image file of a record."""
        return hashlib.sha256(self._read(index, key)[0]).hexdigest()

    def sizes(self) -> np.ndarray:
        """Returns the sizes of all records, int32 [N, 2] of (H, W)."""
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
    """Files in folders, one folder per key; made by `open_folders`.

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

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        path = self.files[index][self.keys.index(key)]
        return path.read_bytes(), str(path)

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image; reads no more of the file."""
        return reading.read_header(self.files[index][self.keys.index(key)])

    def byte_size(self, index: int, key: str) -> int:
        """Returns the size of an image file, without reading it."""
        return self.files[index][self.keys.index(key)].stat().st_size


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

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        return self.source._read(self.indices[index], key)

    def header(self, index: int, key: str) -> Header:
        """Returns the header of an image, as its source reads it."""
        return self.source.header(self.indices[index], key)

    def byte_size(self, index: int, key: str) -> int:
        """Returns the size of an image file, as its source knows it."""
        return self.source.byte_size(self.indices[index], key)


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


@dataclasses.dataclass(frozen=True)
class Scan:
    """The files in the folders of a split.

    Attributes:
        files: name -> (input file, target file), (input file,) without a folder of
            targets, or (first exposure, second exposure); in sorted order.
        inputs_alone: input files without a target.
        targets_alone: target files without an input.
        doubles: files whose name another file of the folder already has.
        scenes_alone: folders of scenes with a single exposure.
        skipped: how many other files the folders hold, by ending.
        respelt: how many names pair only in Unicode's composed form (NFC).
    """

    files: dict[str, tuple[pathlib.Path, ...]]
    inputs_alone: list[pathlib.Path]
    targets_alone: list[pathlib.Path]
    doubles: list[str]
    scenes_alone: list[pathlib.Path] = dataclasses.field(default_factory=list)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    respelt: int = 0

    def notes(self) -> list[str]:
        """Returns a phrase for each thing that a user should know."""
        found = [self.not_read()] if self.skipped else []
        if self.respelt:
            found.append(
                f"{self.respelt} names pair although their accents are encoded "
                "differently (Unicode NFC and NFD)"
            )
        return found

    def not_read(self) -> str:
        """Returns how many files of which kinds are not read, "" if all are."""
        return formats.describe_skipped(self.skipped)

    def problems(self) -> list[str]:
        """Returns a phrase for each kind of problem, naming the first files."""
        found = []
        if self.inputs_alone:
            found.append(f"inputs without a target: {_some(self.inputs_alone)}")
        if self.targets_alone:
            found.append(f"targets without an input: {_some(self.targets_alone)}")
        if self.doubles:
            found.append(f"two files with the same name: {_some(self.doubles)}")
        if self.scenes_alone:
            found.append(f"scenes with a single exposure: {_some(self.scenes_alone)}")
        return found


def scan(folders: catalogue.Folders, dataset: catalogue.Dataset) -> Scan:
    """Lists the records in the folders of a split, as its data set arranges them."""
    if "second" in dataset.keys:
        return scan_scenes(*folders)
    return scan_folders(*folders, target_name=dataset.target_name)


def scan_scenes(folder: str | os.PathLike) -> Scan:
    """Lists the ordered pairs of different exposures of each scene.

    The pair of `cafe/1.png` and `cafe/3.png` is named `cafe/1-3`.

    Args:
        folder: has a folder for each scene, with its exposures.
    """
    files, alone, doubles = {}, [], []
    skipped = collections.Counter()
    for scene in catalogue.scene_folders(folder):
        exposures = {}
        found = io.list_folder(scene)
        skipped.update(found.skipped)
        for path in found.images:
            if path.stem in exposures:
                doubles.append(str(path))
            exposures.setdefault(path.stem, path)
        if len(exposures) == 1:
            alone.append(scene)
        for first, second in itertools.permutations(sorted(exposures), 2):
            name = f"{scene.name}/{first}-{second}"
            files[name] = (exposures[first], exposures[second])
    return Scan(dict(sorted(files.items())), [], [], doubles, alone, skipped)


def scan_folders(
    inputs: str | os.PathLike,
    targets: str | os.PathLike | None = None,
    *,
    target_name: Callable[[str], str] = catalogue.same_name,
) -> Scan:
    """Lists the images of one folder, or of two paired by name, without reading them.

    Args:
        inputs: the folder of low-light images.
        targets: the folder of references; None if there are none.
        target_name: input name -> target name, both without suffix.
    """
    doubles: list[str] = []
    skipped = collections.Counter()

    def by_name(folder) -> dict[str, pathlib.Path]:
        files: dict[str, pathlib.Path] = {}
        found = io.list_folder(folder)
        skipped.update(found.skipped)
        for path in found.images:
            name = unicodedata.normalize("NFC", path.stem)
            if name in files:
                doubles.append(str(path))
            files.setdefault(name, path)
        return files

    input_files = by_name(inputs)
    if targets is None:
        files = {name: (input_files[name],) for name in sorted(input_files)}
        return Scan(files, [], [], doubles, skipped=skipped)
    target_files = by_name(targets)
    wanted = {name: target_name(name) for name in sorted(input_files)}
    used = set(wanted.values())
    files = {
        name: (input_files[name], target_files[target])
        for name, target in wanted.items()
        if target in target_files
    }
    return Scan(
        files=files,
        inputs_alone=[
            input_files[name]
            for name, target in wanted.items()
            if target not in target_files
        ],
        targets_alone=[file for name, file in target_files.items() if name not in used],
        doubles=doubles,
        skipped=skipped,
        respelt=sum(
            target_name(image.stem) != target.stem
            and unicodedata.is_normalized("NFC", image.stem)
            != unicodedata.is_normalized("NFC", target.stem)
            for image, target in files.values()
        ),
    )


def open_folders(
    folders: catalogue.Folders,
    *,
    dataset: catalogue.Dataset = catalogue.DATASETS["paired_folder"],
    split: str = catalogue.WHOLE,
) -> FolderSource:
    """Opens the records in the folders of a split.

    Args:
        folders: the folder of low-light images and, for a set of pairs, of references.
        dataset: the data set; its `target_name` is the pairing rule.
        split: the split.

    Raises:
        ValueError: if there is no image, two files share a name, or a file has no
            partner; names the files.
        OSError: if a folder cannot be read.
    """
    found = scan(folders, dataset)
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
        raise ValueError(no_images(where, found))
    messages.note("; ".join(found.notes()) and f"{where}: {'; '.join(found.notes())}.")
    return folder_source(found, dataset, split)


def no_images(where: str, found: Scan) -> str:
    """Returns the message for folders without images."""
    others = f" ({found.not_read()})" if found.skipped else ""
    return (
        f"There are no images in {where}{others}; supported suffixes: "
        f"{formats.listed()}."
    )


def folder_source(scan: Scan, dataset: catalogue.Dataset, split: str) -> FolderSource:
    """Returns a source of the files that a scan found."""
    return FolderSource(
        name=dataset.name,
        split=split,
        keys=dataset.keys,
        names=tuple(scan.files),
        scenes=tuple(map(dataset.scene, scan.files)),
        files=tuple(scan.files.values()),
        expected_counts=dataset.counts,
    )


def choose_split(split: str | None, available: list[str], *, where: str) -> str:
    """Returns the split to open.

    Raises:
        ValueError: if the split is absent, or not given and there are several.
    """
    if available == [catalogue.WHOLE]:
        return catalogue.WHOLE
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


def _some(items: Sequence) -> str:
    """Returns the first names, and how many more there are."""
    return messages.listed(items, limit=5)
