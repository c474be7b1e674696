"""Labelled sets of downstream tasks: classification, segmentation, detection at night.

They are not trained on here. `llie-jax enhance --tree NAME` enhances their photos and
copies everything else, so names, labels and splits stay, and a user's own classifier or
detector reads the result in place of the set.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from llie_jax import messages
from llie_jax.image import formats


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """The facts of one labelled set.

    Attributes:
        name: as in `llie-jax enhance --tree`.
        title: one line for lists.
        photos: names of the folders that contain the photos, in any case; other images
            are labels. If empty, all images are photos.
        counts: published number of photos by the folders of a split, such as
            "val/night"; "" counts the whole set.
        licence: as the official page states it.
        page: the official page.
    """

    name: str
    title: str
    photos: tuple[str, ...] = ()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    licence: str = "your own"
    page: str = ""

    def is_photo(self, relative: pathlib.PurePath) -> bool:
        """Returns whether a file is to be enhanced, by its path inside the set.

        The result has the name of the photo, so its format must be one that is written.
        """
        return relative.suffix.lower() in formats.WRITTEN and self._in_photos(relative)

    def is_copied_photo(self, relative: pathlib.PurePath) -> bool:
        """Returns whether a file is a photo in a format that is not written."""
        ending = relative.suffix.lower()
        known = formats.is_read(relative) or formats.extra(ending)
        return (
            bool(known) and ending not in formats.WRITTEN and self._in_photos(relative)
        )

    def _in_photos(self, relative: pathlib.PurePath) -> bool:
        folders = {part.lower() for part in relative.parent.parts}
        wanted = {name.lower() for name in self.photos}
        return not wanted or bool(folders & wanted)


SETS: dict[str, LabelledSet] = {
    known.name: known
    for known in (
        LabelledSet(
            name="codan",
            title="CODaN, 10 classes by day and by night; Lengyel et al., ICCV 2021",
            counts={
                "train": 10_000,
                "val": 500,
                "test_day": 2_500,
                "test_night": 2_500,
            },
            licence="not stated yet on the official page",
            page="https://github.com/Attila94/CODaN",
        ),
        LabelledSet(
            name="dark_zurich",
            title="Dark Zurich, 19 classes of Cityscapes; Sakaridis et al., ICCV 2019",
            photos=("rgb_anon",),
            counts={
                "train/night": 2_416,
                "train/twilight": 2_920,
                "train/day": 3_041,
                "val/night": 50,
                "test/night": 151,
            },
            licence="research, after registration",
            page="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU/",
        ),
        LabelledSet(
            name="nighttime_driving",
            title="Nighttime Driving, 19 classes; Dai and Van Gool, ITSC 2018",
            photos=("leftImg8bit",),
            counts={"test/night": 50},
            licence="research",
            page="http://people.ee.ethz.ch/~daid/NightDriving/",
        ),
        LabelledSet(
            name="exdark",
            title="ExDark, objects of 12 classes; Loh and Chan, CVIU 2019",
            counts={"": 7_363},
            licence="BSD-3-Clause",
            page="https://github.com/cs-chan/Exclusively-Dark-Image-Dataset",
        ),
        LabelledSet(name="any", title="your own tree, whose images are all photos"),
    )
}
"""The labelled sets by name."""


def get(name: str) -> LabelledSet:
    """Returns the facts of a labelled set.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in SETS:
        raise ValueError(
            f"Unknown labelled set {name!r}.{messages.suggest(name, SETS)} "
            f"Known: {', '.join(SETS)}."
        )
    return SETS[name]


@dataclasses.dataclass(frozen=True)
class Tree:
    """The files of a labelled set, by their paths inside its folder.

    Attributes:
        photos: what is enhanced.
        others: what is copied.
    """

    photos: tuple[pathlib.Path, ...]
    others: tuple[pathlib.Path, ...]

    def count(self, folders: str) -> int:
        """Returns the number of photos below folders such as "val/night"."""
        return sum(
            not folders or f"/{folders}/" in f"/{path.as_posix()}"
            for path in self.photos
        )


def scan(known: LabelledSet, root: pathlib.Path) -> Tree:
    """Lists the files of a labelled set; hidden ones are left out.

    Raises:
        FileNotFoundError: if the folder has no photo of the set.
    """
    photos, others = [], []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file():
            continue
        (photos if known.is_photo(relative) else others).append(relative)
    if not photos:
        inside = f" in folders {messages.listed(known.photos)}" if known.photos else ""
        raise FileNotFoundError(
            f"{root} has no photo of {known.name}{inside}; supported suffixes: "
            f"{formats.listed(formats.WRITTEN)}."
        )
    return Tree(tuple(photos), tuple(others))
