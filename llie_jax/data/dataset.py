"""What is known about a data set: layout on disk, counts, licence, official page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

INPUT_FOLDERS = ("low", "input")
"""Accepted names of the folder of low-light images, in any case."""

TARGET_FOLDERS = ("high", "normal", "target", "gt")
"""Accepted names of the folder of references, in any case."""

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


def scene_of_takes(name: str) -> str:
    """The scene rule of SDSD: `pair1_2/0001` is a second take of the scene `pair1`."""
    return scene_folder(name).removesuffix("_2")


def first_part(name: str) -> str:
    """The scene rule of the demo set: `coffee-r0-c1-e05` is of scene `coffee`."""
    return name.split("-")[0]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The facts of one data set.

    Attributes:
        name: as in `open_source` and the commands.
        title: one line for lists.
        splits: the accepted folder names of each split, in any case; the first is the
            official one. If empty, the folders of images are in the root itself.
        counts: published number of records per split; empty if none is published.
        image_size: (height, width) of all image files, or None.
        keys: the images of a record: `image`, and `target` if there are references, or
            `second` if each scene has a folder with several exposures.
        own: whether it is a user's own folder, which has no default location.
        licence: as the official page states it.
        page: the official page.
        get: how to get it, as an instruction to the user.
        unpack: the command that unpacks the archives into the folder `{to}`, and adds
            missing files.
        citation: authors, title, venue and year.
        remarks: what a user should know about the counts or the images.
        wrappers: names of a folder that archives may add around the splits.
        inputs: accepted folder names of the low-light images.
        targets: accepted folder names of the references.
        cameras: folders inside a split that each have pairs; their names become the
            first part of the records' names.
        by_scene: whether images are in a folder per scene; names are `SCENE/FILE`.
        shared_target: whether all inputs of a scene have one reference: the first file
            of the scene's folder, or the file with the scene's name.
        not_targets: parts of names that are no references, with `shared_target`.
        frames: whether images may be `.npy` files, see `frames`.
        size: (height, width) to which all images are resized as they are read, or None.
        target_name: input name -> target name, both without suffix.
        scene: input name -> scene.
        test_scenes: whether a scene is in the test split, if the folders do not tell.
        test_list: name of a text file in the root with other scenes of the test split.
        misaligned: scenes whose inputs and references are not aligned.
        seen_by: sets whose training images are test images of this one, name -> how
            many; scores of weights trained on them mean little.
        composite: whether the images are made of parts of those of `seen_by`, so that
            none is equal to one of them.
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
    unpack: str = ""
    citation: str = ""
    remarks: str = ""
    wrappers: tuple[str, ...] = ()
    inputs: tuple[str, ...] = INPUT_FOLDERS
    targets: tuple[str, ...] = TARGET_FOLDERS
    cameras: tuple[str, ...] = ()
    by_scene: bool = False
    shared_target: bool = False
    not_targets: tuple[str, ...] = ()
    frames: bool = False
    size: tuple[int, int] | None = None
    target_name: Callable[[str], str] = same_name
    scene: Callable[[str], str] = own_scene
    test_scenes: Callable[[str], bool] | None = None
    test_list: str = ""
    misaligned: tuple[str, ...] = ()
    seen_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    composite: bool = False

    def layout(self) -> str:
        """Returns the expected folders in one line."""
        ending = "npy" if self.frames else "png"
        files = f"SCENE/*.{ending}" if self.by_scene else f"*.{ending}"
        if "target" in self.keys:
            names = f"{{{self.inputs[0]},{self.targets[0]}}}"
            usual = (self.inputs, self.targets) == (INPUT_FOLDERS, TARGET_FOLDERS)
            files = names if usual and not self.by_scene else f"{names}/{files}"
        if self.cameras:
            files = f"{{{','.join(self.cameras)}}}/{files}"
        folders = dict.fromkeys(names[:1] for names in self.splits.values())
        return ", ".join("/".join((*folder, files)) for folder in folders)


def unit(keys: Sequence[str]) -> str:
    """Returns what to call records with these images: "pairs" or "images"."""
    return "pairs" if "target" in keys else "images"
