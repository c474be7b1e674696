"""What each data set is: layout on disk, counts, size, licence, official page.

Everything a set's own terms ask for is here and nowhere else, so that a moved link or
a corrected count is one edit. No image is part of the package.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from llie_jax import messages
from llie_jax.image import io

INPUT_FOLDERS = ("low", "input")
"""Names of the folder of low-light images, compared in lower case."""

TARGET_FOLDERS = ("high", "normal", "target", "gt")
"""Names of the folder of references, compared in lower case."""

Folders = tuple[pathlib.Path, ...]
"""The folders of one split, one for each of its set's keys."""

WHOLE = "all"
"""The split of a folder that has no splits."""


def same_name(name: str) -> str:
    """The usual pairing rule: input and target have the same name, endings aside."""
    return name


def normal_name(name: str) -> str:
    """The pairing rule of LOL-v2-real: `low00690` goes with `normal00690`.

    Renamed copies have `00690` in both folders.
    """
    return name.replace("low", "normal", 1) if name.startswith("low") else name


def own_scene(name: str) -> str:
    """The scene of a set that tells nothing about scenes: each image is its own."""
    return name


def first_part(name: str) -> str:
    """The scene of `coffee-r0-c1-e05` is `coffee`."""
    return name.split("-")[0]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The facts of one data set.

    Attributes:
        name: as in `open_source` and the commands.
        title: one line for lists.
        splits: per split the names of its folder, in lower case; the first is the
            official one. Without any, the root itself is the folder.
        counts: published number of records per split; empty if there is none.
        image_size: (height, width) of all images, or None.
        keys: the images of a record: `image`, and `target` where there are references.
        own: whether it is a user's own folder, which has no usual place.
        licence: as the official page states it.
        page: the official page.
        get: what a user does to have it.
        wrappers: names of a folder round the splits that archives may add.
        target_name: input name -> target name, both without ending.
        scene: input name -> scene.
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

    def layout(self) -> str:
        """Returns the expected folders in one line."""
        inside = "{low,high}" if "target" in self.keys else "*.png"
        folders = (names[:1] for names in self.splits.values())
        return ", ".join("/".join((*folder, inside)) for folder in folders)


OWN_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "validation"),
    "test": ("test", "eval", "testing"),
}
"""The splits that a user's own folder may have."""

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
            licence="of the photographs: public domain, CC0, Middlebury benchmark 2014",
            page="https://scikit-image.org/docs/stable/api/skimage.data.html",
            get="make it with: llie-jax data prepare lowlight_demo",
            scene=first_part,
        ),
        Dataset(
            name="paired_folder",
            title="Your own pairs: low/ and high/ with the same file names",
            splits=OWN_SPLITS,
            own=True,
            get="give the folder that holds low/ and high/, or train/ and test/ "
            "with low/ and high/ in each",
        ),
        Dataset(
            name="image_folder",
            title="Your own photos, no references",
            splits=OWN_SPLITS,
            keys=("image",),
            own=True,
            get="give the folder that holds the photos, or train/ and test/ with "
            "photos in each",
        ),
    )
}


def get(name: str) -> Dataset:
    """Returns the facts of a data set.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(
            f"Unknown data set {name!r}.{messages.suggest(name, DATASETS)} "
            f"Known: {', '.join(DATASETS)}; or give an existing folder."
        )
    return DATASETS[name]


def default_root(name: str) -> pathlib.Path:
    """Returns where a set is looked for: `$LLIE_JAX_DATA/<name>` or `data/<name>`."""
    return pathlib.Path(os.environ.get("LLIE_JAX_DATA") or "data") / name


def subfolder(folder: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path | None:
    """Returns the child folder with one of the names, in any case; earlier names win.

    Raises:
        ValueError: if two children fit the same name (`low` and `Low`).
    """
    if not folder.is_dir():
        return None
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    for name in names:
        fitting = [child for child in children if child.name.lower() == name]
        if len(fitting) > 1:
            raise ValueError(
                f"{folder} holds {fitting[0].name}/ and {fitting[1].name}/, which mean "
                "the same; remove or rename one."
            )
        if fitting:
            return fitting[0]
    return None


def pair_folders(folder: pathlib.Path) -> Folders | None:
    """Returns the folders of inputs and of targets inside `folder`, if both exist."""
    inputs = subfolder(folder, INPUT_FOLDERS)
    targets = subfolder(folder, TARGET_FOLDERS)
    return (inputs, targets) if inputs and targets else None


def keys_of(name: str) -> tuple[str, ...]:
    """Returns the images of a set's records; a folder is taken to hold pairs.

    For plans, which are made without the data.
    """
    known = DATASETS.get(name)
    return known.keys if known else DATASETS["paired_folder"].keys


def unit(keys: Sequence[str]) -> str:
    """Returns what a set is counted in whose records have these images."""
    return "pairs" if "target" in keys else "images"


def split_folders(dataset: Dataset, folder: pathlib.Path) -> Folders | None:
    """Returns the folders of a split inside its own folder, if they are there."""
    if "target" in dataset.keys:
        return pair_folders(folder)
    return (folder,) if folder.is_dir() and io.list_images(folder) else None


def locate(dataset: Dataset, root: pathlib.Path) -> dict[str, Folders]:
    """Finds the splits of a data set below `root`.

    Returns:
        Per split found, its folders. A user's own folder with `low` and `high`, or
        photos, directly inside `root` has the one split "all".
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
    """Returns the TFDS data set at `folder`, or its newest version below, or None."""
    found = [file.parent for file in folder.glob("dataset_info.json")]
    found += [file.parent for file in folder.glob("*/dataset_info.json")]

    def version(path: pathlib.Path) -> list[int]:
        return [int(part) for part in path.name.split(".") if part.isdigit()]

    return max(found, key=version, default=None)


def recognise(folder: pathlib.Path) -> Dataset | None:
    """Returns the data set whose layout a folder has, or None.

    A folder named as a set is that set, or as the part of an archive that holds it;
    `our485` or `eval15` inside make it LOL-v1, as does a folder `LOLv1` with `Train`
    and `Test`; else it may hold a user's own pairs, or photos.

    Raises:
        ValueError: if it holds both pairs and photos.
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
            f"{folder} holds pairs of images in subfolders, and images beside these. "
            f"Say which are meant: {own[0].name} or {own[1].name} with this folder as "
            "root, or move the others away."
        )
    return own[0] if own else None


def missing(dataset: Dataset | None, root: pathlib.Path) -> str:
    """Returns why nothing was found in `root`, and what to do."""
    if dataset is None:
        return (
            f"{root} has no known layout. Expected low/ and high/ with equal file "
            "names, train/ and test/ with these inside, our485/ and eval15/ of LOL-v1, "
            "a folder written by `llie-jax data prepare`, or images directly in it."
        )
    state = "does not have the expected layout" if root.is_dir() else "does not exist"
    page = f" Official page: {dataset.page}." if dataset.page else ""
    elsewhere = (
        ""
        if dataset.own
        else " Another place: give root, or set LLIE_JAX_DATA to the folder that holds "
        f"{dataset.name}/."
    )
    return (
        f"{dataset.name}: {root} {state}. Expected: {dataset.layout()}. To have it: "
        f"{dataset.get}.{page}{elsewhere}"
    )
