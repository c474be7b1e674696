"""Opens a data set by name or by folder.

The layout of a folder tells what it contains; what is prepared is preferred:

    open_source("lol_v1", split="train")        # $LLIE_JAX_DATA/lol_v1 or data/lol_v1
    open_source("lol_v1", root="/disk/LOL", split="test")
    open_source("my_pairs")                     # my_pairs/low and my_pairs/high
    open_source("my_photos")                    # photos without references
    open_source("data/lol_v1/2.0.0")            # prepared by `llie-jax data prepare`
"""

import os
import pathlib

from llie_jax import files
from llie_jax.data import catalogue, locating, sources
from llie_jax.data.dataset import Dataset


def open_source(
    name_or_folder: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
) -> sources.Source:
    """Opens one split of a data set.

    Args:
        name_or_folder: a name of `catalogue.DATASETS`, or a folder: LOL-v1 as unpacked
            (`our485`, `eval15`, or `LOLv1/{Train,Test}`), own pairs (`low` and `high`,
            or `train` and `test` with these inside), own photos, or prepared by TFDS.
        root: the folder of a named data set; by default `$LLIE_JAX_DATA/<name>`, or
            `data/<name>` in the working directory.
        split: "train", "test", ...; optional if there is only one. A folder without
            splits ignores it; its split is "all".

    Raises:
        FileNotFoundError: if the data are absent; the message says how to get them.
        ValueError: if the name, layout or split is unknown or ambiguous, a folder is
            empty, or files have no partner.
    """
    dataset, root = resolve(name_or_folder, root=root)
    directory = locating.prepared(root)
    found = locating.locate(dataset, root) if dataset and not directory else {}
    if not found:
        directory = directory or find_prepared(dataset, root)
        # Imported late: TFDS takes a second to import, and folders do not need it.
        from llie_jax.data import prepared

        return prepared.open_prepared(directory, split=split)
    split = sources.choose_split(split, list(found), where=str(root))
    return sources.open_parts(found[split], dataset=dataset, split=split)


def resolve(
    name_or_folder: str | os.PathLike, *, root: str | os.PathLike | None = None
) -> tuple[Dataset | None, pathlib.Path]:
    """Returns the data set that a name or folder stands for, and its folder.

    The set is None for a folder without a known layout, such as a prepared one.

    Raises:
        ValueError: if it is neither a known name nor a folder, or the folder contains
            both pairs and photos.
    """
    name = os.fspath(name_or_folder)
    root = root or None  # "" in a config means the default location
    if name in catalogue.DATASETS:
        dataset = catalogue.get(name)
        if root is None and dataset.own:
            raise ValueError(
                f"{name} needs its folder: give the folder itself, or root."
            )
        root = catalogue.default_root(name) if root is None else files.path(root)
        return dataset, root.expanduser()
    folder = files.path(name).expanduser()
    if not folder.is_dir():
        catalogue.get(name)  # raises: neither a folder nor a name
    if root is not None:
        raise ValueError(
            f"{name} is a folder and root={os.fspath(root)!r} is another; give one."
        )
    return locating.recognise(folder), folder


def find_prepared(dataset: Dataset | None, root: pathlib.Path) -> pathlib.Path:
    """Returns the prepared data set at `root`, or its newest version below `root`.

    Raises:
        FileNotFoundError: if there is none; the message says what is expected.
    """
    directory = locating.prepared(root)
    if directory is None:
        raise FileNotFoundError(locating.missing(dataset, root))
    return directory
