"""Data sets in the TFDS format: written once, read anywhere, without TensorFlow.

A prepared set is a folder of array_record files with the original bytes of the image
files, so it yields the same pixels as the folders; frames in `.npy` files become PNGs,
since TFDS stores images. `preparing.prepare` writes it, and `opening.open_source` reads
it. The builders are also available through TFDS: each folder of `datasets/` at the root
of the repository registers one.

A set whose scenes share a reference has the references in splits of their own, once per
scene: `train` has the inputs, `train_targets` the references.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from llie_jax import files
from llie_jax.data import catalogue, frames, locating, sources, synthetic
from llie_jax.data.dataset import WHOLE, Dataset

TARGETS = "_targets"
"""Ends the names of splits that hold the references of scenes."""

_STORED = {WHOLE: "whole"}
"""Split -> its name in TFDS, which uses "all" for the union of all splits."""

VERSION = "2.0.0"


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of a data set of folders; a subclass sets `name` and `dataset`.

    The folder of the data set is TFDS's `manual_dir`.

    Args:
        bits: of the deepest images, 8 or 16.
        **options: those of every TFDS builder.
    """

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = {  # noqa: RUF012  TFDS requires a dict
        "2.0.0": "Sizes and depth of all images; shared references stored once."
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder of the data set as manual_dir."
    dataset: Dataset

    def __init__(self, *, bits: int = 8, **options):
        self.bits = bits
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        facts = self.dataset
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{facts.title}. Licence: {facts.licence}.",
            homepage=facts.page or None,
            citation=facts.citation or None,
            features=features(stored_keys(facts), self.bits),
            supervised_keys=(
                ("image", "target") if "target" in stored_keys(facts) else None
            ),
            # Keeps records in sorted order, so their names are known without reading.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        plan = plan_splits(open_folders(self.dataset, self._root(dl_manager)))
        for split in plan.values():
            check_depth(split, self.bits)
        self.info.metadata.update(metadata(plan))
        return {split: self._generate_examples(part) for split, part in plan.items()}

    def _root(self, dl_manager: tfds.download.DownloadManager) -> pathlib.Path:
        """Returns the folder of the data set."""
        return pathlib.Path(dl_manager.manual_dir)

    def _generate_examples(self, split: "Split"):
        for index, record in enumerate(split.records):
            yield index, example(record)


class _DemoBuilder(FolderBuilder, skip_registration=True):
    """Builder of the demo set, generated if there is no `manual_dir` with it."""

    name = "lowlight_demo"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "No manual download is needed."
    dataset = catalogue.get(name)

    def _root(self, dl_manager: tfds.download.DownloadManager) -> pathlib.Path:
        try:
            return super()._root(dl_manager)
        except AssertionError:  # TFDS raises it if the folder does not exist
            root = pathlib.Path(dl_manager.download_dir) / self.name
            synthetic.write_demo(root)
            return root


def builder(facts: Dataset, name: str = "") -> type[FolderBuilder]:
    """Returns the builder of a data set.

    Args:
        facts: the data set.
        name: of the prepared set; by default that of the data set.
    """
    name = name or facts.name
    return type(FolderBuilder)(
        "".join(part.capitalize() for part in name.split("_")),
        (FolderBuilder,),
        {
            "__doc__": f"{facts.title}.",
            "name": name,
            "dataset": facts,
            "MANUAL_DOWNLOAD_INSTRUCTIONS": f"{facts.get} ({facts.page}); manual_dir "
            f"is the folder that contains {facts.layout()}.",
        },
        skip_registration=True,
    )


BUILDERS: dict[str, type[FolderBuilder]] = {
    facts.name: builder(facts)
    for facts in catalogue.DATASETS.values()
    # Ordered pairs of exposures would store each image several times.
    if not facts.own and "second" not in facts.keys
} | {_DemoBuilder.name: _DemoBuilder}
"""The builders of all published sets, by name."""


def open_folders(facts: Dataset, root: pathlib.Path) -> list[sources.FolderSource]:
    """Opens all splits of a data set of folders.

    Raises:
        FileNotFoundError: if `root` does not contain it.
        ValueError: if files have no partner.
    """
    found = locating.locate(facts, root)
    if not found:
        raise FileNotFoundError(locating.missing(facts, root))
    return [
        sources.open_parts(parts, dataset=facts, split=split)
        for split, parts in found.items()
    ]


@dataclasses.dataclass(frozen=True)
class Record:
    """One stored record.

    Attributes:
        name: its name.
        scene: its scene.
        files: key -> file of the image.
    """

    name: str
    scene: str
    files: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Split:
    """The records of one stored split, sorted by name.

    Attributes:
        records: the records.
        sizes: (height, width) of each.
        dtypes: the dtype that holds the images of all records, by key.
        byte_sizes: the size of each image file, by key; None of frames.
    """

    records: tuple[Record, ...]
    sizes: tuple[tuple[int, int], ...]
    dtypes: Mapping[str, str]
    byte_sizes: Mapping[str, tuple[int | None, ...]]


def stored_keys(facts: Dataset) -> tuple[str, ...]:
    """Returns the images of the stored records."""
    return ("image",) if facts.shared_target else facts.keys


def features(keys: Sequence[str], bits: int) -> tfds.features.FeaturesDict:
    """Returns the TFDS schema of records with these images."""
    dtype = np.uint16 if bits > 8 else np.uint8
    images = {
        key: tfds.features.Image(shape=(None, None, 3), dtype=dtype) for key in keys
    }
    return tfds.features.FeaturesDict(
        {"name": tfds.features.Text(), "scene": tfds.features.Text(), **images}
    )


def plan_splits(opened: Sequence[sources.FolderSource]) -> dict[str, Split]:
    """Returns what is stored of the splits of folders; reads headers only.

    Raises:
        ValueError: if an image has no readable header; names the file.
    """
    plan = {}
    for source in opened:
        facts = catalogue.DATASETS.get(source.name)
        shared = facts is not None and facts.shared_target
        names, scenes, found = source.names, source.scenes, source.files
        keys = ("image",) if shared else source.keys
        split = _STORED.get(source.split, source.split)
        plan[split] = _plan(
            names, scenes, [dict(zip(keys, paths, strict=False)) for paths in found]
        )
        if shared:
            targets = dict(
                sorted(
                    (name.rpartition("/")[0], paths[1])
                    for name, paths in zip(names, found, strict=True)
                )
            )
            plan[split + TARGETS] = _plan(
                targets, targets, [{"image": path} for path in targets.values()]
            )
    return plan


def _plan(names, scenes, found: Sequence[Mapping[str, pathlib.Path]]) -> Split:
    """Returns a split of named files."""
    records = tuple(
        Record(name, scene, {key: str(path) for key, path in paths.items()})
        for name, scene, paths in zip(names, scenes, found, strict=True)
    )
    keys = tuple(found[0])
    # As a source of images alone: a single place knows headers and depths.
    headers = {
        key: sources.FolderSource(
            name="",
            split="",
            keys=("image",),
            names=tuple(names),
            scenes=tuple(scenes),
            files=tuple((paths[key],) for paths in found),
        )
        for key in keys
    }
    return Split(
        records=records,
        sizes=tuple(map(tuple, headers["image"].sizes().tolist())),
        dtypes={key: str(source.dtypes()["image"]) for key, source in headers.items()},
        byte_sizes={
            key: tuple(source.byte_size(i, "image") for i in range(len(source)))
            for key, source in headers.items()
        },
    )


def check_depth(split: Split, bits: int) -> None:
    """Checks that the schema holds the depth of all images.

    Raises:
        ValueError: naming the depth that is needed.
    """
    deepest = max(np.dtype(dtype).itemsize for dtype in split.dtypes.values())
    if deepest > 2:
        raise ValueError(
            "Images of 32 bits have no place in the TFDS format; train from the folder "
            "itself, or convert them to 16 bits."
        )
    if 8 * deepest > bits:
        raise ValueError(
            f"The images have {8 * deepest} bits and the builder was made for {bits}; "
            "make it with bits=16, or use `llie-jax data prepare`, which looks."
        )


def metadata(plan: Mapping[str, Split]) -> dict[str, dict[str, Any]]:
    """Returns what a reader should know without reading records."""
    return {
        "names": {key: [each.name for each in s.records] for key, s in plan.items()},
        "scenes": {key: [each.scene for each in s.records] for key, s in plan.items()},
        "sizes": {key: [list(size) for size in s.sizes] for key, s in plan.items()},
        "dtypes": {key: dict(s.dtypes) for key, s in plan.items()},
        "byte_sizes": {
            key: {image: list(sizes) for image, sizes in s.byte_sizes.items()}
            for key, s in plan.items()
        },
    }


def example(record: Record) -> dict[str, Any]:
    """Returns a record as TFDS encodes it."""
    images = {}
    for key, file in record.files.items():
        # A path: TFDS stores the bytes of a file as they are, but needs TensorFlow to
        # encode an array.
        images[key] = file
        if frames.is_frame(file):
            images[key] = frames.to_png(pathlib.Path(file).read_bytes(), file)
    return {"name": record.name, "scene": record.scene, **images}


def splits(directory: str | pathlib.Path) -> dict[str, list[str]]:
    """Returns the names of the records of each split of a prepared set.

    Raises:
        ValueError: if the folder was not written by `prepare`.
    """
    names = _metadata(directory)["names"]
    shown = {stored: split for split, stored in _STORED.items()}
    return {
        shown.get(key, key): value
        for key, value in names.items()
        if not key.endswith(TARGETS)
    }


def _metadata(directory: str | pathlib.Path) -> dict[str, Any]:
    info = tfds.builder_from_directory(directory).info
    found = dict(info.metadata or {})
    names = found.get("names") or {}
    for name in itertools.chain(*names.values()):
        files.inside(directory, name)  # raises: names become those of written files
    if not names or "image" not in info.features:
        raise ValueError(
            f"{directory} is a TFDS data set, but was not written by "
            "`llie-jax data prepare`."
        )
    if "sizes" not in found:
        raise ValueError(
            f"{directory} was written by an older version; prepare the set again."
        )
    return found


def open_prepared(
    directory: str | pathlib.Path, *, split: str | None = None
) -> "PreparedSource":
    """Opens one split of a prepared set.

    Raises:
        ValueError: if there is no such split, or the folder was not written by
            `prepare`.
    """
    facts = _metadata(directory)
    split = sources.choose_split(split, list(splits(directory)), where=str(directory))
    info = tfds.builder_from_directory(directory).info
    known = catalogue.DATASETS.get(info.name)
    stored = _STORED.get(split, split)
    targets = facts["names"].get(stored + TARGETS)
    keys = sorted(facts["dtypes"][stored], key=lambda key: key != "image")
    return PreparedSource(
        directory=files.path(directory),
        name=info.name,
        split=split,
        keys=(*keys, "target") if targets else tuple(keys),
        names=tuple(facts["names"][stored]),
        scenes=tuple(facts["scenes"][stored]),
        stored_sizes=tuple(map(tuple, facts["sizes"][stored])),
        stored_dtypes=facts["dtypes"][stored]
        | ({"target": facts["dtypes"][stored + TARGETS]["image"]} if targets else {}),
        stored_byte_sizes={
            key: sizes
            for key, sizes in facts.get("byte_sizes", {}).items()
            if key in (stored, stored + TARGETS)
        },
        targets=tuple(targets or ()),
        size=known.size if known else None,
    )


@dataclasses.dataclass(frozen=True)
class PreparedSource(sources.Source):
    """Records in a folder written by `prepare`; made by `open_prepared`.

    Attributes:
        stored_sizes: (height, width) of each record as it is stored.
        stored_dtypes: the dtype that holds the images of all records, by key.
        stored_byte_sizes: the sizes of the image files by stored split and key; empty
            for sets that were prepared by older versions.
        targets: names of the references, if scenes share them.
    """

    directory: pathlib.Path
    name: str
    split: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    scenes: tuple[str, ...]
    stored_sizes: tuple[tuple[int, int], ...]
    stored_dtypes: Mapping[str, str]
    stored_byte_sizes: Mapping[str, Mapping[str, Sequence[int | None]]]
    targets: tuple[str, ...] = ()
    size: tuple[int, int] | None = None

    @property
    def expected_counts(self) -> Mapping[str, int]:
        """The published number of records per split."""
        known = catalogue.DATASETS.get(self.name)
        return known.counts if known else {}

    def sizes(self) -> np.ndarray:
        """Returns the sizes of all records, int32 [N, 2] of (H, W)."""
        if self.size:
            return super().sizes()
        return np.array(self.stored_sizes, np.int32).reshape(-1, 2)

    def dtypes(self) -> dict[str, np.dtype]:
        """Returns the dtype that holds the images of all records, by key."""
        return {key: np.dtype(self.stored_dtypes[key]) for key in self.keys}

    def byte_size(self, index: int, key: str) -> int | None:
        """Returns the size of the file that an image was prepared from, if known."""
        split, stored, place = self._place(index, key)
        sizes = self.stored_byte_sizes.get(split)
        return sizes[stored][place] if sizes else None

    def identity(self, index: int, key: str) -> tuple[int, str]:
        """Returns what is equal for records that share an image's file."""
        return self._place(index, key)[1:], key

    def _place(self, index: int, key: str) -> tuple[str, str, int]:
        """Returns the split, the key and the position where an image is stored."""
        stored = _STORED.get(self.split, self.split)
        if key != "target" or not self.targets:
            return stored, key, index
        scene = self.names[index].rpartition("/")[0]
        return stored + TARGETS, "image", self._target_places[scene]

    @functools.cached_property
    def _target_places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.targets)}

    @functools.cached_property
    def _records(self) -> dict[str, Sequence[dict[str, Any]]]:
        """The records of each stored split with undecoded images."""
        # `Source` decodes them, so grey and transparent images become RGB in the same
        # way as from folders.
        stored = tfds.builder_from_directory(self.directory)
        raw = {
            key: tfds.decode.SkipDecoding()
            for key, feature in stored.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        split = _STORED.get(self.split, self.split)
        wanted = [split, *([split + TARGETS] if self.targets else [])]
        return {each: stored.as_data_source(each, decoders=raw) for each in wanted}

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        name = f"the {key} {self.names[index]!r} of {self.directory}"
        split, stored, place = self._place(index, key)
        return bytes(self._records[split][place][stored]), name

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in vars(self).items()
            if key not in ("_records", "_target_places")
        }
