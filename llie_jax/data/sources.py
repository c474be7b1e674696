"""Pairs of a low-light image and its reference, by number.

A source is opened by the name of a data set or by a folder:

    open_source("lol_v1", split="train")        # $LLIE_JAX_DATA/lol_v1 or data/lol_v1
    open_source("lol_v1", root="/disk/LOL", split="test")
    open_source("my_photos")                    # my_photos/low and my_photos/high
    open_source("data/lol_v1/1.0.0")            # prepared by `llie-jax data prepare`
"""

import abc
import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax import messages
from llie_jax.data import catalogue
from llie_jax.image import io

Record = dict[str, Any]
"""One pair: `name` and `scene` (str), `image` and `target` (uint8 [H, W, 3], RGB)."""

_THREADS = 4  # decoding releases the interpreter lock; more threads only add memory


class PairedSource(abc.ABC):
    """A sequence of pairs in sorted name order; can be pickled.

    Attributes:
        name: the data set.
        split: "train", "test", ..., or "all" for a folder without splits.
        names: the names of the pairs, sorted.
        scenes: the scene of each pair; pairs of one scene show the same place.
        expected_counts: published number of pairs per split; empty if there is none.
    """

    name: str
    split: str
    names: Sequence[str]
    scenes: Sequence[str]
    expected_counts: Mapping[str, int]

    @abc.abstractmethod
    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        """Returns the file of `key` ("image" or "target"), and what errors call it."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        """Returns the pair of a number.

        Raises:
            IndexError: if there is no such number.
            ValueError: if a file is damaged, or the sizes differ; the files are named.
        """
        index = range(len(self))[index]
        (image, image_file), (target, target_file) = (
            (io.decode_rgb(data, name=file), file)
            for data, file in (self._read(index, "image"), self._read(index, "target"))
        )
        if image.shape != target.shape:
            raise ValueError(
                f"The sizes of a pair differ: {image_file} is {describe_size(image)}, "
                f"{target_file} is {describe_size(target)} (height x width)."
            )
        return {
            "name": self.names[index],
            "scene": self.scenes[index],
            "image": image,
            "target": target,
        }

    def target(self, index: int) -> np.ndarray:
        """Returns only the target of a pair, uint8 [H, W, 3]."""
        data, file = self._read(index, "target")
        return io.decode_rgb(data, name=file)

    def size(self, index: int) -> tuple[int, int]:
        """Returns (H, W) of a pair's image from its header, without decoding it.

        Raises:
            ValueError: if the file is not an image; it is named.
        """
        data, file = self._read(index, "image")
        return io.decode_size(data, name=file)

    def sizes(self) -> np.ndarray:
        """Returns the sizes of all images, int32 [N, 2] of (H, W)."""
        sizes = parallel_map(self.size, range(len(self)))
        return np.array(sizes, np.int32).reshape(-1, 2)

    def fingerprint(self) -> str:
        """Returns 16 hex digits that identify the set of names."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]

    def note(self) -> str:
        """Returns e.g. "20 of 485: a subset", or "" if the count is as published."""
        expected = self.expected_counts.get(self.split)
        if expected is None or len(self) == expected:
            return ""
        kind = "a subset" if len(self) < expected else "more than were published"
        return f"{len(self)} of {expected}: {kind}"


@dataclasses.dataclass(frozen=True)
class FolderSource(PairedSource):
    """Pairs of files in two folders; made by `open_folders`."""

    name: str
    split: str
    names: tuple[str, ...]
    scenes: tuple[str, ...]
    files: tuple[tuple[pathlib.Path, pathlib.Path], ...]
    expected_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        path = self.files[index][key == "target"]
        return path.read_bytes(), str(path)

    def size(self, index: int) -> tuple[int, int]:
        """Returns (H, W) of a pair's image; reads only the header of the file."""
        return io.read_size(self.files[index][0])


class SubsetSource(PairedSource):
    """Some pairs of another source, in the same order.

    Nothing is expected of its count: published counts are of the whole.
    """

    def __init__(self, source: PairedSource, indices: Sequence[int], *, split: str):
        self.source = source
        self.indices = tuple(indices)
        self.name = source.name
        self.split = split
        self.names = tuple(source.names[index] for index in self.indices)
        self.scenes = tuple(source.scenes[index] for index in self.indices)
        self.expected_counts = {}

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        return self.source._read(self.indices[index], key)

    def size(self, index: int) -> tuple[int, int]:
        """Returns (H, W) of a pair's image, read as its source does."""
        return self.source.size(self.indices[index])


@dataclasses.dataclass(frozen=True)
class Scan:
    """What two folders hold.

    Attributes:
        pairs: name -> (input file, target file), in sorted order.
        inputs_alone: input files without a target.
        targets_alone: target files that no input asks for.
        doubles: names that two files of one folder share.
    """

    pairs: dict[str, tuple[pathlib.Path, pathlib.Path]]
    inputs_alone: list[pathlib.Path]
    targets_alone: list[pathlib.Path]
    doubles: list[str]

    def problems(self) -> list[str]:
        """Returns a sentence for each kind of misfit, naming the first files."""
        found = []
        if self.inputs_alone:
            found.append(f"inputs without a target: {_some(self.inputs_alone)}")
        if self.targets_alone:
            found.append(f"targets without an input: {_some(self.targets_alone)}")
        if self.doubles:
            found.append(f"two files of the same name: {_some(self.doubles)}")
        return found


def scan_folders(
    inputs: str | os.PathLike,
    targets: str | os.PathLike,
    *,
    target_name: Callable[[str], str] = catalogue.same_name,
) -> Scan:
    """Pairs the images of two folders by name; reads no file.

    Args:
        inputs: the folder of low-light images.
        targets: the folder of references.
        target_name: input name -> target name, both without ending.
    """
    doubles: list[str] = []

    def by_name(folder) -> dict[str, pathlib.Path]:
        files: dict[str, pathlib.Path] = {}
        for path in io.list_images(folder):
            if path.stem in files:
                doubles.append(str(path))
            files.setdefault(path.stem, path)
        return files

    input_files, target_files = by_name(inputs), by_name(targets)
    wanted = {name: target_name(name) for name in sorted(input_files)}
    used = set(wanted.values())
    return Scan(
        pairs={
            name: (input_files[name], target_files[target])
            for name, target in wanted.items()
            if target in target_files
        },
        inputs_alone=[
            input_files[name]
            for name, target in wanted.items()
            if target not in target_files
        ],
        targets_alone=[file for name, file in target_files.items() if name not in used],
        doubles=doubles,
    )


def open_folders(
    inputs: str | os.PathLike,
    targets: str | os.PathLike,
    *,
    dataset: catalogue.Dataset = catalogue.DATASETS["paired_folder"],
    split: str = catalogue.WHOLE,
) -> FolderSource:
    """Opens the pairs of two folders.

    Args:
        inputs: the folder of low-light images.
        targets: the folder of references.
        dataset: what they belong to; its `target_name` says what pairs with what.
        split: the split.

    Raises:
        ValueError: if there is no image, or a file has no partner; the files are named.
        OSError: if a folder cannot be read.
    """
    scan = scan_folders(inputs, targets, target_name=dataset.target_name)
    if problems := scan.problems():
        raise ValueError(
            f"{inputs} and {targets} do not pair: {'; '.join(problems)}. Input and "
            "target need the same name; add or remove files."
        )
    if not scan.pairs:
        raise ValueError(
            f"There are no images in {inputs} and {targets}; endings read: "
            f"{', '.join(io.IMAGE_SUFFIXES)}."
        )
    return folder_source(scan, dataset, split)


def folder_source(scan: Scan, dataset: catalogue.Dataset, split: str) -> FolderSource:
    """Returns the pairs that a scan found as a source."""
    return FolderSource(
        name=dataset.name,
        split=split,
        names=tuple(scan.pairs),
        scenes=tuple(map(dataset.scene, scan.pairs)),
        files=tuple(scan.pairs.values()),
        expected_counts=dataset.counts,
    )


def open_source(
    name_or_folder: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
) -> PairedSource:
    """Opens one split of a data set.

    Args:
        name_or_folder: a name of `catalogue.DATASETS`, or a folder: LOL-v1 as unpacked
            (`our485`, `eval15`, or `LOLv1/{Train,Test}`), own pairs (`low` and `high`,
            or `train` and `test` with these inside), or prepared by TFDS.
        root: where a named data set lies; by default `$LLIE_JAX_DATA/<name>`, or
            `data/<name>` in the working directory.
        split: "train", "test", ...; may be left out where there is only one. A folder
            without splits is the same pairs whatever is asked for; its split is "all".

    Raises:
        FileNotFoundError: if the data are not there; the message says how to get them.
        ValueError: if the name, layout or split is unknown, a folder is empty, or files
            have no partner.
    """
    dataset, root = resolve(name_or_folder, root=root)
    found = catalogue.locate(dataset, root) if dataset else {}
    if not found:
        directory = find_prepared(dataset, root)
        # Imported late: TFDS takes a second, and folders do not need it.
        from llie_jax.data import prepared

        return prepared.open_prepared(directory, split=split)
    split = choose_split(split, list(found), where=str(root))
    return open_folders(*found[split], dataset=dataset, split=split)


def resolve(
    name_or_folder: str | os.PathLike, *, root: str | os.PathLike | None = None
) -> tuple[catalogue.Dataset | None, pathlib.Path]:
    """Returns the data set that is meant, and its folder.

    The set is None for a folder without a known layout (it may be a prepared one).

    Raises:
        ValueError: if it is neither a known name nor a folder.
    """
    name = os.fspath(name_or_folder)
    root = root or None  # a config says "" for the default place
    if name in catalogue.DATASETS:
        if root is None and name == "paired_folder":
            raise ValueError(
                "paired_folder needs its folder: give the folder itself, or root."
            )
        root = catalogue.default_root(name) if root is None else pathlib.Path(root)
        return catalogue.get(name), root.expanduser()
    folder = pathlib.Path(name).expanduser()
    if not folder.is_dir():
        catalogue.get(name)  # raises: neither a folder nor a name
    if root is not None:
        raise ValueError(
            f"{name} is a folder and root={os.fspath(root)!r} another; give one."
        )
    return catalogue.recognise(folder), folder


def find_prepared(
    dataset: catalogue.Dataset | None, root: pathlib.Path
) -> pathlib.Path:
    """Returns the prepared data set at `root`, or its newest version below `root`.

    Raises:
        FileNotFoundError: if there is none; the message says what was expected.
    """
    directory = catalogue.prepared(root)
    if directory is None:
        raise FileNotFoundError(missing(dataset, root))
    return directory


def choose_split(split: str | None, available: list[str], *, where: str) -> str:
    """Returns the split to open.

    Raises:
        ValueError: if the split is not there, or left out where there are several.
    """
    if available == [catalogue.WHOLE]:
        return catalogue.WHOLE
    if split is None and len(available) == 1:
        return available[0]
    if split not in available:
        asked = "Say which split" if split is None else f"There is no split {split!r}"
        raise ValueError(
            f"{asked} of {where}: it has {', '.join(available)}."
            + (messages.suggest(split, available) if split else "")
        )
    return split


def split_by_reference(
    source: PairedSource,
    *,
    count: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> tuple[PairedSource, PairedSource]:
    """Holds out a validation part that shares no reference and no scene with the rest.

    Several low-light images may have one reference (LOL-v1: 500 pairs, 414 distinct
    references). Split by file name, a validation target would be a training target too.
    So pairs with equal decoded targets, or of one scene, move together.

    Args:
        source: the pairs to divide; their targets are read once.
        count: number of validation pairs wanted; or
        fraction: their share, between 0 and 1.
        seed: of the choice, which does not depend on the order of the pairs.

    Returns:
        (training, validation). Validation has at most the wanted number of pairs, or
        one whole group if every group is larger.

    Raises:
        ValueError: if not exactly one of `count` and `fraction` is given, or the pairs
            form a single group.
    """
    if (count is None) == (fraction is None):
        raise ValueError("Give count or fraction of the validation part, and not both.")
    if count is None:
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction} is not between 0 and 1.")
        count = max(1, round(fraction * len(source)))
    if not 0 < count < len(source):
        raise ValueError(
            f"count={count} of validation pairs; {source.name} {source.split} has "
            f"{len(source)}, so between 1 and {len(source) - 1} can be held out."
        )

    groups = reference_groups(source)
    if len(groups) == 1:
        raise ValueError(
            f"All {len(source)} pairs of {source.name} {source.split} show one scene "
            "or share one reference; no leak-free validation part can be held out."
        )

    def rank(group: list[int]) -> bytes:
        key = f"{seed}/{source.names[group[0]]}"
        return hashlib.sha256(key.encode()).digest()

    held_out: list[int] = []
    for group in sorted(groups, key=rank):
        if len(held_out) + len(group) <= count:
            held_out += group
    held_out = held_out or min(groups, key=lambda group: (len(group), rank(group)))
    rest = sorted(set(range(len(source))) - set(held_out))
    return (
        SubsetSource(source, rest, split=f"{source.split}/train"),
        SubsetSource(source, sorted(held_out), split=f"{source.split}/validation"),
    )


def reference_groups(source: PairedSource) -> list[list[int]]:
    """Returns the numbers of pairs, grouped by scene and by equal decoded target."""

    def digest(index: int) -> bytes:
        target = source.target(index)
        return hashlib.sha256(repr(target.shape).encode() + target.tobytes()).digest()

    parent = list(range(len(source)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    first: dict[Any, int] = {}
    for index, reference in enumerate(parallel_map(digest, range(len(source)))):
        for key in (("scene", source.scenes[index]), ("reference", reference)):
            parent[root(index)] = root(first.setdefault(key, index))
    groups = collections.defaultdict(list)
    for index in range(len(source)):
        groups[root(index)].append(index)
    return list(groups.values())


def parallel_map(function: Callable, items: Iterable) -> list:
    """Returns `[function(item) for item in items]`, by a few threads."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def describe_size(image: np.ndarray) -> str:
    """Returns e.g. "400 x 600", height first."""
    return f"{image.shape[0]} x {image.shape[1]}"


def _some(items: Sequence) -> str:
    """Returns the first names, and how many more there are."""
    return messages.listed(items, limit=5)


def missing(dataset: catalogue.Dataset | None, root: pathlib.Path) -> str:
    """Returns why nothing was found in `root`, and what to do."""
    if dataset is None:
        return (
            f"{root} has no known layout. Expected low/ and high/ with equal file "
            "names, train/ and test/ with these inside, our485/ and eval15/ of LOL-v1, "
            "or a folder written by `llie-jax data prepare`."
        )
    state = "has no pairs in the expected layout" if root.is_dir() else "does not exist"
    page = f" Official page: {dataset.page}." if dataset.page else ""
    return (
        f"{dataset.name}: {root} {state}. Expected: {dataset.layout()}. To have it: "
        f"{dataset.get}.{page} Another place: give root, or set LLIE_JAX_DATA to the "
        f"folder that holds {dataset.name}/."
    )
