"""Data sets in the TFDS format: written once, read anywhere, without TensorFlow.

A prepared set is a folder of array_record files with the original bytes of the image
files, so it yields the same pixels as the folders. `prepare` writes it, and
`opening.open_source` reads it. The builders are also available through TFDS: each
folder of `datasets/` at the root of the repository registers one.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from llie_jax import files
from llie_jax.data import catalogue, sources, synthetic


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of a data set of folders; a subclass sets `name`.

    The folder of the data set is TFDS's `manual_dir`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  TFDS requires a dict
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the folder of the data set as manual_dir."

    def _info(self) -> tfds.core.DatasetInfo:
        dataset = catalogue.get(self.name)
        images = {
            key: tfds.features.Image(shape=(None, None, 3)) for key in dataset.keys
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{dataset.title}. Licence: {dataset.licence}.",
            homepage=dataset.page or None,
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "scene": tfds.features.Text(), **images}
            ),
            supervised_keys=dataset.keys if "target" in dataset.keys else None,
            # Keeps records in sorted order, so their names are known without reading.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(names={}, scenes={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = self._root(dl_manager)
        dataset = catalogue.get(self.name)
        found = catalogue.locate(dataset, root)
        if not found:
            raise FileNotFoundError(catalogue.missing(dataset, root))
        return {
            split: self._generate_examples(
                sources.open_folders(folders, dataset=dataset, split=split)
            )
            for split, folders in found.items()
        }

    def _root(self, dl_manager: tfds.download.DownloadManager) -> pathlib.Path:
        """Returns the folder of the data set."""
        return pathlib.Path(dl_manager.manual_dir)

    def _generate_examples(self, source: sources.FolderSource):
        self.info.metadata["names"][source.split] = list(source.names)
        self.info.metadata["scenes"][source.split] = list(source.scenes)
        for index, paths in enumerate(source.files):
            # As paths: TFDS stores the bytes of a file as they are, but needs
            # TensorFlow to encode an array.
            images = dict(zip(source.keys, map(str, paths), strict=True))
            yield (
                index,
                {"name": source.names[index], "scene": source.scenes[index], **images},
            )


def _instructions(name: str) -> str:
    """Returns how to get a data set, and what its manual_dir is."""
    dataset = catalogue.get(name)
    return (
        f"{dataset.get} ({dataset.page}); manual_dir is the folder that contains "
        f"{dataset.layout()}."
    )


class LolV1(FolderBuilder, skip_registration=True):
    """LOL-v1."""

    name = "lol_v1"
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(name)


class LolV2Real(FolderBuilder, skip_registration=True):
    """The real part of LOL-v2."""

    name = "lol_v2_real"
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(name)


class LolV2Syn(FolderBuilder, skip_registration=True):
    """The synthetic part of LOL-v2."""

    name = "lol_v2_syn"
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions(name)


class LowlightDemo(FolderBuilder, skip_registration=True):
    """The demo set; generated if there is no `manual_dir` with it."""

    name = "lowlight_demo"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "No manual download is needed."

    def _root(self, dl_manager: tfds.download.DownloadManager) -> pathlib.Path:
        try:
            return super()._root(dl_manager)
        except AssertionError:  # TFDS raises it if the folder does not exist
            root = pathlib.Path(dl_manager.download_dir) / self.name
            synthetic.write_demo(root)
            return root


BUILDERS: dict[str, type[FolderBuilder]] = {
    builder.name: builder for builder in (LolV1, LolV2Real, LolV2Syn, LowlightDemo)
}


def prepare(
    name: str, *, root: str | os.PathLike, data_dir: str | os.PathLike
) -> pathlib.Path:
    """Writes a data set in the TFDS format.

    Args:
        name: a data set of `BUILDERS`.
        root: the folder of the data set.
        data_dir: the folder to write to; the set goes to `<name>/<version>` in it.

    Returns:
        The folder of the prepared set.

    Raises:
        ValueError: if the set needs no preparation, or files have no partner.
        FileExistsError: if it is already prepared.
        FileNotFoundError: if `root` does not contain it.
    """
    if name not in BUILDERS:
        catalogue.get(name)
        raise ValueError(
            f"{name} needs no preparation; sets that can be prepared: "
            f"{', '.join(BUILDERS)}."
        )
    builder = BUILDERS[name](data_dir=os.path.abspath(data_dir))
    directory = pathlib.Path(builder.data_dir)
    if directory.exists():
        raise FileExistsError(
            f"{directory} already exists and can be used; to rewrite it, remove it."
        )
    tfds.disable_progress_bar()
    with (
        tempfile.TemporaryDirectory() as downloads,
        contextlib.redirect_stdout(io.StringIO()),  # silences TFDS
    ):
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(
                manual_dir=os.path.abspath(root),
                try_download_gcs=False,
                compute_stats=tfds.download.ComputeStatsMode.SKIP,
            ),
            file_format=tfds.core.FileFormat.ARRAY_RECORD,
        )
    return directory


def splits(directory: str | os.PathLike) -> dict[str, list[str]]:
    """Returns the names of the records of each split of a prepared set.

    Raises:
        ValueError: if the folder was not written by `prepare`.
    """
    info = tfds.builder_from_directory(directory).info
    names = dict(info.metadata or {}).get("names")
    for name in itertools.chain(*(names or {}).values()):
        files.inside(directory, name)  # raises: names become those of written files
    if not names or "image" not in info.features:
        raise ValueError(
            f"{directory} is a TFDS data set, but was not written by "
            "`llie-jax data prepare`."
        )
    return names


def open_prepared(
    directory: str | os.PathLike, *, split: str | None = None
) -> "PreparedSource":
    """Opens one split of a prepared set.

    Raises:
        ValueError: if there is no such split, or the folder was not written by
            `prepare`.
    """
    names = splits(directory)
    split = sources.choose_split(split, list(names), where=str(directory))
    info = tfds.builder_from_directory(directory).info
    return PreparedSource(
        directory=pathlib.Path(directory),
        name=info.name,
        split=split,
        keys=tuple(
            key
            for key in sorted(info.features, key=lambda key: key != "image")
            if isinstance(info.features[key], tfds.features.Image)
        ),
        names=tuple(names[split]),
        scenes=tuple(info.metadata["scenes"][split]),
    )


@dataclasses.dataclass(frozen=True)
class PreparedSource(sources.Source):
    """Records in a folder written by `prepare`; made by `open_prepared`."""

    directory: pathlib.Path
    name: str
    split: str
    keys: tuple[str, ...]
    names: tuple[str, ...]
    scenes: tuple[str, ...]

    @property
    def expected_counts(self) -> Mapping[str, int]:
        """The published number of records per split."""
        known = catalogue.DATASETS.get(self.name)
        return known.counts if known else {}

    @functools.cached_property
    def _records(self) -> Sequence[dict[str, Any]]:
        """The records with undecoded images, opened on first use."""
        # `Source` decodes them, so grey and transparent images become RGB in the same
        # way as from folders.
        raw = {key: tfds.decode.SkipDecoding() for key in self.keys}
        builder = tfds.builder_from_directory(self.directory)
        return builder.as_data_source(self.split, decoders=raw)

    def _read(self, index: int, key: str) -> tuple[bytes, str]:
        name = f"the {key} {self.names[index]!r} of {self.directory}"
        return bytes(self._records[index][key]), name

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "_records"}
