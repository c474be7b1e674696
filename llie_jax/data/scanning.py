"""Lists the records of a split: which files belong together, and what is wrong."""

import collections
import dataclasses
import itertools
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping

from llie_jax import messages
from llie_jax.data import locating
from llie_jax.data.dataset import Dataset, same_name
from llie_jax.files import path as path_of
from llie_jax.image import formats, io

_PLAIN = Dataset(name="", title="", splits={})


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
        excluded: how many records the user's list leaves out.
        alone: the names of what is alone, as the user's list would have them.
    """

    files: dict[str, tuple[pathlib.Path, ...]]
    inputs_alone: list[pathlib.Path]
    targets_alone: list[pathlib.Path]
    doubles: list[str]
    scenes_alone: list[pathlib.Path] = dataclasses.field(default_factory=list)
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    respelt: int = 0
    excluded: int = 0
    alone: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def empty(cls) -> "Scan":
        """Returns a scan that found nothing."""
        return cls({}, [], [], [])

    def notes(self) -> list[str]:
        """Returns a phrase for each thing that a user should know."""
        found = [self.not_read()] if self.skipped else []
        if self.respelt:
            found.append(
                f"{self.respelt} names pair although their accents are encoded "
                "differently (Unicode NFC and NFD)"
            )
        if self.excluded:
            found.append(f"{self.excluded} left out, as {locating.EXCLUDE} says")
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

    def __or__(self, other: "Scan") -> "Scan":
        """Returns the records and the findings of both."""
        skipped = collections.Counter(self.skipped)
        skipped.update(other.skipped)
        return Scan(
            files=dict(sorted((self.files | other.files).items())),
            inputs_alone=[*self.inputs_alone, *other.inputs_alone],
            targets_alone=[*self.targets_alone, *other.targets_alone],
            doubles=[*self.doubles, *other.doubles],
            scenes_alone=[*self.scenes_alone, *other.scenes_alone],
            skipped=skipped,
            respelt=self.respelt + other.respelt,
            excluded=self.excluded + other.excluded,
            alone=[*self.alone, *other.alone],
        )


def scan(parts: locating.Parts, dataset: Dataset) -> Scan:
    """Lists the records of a split, as its data set arranges them."""
    found = Scan.empty()
    for part in parts:
        if "second" in dataset.keys:
            found |= scan_scenes(*part.folders, excluded=part.excluded)
        else:
            found |= _scan_part(part, dataset)
    return found


def scan_scenes(
    folder: str | os.PathLike, *, excluded: frozenset[str] = frozenset()
) -> Scan:
    """Lists the ordered pairs of different exposures of each scene.

    The pair of `cafe/1.png` and `cafe/3.png` is named `cafe/1-3`.

    Args:
        folder: has a folder for each scene, with its exposures.
        excluded: names of records or scenes that are left out.
    """
    files, alone, doubles = {}, [], []
    skipped = collections.Counter()
    for scene in locating.scene_folders(path_of(folder)):
        if scene.name in excluded:
            continue
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
            if name not in excluded:
                files[name] = (exposures[first], exposures[second])
    return Scan(
        dict(sorted(files.items())),
        [],
        [],
        doubles,
        alone,
        skipped,
        alone=[scene.name for scene in alone],
    )


def scan_folders(
    inputs: str | os.PathLike,
    targets: str | os.PathLike | None = None,
    *,
    target_name: Callable[[str], str] = same_name,
) -> Scan:
    """Lists the images of one folder, or of two paired by name, without reading them.

    Args:
        inputs: the folder of low-light images.
        targets: the folder of references; None if there are none.
        target_name: input name -> target name, both without suffix.

    Raises:
        OSError: if a folder is missing, or is a file.
    """
    folders = tuple(
        path_of(folder) for folder in (inputs, targets) if folder is not None
    )
    for folder in folders:
        io.list_folder(folder)  # raises
    dataset = dataclasses.replace(_PLAIN, target_name=target_name)
    return _scan_part(locating.Part(folders), dataset)


class _Files:
    """The files of a folder by the names of their records.

    Attributes:
        named: name -> file; of two files with one name, the first.
        doubles: the others.
        skipped: how many files are not read, by ending.
        respelt: names that are not in Unicode's composed form on disk.
        excluded: names that the user's list leaves out.
    """

    def __init__(self, part: locating.Part, dataset: Dataset):
        self.named: dict[str, pathlib.Path] = {}
        self.doubles: list[str] = []
        self.skipped = collections.Counter()
        self.respelt: set[str] = set()
        self.excluded: set[str] = set()
        self._part, self._dataset = part, dataset

    def add(self, folder: pathlib.Path) -> "_Files":
        """Adds the files of a folder, or of the folders of scenes inside it."""
        found = locating.list_images(folder, self._dataset)
        if not self._dataset.by_scene:
            self._add(found, "")
            return self
        outside = collections.Counter(path.suffix.lower() for path in found.images)
        self.skipped.update(outside)
        for scene in locating.scene_folders(folder):
            self._add(locating.list_images(scene, self._dataset), f"{scene.name}/")
        return self

    def add_shared(self, folder: pathlib.Path) -> "_Files":
        """Adds the reference of each scene: the first of its folder, or its file."""
        beside = locating.list_images(folder, self._dataset)
        for path in beside.images:
            self._name(path.stem, path)
        for scene in locating.scene_folders(folder):
            images = locating.list_images(scene, self._dataset).images
            unwanted = self._dataset.not_targets
            fitting = (
                each
                for each in images
                if not any(part in each.name for part in unwanted)
            )
            if (first := next(fitting, None)) is not None:
                self._name(scene.name, first)
        return self

    def _add(self, found: formats.Listing, prefix: str) -> None:
        self.skipped.update(found.skipped)
        for path in found.images:
            self._name(prefix + path.stem, path)

    def _name(self, written: str, path: pathlib.Path) -> None:
        name = unicodedata.normalize("NFC", written)
        if self._part.has and not self._part.has(self._dataset.scene(name)):
            return
        name = self._part.prefix + name
        if {name, name.rpartition("/")[0]} & self._part.excluded:
            self.excluded.add(name)
            return
        if name in self.named:
            self.doubles.append(str(path))
        if not unicodedata.is_normalized("NFC", written):
            self.respelt.add(name)
        self.named.setdefault(name, path)


def _scan_part(part: locating.Part, dataset: Dataset) -> Scan:
    """Lists the records of one part of a split."""
    inputs = _Files(part, dataset).add(part.folders[0])
    if len(part.folders) == 1:
        files = {name: (path,) for name, path in sorted(inputs.named.items())}
        return Scan(
            files,
            [],
            [],
            inputs.doubles,
            skipped=inputs.skipped,
            excluded=len(inputs.excluded),
        )
    targets = _Files(part, dataset)
    rule = dataset.target_name
    if dataset.shared_target:
        targets.add_shared(part.folders[1])
        rule = _folder_of
    else:
        targets.add(part.folders[1])

    def target_of(name: str) -> str:
        return part.prefix + rule(name.removeprefix(part.prefix))

    wanted = {name: target_of(name) for name in sorted(inputs.named)}
    # An input that is left out takes its target along.
    used = {*wanted.values(), *map(target_of, inputs.excluded)}
    files = {
        name: (inputs.named[name], targets.named[target])
        for name, target in wanted.items()
        if target in targets.named
    }
    return Scan(
        files=files,
        inputs_alone=[
            inputs.named[name]
            for name, target in wanted.items()
            if target not in targets.named
        ],
        targets_alone=[
            file for name, file in targets.named.items() if name not in used
        ],
        doubles=[*inputs.doubles, *targets.doubles],
        skipped=inputs.skipped + targets.skipped,
        respelt=sum(
            (name in inputs.respelt) != (wanted[name] in targets.respelt)
            for name in files
        ),
        excluded=len(inputs.excluded),
        alone=[
            *(name for name, target in wanted.items() if target not in targets.named),
            *(name for name in targets.named if name not in used),
        ],
    )


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def no_images(where: str, found: Scan) -> str:
    """Returns the message for folders without images."""
    others = f" ({found.not_read()})" if found.skipped else ""
    return (
        f"There are no images in {where}{others}; supported suffixes: "
        f"{formats.listed()}."
    )


def _some(items: list) -> str:
    """Returns the first names, and how many more there are."""
    return messages.listed(items, limit=5)
