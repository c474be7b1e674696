"""The facts of each data set: layout on disk, counts, size, licence, official page.

They are stated only here, so a moved link or a corrected count is one edit. The package
contains no images.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from llie_jax import files, messages
from llie_jax.image import formats, io

INPUT_FOLDERS = ("low", "input")
"""Accepted names of the folder of low-light images, compared in lower case."""

TARGET_FOLDERS = ("high", "normal", "target", "gt")
"""Accepted names of the folder of references, compared in lower case."""

Folders = tuple[pathlib.Path, ...]
"""The folders of one split, one per key of the data set."""

WHOLE = "all"
"""The split name of a folder without splits."""


def same_name(name: str) -> str:
    """The usual pairing rule: input and target share a name, ignoring the suffix."""
    return name


def normal_name(name: str) -> str:
    """The pairing rule of LOL-v2-real: `low00690` pairs with `normal00690`.

    Renamed copies have `00690` in both folders.
    """
    return name.replace("low", "normal", 1) if name.startswith("low") else name


def own_scene(name: str) -> str:
    """The scene rule of sets without scene labels: each image is its own scene."""
    return name


def scene_folder(name: str) -> str:
    """The scene rule of sets with a folder per scene: `cafe/1-3` is of scene `cafe`."""
    return name.partition("/")[0]


def first_part(name: str) -> str:
    """The scene rule of the demo set: `coffee-r0-c1-e05` is of scene `coffee`."""
    return name.split("-")[0]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The facts of one data set.

    Attributes:
        name: as in `open_source` and the commands.
        title: one line for lists.
        splits: the accepted folder names of each split, in lower case; the first is the
            official one. If empty, the root itself is the folder.
        counts: published number of records per split; empty if none is published.
        image_size: (height, width) of all images, or None.
        keys: the images of a record: `image`, and `target` if there are references, or
            `second` if each scene has a folder with several exposures.
        own: whether it is a user's own folder, which has no default location.
        licence: as the official page states it.
        page: the official page.
        get: how to get it, as an instruction to the user.
        wrappers: names of a folder that archives may add around the splits.
        target_name: input name -> target name, both without suffix.
        scene: input name -> scene.
        seen_by: sets whose training images are test images of this one, name -> how
            many; scores of weights trained on them mean little.
    """

    name: str
    title: str
    splits: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    keys: tuple[str, ...] = ("image", "target")
    own: bool = False
    licence: str = "your own"
    page: str = ""
    get: str = ""
    wrappers: tuple[str, ...] = ()
    target_name: Callable[[str], str] = same_name
    scene: Callable[[str], str] = own_scene
    seen_by: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def layout(self) -> str:
        """Returns the expected folders in one line."""
        inside = "{low,high}" if "target" in self.keys else "*.png"
        if "second" in self.keys:
            inside = "SCENE/*.png"
        folders = (names[:1] for names in self.splits.values())
        return ", ".join("/".join((*folder, inside)) for folder in folders)


OWN_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "validation"),
    "test": ("test", "eval", "testing"),
}
"""The splits that a user's own folder may contain."""

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="lol_v1",
            title="LOL (v1), real pairs; Wei et al., BMVC 2018",
            splits={"train": ("our485", "train"), "test": ("eval15", "test")},
            counts={"train": 485, "test": 15},
            image_size=(400, 600),
            licence="none stated; research use, no redistribution",
            page="https://daooshee.github.io/BMVC2018website/",
            get="download LOLdataset.zip from the official page and unpack it",
            wrappers=("lolv1", "loldataset", "lol"),
            seen_by={
                "lol_v2_real": "12 of the 15 test images are probably training images, "
                "going by their numbers"
            },
        ),
        Dataset(
            name="lol_v2_real",
            title="LOL-v2, real pairs; Yang et al., TIP 2021",
            splits={"train": ("train",), "test": ("test",)},
            counts={"train": 689, "test": 100},
            image_size=(400, 600),
            licence="none stated; research use, no redistribution",
            page="https://github.com/flyywh/CVPR-2020-Semi-Low-Light",
            get="download LOL-v2.zip, to which the official page links, and unpack it",
            wrappers=("real_captured",),
            target_name=normal_name,
            seen_by={
                "lol_v1": "86 of the 89 test images that could be identified are "
                "training images"
            },
        ),
        Dataset(
            name="lol_v2_syn",
            title="LOL-v2, synthetic pairs; Yang et al., TIP 2021",
            splits={"train": ("train",), "test": ("test",)},
            counts={"train": 900, "test": 100},
            image_size=(384, 384),
            licence="none stated; research use, no redistribution",
            page="https://github.com/flyywh/CVPR-2020-Semi-Low-Light",
            get="download LOL-v2.zip, to which the official page links, and unpack it",
            wrappers=("synthetic",),
        ),
        Dataset(
            name="lowlight_demo",
            title="Photographs inside scikit-image, darkened by a sensor model",
            splits={"train": ("train",), "test": ("test",)},
            counts={"train": 72, "test": 18},
            image_size=(192, 192),
            licence="photographs: public domain, CC0, Middlebury benchmark 2014",
            page="https://scikit-image.org/docs/stable/api/skimage.data.html",
            get="make it with: llie-jax data prepare lowlight_demo",
            scene=first_part,
        ),
        Dataset(
            name="exposure_pairs",
            title="Scenes with several dark exposures each, no references",
            splits={"train": ()},
            keys=("image", "second"),
            licence="as the sources of the photos state it",
            page="https://github.com/zhenqifu/PairLIE",
            get="the page links to PairLIE's 324 scenes; or make a folder for each "
            "scene, with at least two exposures of one size in it",
            scene=scene_folder,
        ),
        Dataset(
            name="paired_folder",
            title="Your own pairs: low/ and high/ with the same file names",
            splits=OWN_SPLITS,
            own=True,
            get="give the folder that contains low/ and high/, or train/ and test/ "
            "with low/ and high/ in each",
        ),
        Dataset(
            name="image_folder",
            title="Your own photos, no references",
            splits=OWN_SPLITS,
            keys=("image",),
            own=True,
            get="give the folder that contains the photos, or train/ and test/ with "
            "photos in each",
        ),
    )
}


def get(name: str) -> Dataset:
    """Returns the facts of a data set.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in DATASETS:
        raise ValueError(
            f"Unknown data set {name!r}.{messages.suggest(name, DATASETS)} "
            f"Known: {', '.join(DATASETS)}; or give an existing folder."
        )
    return DATASETS[name]


def default_root(name: str) -> pathlib.Path:
    """Returns a set's default root: `$LLIE_JAX_DATA/<name>` or `data/<name>`."""
    return files.path(os.environ.get("LLIE_JAX_DATA") or "data") / name


def subfolder(folder: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path | None:
    """Returns the child folder with one of the names, in any case; earlier names win.

    Raises:
        ValueError: if two children match the same name (`low` and `Low`).
    """
    if not folder.is_dir():
        return None
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    for name in names:
        fitting = [child for child in children if child.name.lower() == name]
        if len(fitting) > 1:
            raise ValueError(
                f"{folder} contains {fitting[0].name}/ and {fitting[1].name}/, which "
                "mean the same; remove or rename one."
            )
        if fitting:
            return fitting[0]
    return None


def pair_folders(folder: pathlib.Path) -> Folders | None:
    """Returns the folders of inputs and of targets inside `folder`, if both exist."""
    inputs = subfolder(folder, INPUT_FOLDERS)
    targets = subfolder(folder, TARGET_FOLDERS)
    return (inputs, targets) if inputs and targets else None


def scene_folders(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the folders inside `folder` that contain images, sorted."""
    folder = files.path(folder)
    if not folder.is_dir():
        return []
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    return [child for child in children if io.list_images(child)]


def keys_of(name: str) -> tuple[str, ...]:
    """Returns the images of a set's records; a folder is assumed to contain pairs.

    For plans, which do not read the data.
    """
    known = DATASETS.get(name)
    return known.keys if known else DATASETS["paired_folder"].keys


def unit(keys: Sequence[str]) -> str:
    """Returns what to call records with these images: "pairs" or "images"."""
    return "pairs" if "target" in keys else "images"


def split_folders(dataset: Dataset, folder: pathlib.Path) -> Folders | None:
    """Returns the image folders inside the folder of a split, if they exist."""
    if "target" in dataset.keys:
        return pair_folders(folder)
    if "second" in dataset.keys:
        return (folder,) if scene_folders(folder) else None
    return (folder,) if folder.is_dir() and io.list_images(folder) else None


def locate(dataset: Dataset, root: pathlib.Path) -> dict[str, Folders]:
    """Finds the splits of a data set below `root`.

    Returns:
        The folders of each split found. A user's own folder with `low` and `high`, or
        photos, directly inside `root` has the single split "all".
    """
    if dataset.own and (whole := split_folders(dataset, root)):
        return {WHOLE: whole}
    wrapped = [subfolder(root, (name,)) for name in dataset.wrappers]
    for base in (root, *filter(None, wrapped)):
        found = {}
        for split, names in dataset.splits.items():
            folder = subfolder(base, names) if names else base
            if folder and (folders := split_folders(dataset, folder)):
                found[split] = folders
        if found:
            return found
    return {}


def prepared(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the TFDS data set at `folder`, or the newest version in it, or None."""
    found = [file.parent for file in folder.glob("dataset_info.json")]
    found += [file.parent for file in folder.glob("*/dataset_info.json")]

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
    lol = DATASETS["lol_v1"]
    candidates = [
        dataset
        for dataset in DATASETS.values()
        if not dataset.own and (name == dataset.name or name in dataset.wrappers)
    ]
    if subfolder(folder, ("our485", "eval15", *lol.wrappers)) is not None:
        candidates.append(lol)
    for known in candidates:
        if locate(known, folder):
            return known
    own = [known for known in DATASETS.values() if known.own and locate(known, folder)]
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
            "images directly in it."
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
