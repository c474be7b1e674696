"""The images behind the scores: inputs, references and saved outputs, found again."""

import pathlib
import unicodedata

import numpy as np

from llie_jax import files
from llie_jax.data import catalogue, opening, sources
from llie_jax.evaluation import scores as score_files
from llie_jax.evaluation.comparison.grouping import DataSet
from llie_jax.evaluation.comparison.results import Result
from llie_jax.evaluation.evaluator import thumbnail
from llie_jax.image import io

_UNREADABLE = (OSError, ValueError)


class Finder:
    """Finds the images of a data set.

    Args:
        data: the data set.

    Attributes:
        problem: why inputs and references were not found; "" if they were.
    """

    def __init__(self, data: DataSet):
        self._data = data
        self._folders: dict[str, dict[str, pathlib.Path]] = {}
        self._source, self.problem = None, ""
        for result in data.results:
            if self._source is None and result.data.get("name"):
                self._source, self.problem = _open(result)
        self._places = (
            {name: index for index, name in enumerate(self._source.names)}
            if self._source
            else {}
        )

    def input(self, name: str) -> np.ndarray | None:
        """Returns the input, scaled down, uint8 [H, W, 3]; None if it is not found."""
        return self._of_source(name, "image")

    def target(self, name: str) -> np.ndarray | None:
        """Returns the reference likewise; None too if it is not the one scored with."""
        hashes = {
            r.references[name] for r in self._data.results if name in r.references
        }
        found = self._of_source(name, "target", hashes)
        folders = (r.data["gt"] for r in self._data.results if r.data.get("gt"))
        for folder in folders if found is None else ():
            found = self._in_folder(str(folder), name, hashes)
        return found

    def output(self, result: Result, name: str) -> np.ndarray | None:
        """Returns the output of a model likewise; None if it was not saved."""
        if "pred" in result.data:
            return self._in_folder(str(result.data["pred"]), name)
        try:
            path = files.inside(result.path.parent / "images", name, suffix=".png")
            return thumbnail(io.read_rgb(path))
        except _UNREADABLE:
            return None

    def _of_source(self, name, key, hashes=frozenset()) -> np.ndarray | None:
        if self._source is None or key not in self._source.keys:
            return None
        try:
            return _checked(self._source.image(self._places[name], key), hashes)
        except (*_UNREADABLE, KeyError):
            return None

    def _in_folder(self, folder, name, hashes=frozenset()) -> np.ndarray | None:
        """Returns the image of a name in a folder, whatever its suffix."""
        try:
            if folder not in self._folders:
                self._folders[folder] = {
                    unicodedata.normalize("NFC", path.stem): path
                    for path in io.list_folder(folder).images
                }
            return _checked(io.read_rgb(self._folders[folder][name]), hashes)
        except (*_UNREADABLE, KeyError):
            return None


def _open(result: Result) -> tuple[sources.Source | None, str]:
    """Returns the data of a result; or None, and why they are not found."""
    name, root = result.data.get("name"), result.data.get("root")
    try:
        known = name in catalogue.DATASETS
        source = opening.open_source(
            name if known else root,
            root=root if known else None,
            split=result.data.get("split"),
        )
    except (*_UNREADABLE, TypeError) as error:
        return None, str(error)
    return source, ""


def _checked(image: np.ndarray, hashes) -> np.ndarray | None:
    """Returns an image scaled down; None if its hash is none of those expected."""
    if hashes and score_files.pixels_hash(image) not in hashes:
        return None
    return thumbnail(image)
