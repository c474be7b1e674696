"""Finds the folders of a data set: its splits, what is prepared, what a folder is."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable

from llie_jax.data import catalogue, frames
from llie_jax.data.dataset import WHOLE, Dataset
from llie_jax.image import formats

EXCLUDE = "exclude.txt"
"""Name of a text file in the root: a record or a scene to leave out on each line.

`train/NAME` leaves it out of that split only.
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """Folders of one split that belong together.

    Attributes:
        folders: the folder of each key; a set of exposures has one for all.
        prefix: begins the names of their records, "" or the name of a camera and "/".
        has: whether a scene belongs to the split; None for all.
        excluded: names of records or scenes that are left out.
        root: the folder of the set, whose `EXCLUDE` says so.
    """

    folders: tuple[pathlib.Path, ...]
    prefix: str = ""
    has: Callable[[str], bool] | None = None
    excluded: frozenset[str] = frozenset()
    root: pathlib.Path | None = None


Parts = tuple[Part, ...]
"""All parts of one split."""


def subfolder(folder: pathlib.Path, names: Iterable[str]) -> pathlib.Path | None:
    """Returns the child folder with one of the names, in any case; earlier names win.

    Raises:
        ValueError: if two children match the same name (`low` and `Low`).
    """
    if not folder.is_dir():
        return None
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    for name in names:
        fitting = [child for child in children if child.name.lower() == name.lower()]
        if len(fitting) > 1:
            raise ValueError(
                f"{folder} contains {fitting[0].name}/ and {fitting[1].name}/, which "
                "mean the same; remove or rename one."
            )
        if fitting:
            return fitting[0]
    return None


def list_images(folder: pathlib.Path, dataset: Dataset) -> formats.Listing:
    """Lists the files directly inside a folder that are images of a data set."""
    also = (frames.ENDING,) if dataset.frames else ()
    files = (file for file in folder.iterdir() if file.name != EXCLUDE)
    return formats.list_files(files, also=also)


def scene_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders inside `folder`, sorted; hidden ones are left out."""
    children = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        child for child in children if not child.name.startswith(".") and child.is_dir()
    )


def _folders(dataset: Dataset, folder: pathlib.Path) -> tuple[pathlib.Path, ...] | None:
    """Returns the folders of images inside the folder of a split, if they exist."""
    if "target" in dataset.keys:
        inputs = subfolder(folder, dataset.inputs)
        targets = subfolder(folder, dataset.targets)
        return (inputs, targets) if inputs and targets else None
    if dataset.by_scene:
        scenes = scene_folders(folder)
        found = any(list_images(scene, dataset).images for scene in scenes)
    else:
        found = folder.is_dir() and list_images(folder, dataset).images
    return (folder,) if found else None


def _parts(dataset: Dataset, folder: pathlib.Path) -> Parts:
    """Returns the parts inside the folder of a split."""
    if not dataset.cameras:
        found = _folders(dataset, folder)
        return (Part(found),) if found else ()
    parts = []
    for camera in dataset.cameras:
        inside = subfolder(folder, (camera,))
        if inside and (found := _folders(dataset, inside)):
            parts.append(Part(found, prefix=f"{camera}/"))
    return tuple(parts)


def locate(dataset: Dataset, root: pathlib.Path) -> dict[str, Parts]:
    """Finds the splits of a data set below `root`.

    Returns:
        The parts of each split found. A user's own folder with `low` and `high`, or
        photos, directly inside `root` has the single split "all".
    """
    if dataset.own and (whole := _parts(dataset, root)):
        return {WHOLE: _completed(dataset, whole, root, WHOLE)}
    wrapped = [subfolder(root, (name,)) for name in dataset.wrappers]
    for base in (root, *filter(None, wrapped)):
        found = {}
        for split, names in dataset.splits.items():
            folder = subfolder(base, names) if names else base
            if folder and (parts := _parts(dataset, folder)):
                found[split] = _completed(dataset, parts, base, split)
        if found:
            return found
    return {}


def _completed(dataset: Dataset, parts: Parts, root: pathlib.Path, split: str) -> Parts:
    """Adds to the parts of a split which records are in it."""
    excluded = frozenset(
        name.removeprefix(f"{split}/").rstrip("/") for name in _lines(root / EXCLUDE)
    )
    has = None
    if dataset.test_scenes is not None:
        listed = frozenset(_lines(root / dataset.test_list))
        is_test = listed.__contains__ if listed else dataset.test_scenes
        has = functools.partial(_in_split, is_test, split)
    return tuple(
        dataclasses.replace(part, has=has, excluded=excluded, root=root)
        for part in parts
    )


def _in_split(is_test: Callable[[str], bool], split: str, scene: str) -> bool:
    return is_test(scene) == (split == "test")


def _lines(file: pathlib.Path) -> list[str]:
    """Returns the lines of a text file that are not empty; [] without a file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return [line.strip() for line in lines if line.strip()]


def prepared(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the TFDS data set at `folder`, or the newest version in it, or None."""
    found = [file.parent for file in folder.glob("dataset_info.json")]
    found += [file.parent for file in folder.glob("[!.]*/dataset_info.json")]

    def version(path: pathlib.Path) -> list[int]:
        return [int(part) for part in path.name.split(".") if part.isdigit()]

    return max(found, key=version, default=None)


def recognise(folder: pathlib.Path) -> Dataset | None:
    """Returns the data set whose layout a folder has, or None.

    A folder that has the name of a set, or of the part of an archive that contains it,
    is that set. `our485` or `eval15` inside make it LOL-v1, as does a folder `LOLv1`
    with `Train` and `Test`. Otherwise it may contain a user's own pairs, or photos.

    Raises:
        ValueError: if it contains both pairs and photos.
    """
    name = folder.resolve().name.lower()
    lol = catalogue.DATASETS["lol_v1"]
    published = [known for known in catalogue.DATASETS.values() if not known.own]
    candidates = [
        known
        for known in published
        if name == known.name or (name in known.wrappers and "target" in known.keys)
    ]
    if subfolder(folder, ("our485", "eval15", *lol.wrappers)) is not None:
        candidates.append(lol)
    for known in candidates:
        if locate(known, folder):
            return known
    own = [
        known
        for known in catalogue.DATASETS.values()
        if known.own and locate(known, folder)
    ]
    if len(own) > 1:
        raise ValueError(
            f"{folder} contains pairs of images in subfolders and other images next to "
            f"them. Choose one: {own[0].name} or {own[1].name} with this folder as "
            "root, or move the others away."
        )
    return own[0] if own else None


def missing(dataset: Dataset | None, root: pathlib.Path) -> str:
    """Returns a message: why nothing was found in `root`, and what to do."""
    if dataset is None:
        skipped = formats.list_files(root.iterdir()).skipped if root.is_dir() else {}
        others = formats.describe_skipped(skipped)
        return (
            f"{root} has no known layout{others and f' ({others})'}. Expected low/ and "
            "high/ with equal file names, train/ and test/ with these inside, our485/ "
            "and eval15/ of LOL-v1, a folder written by `llie-jax data prepare`, or "
            "images directly in it; for another set, give its name and this folder."
        )
    state = "does not have the expected layout" if root.is_dir() else "does not exist"
    page = f" Official page: {dataset.page}." if dataset.page else ""
    elsewhere = (
        ""
        if dataset.own
        else " If it is elsewhere, give root, or set LLIE_JAX_DATA to the folder that "
        f"contains {dataset.name}/."
    )
    return (
        f"{dataset.name}: {root} {state}. Expected: {dataset.layout()}. To get it: "
        f"{dataset.get}.{page}{elsewhere}"
    )
