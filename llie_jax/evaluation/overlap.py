"""Whether the images of a score were among those that the weights were trained on."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from llie_jax import data
from llie_jax import weights as weight_files
from llie_jax.data import catalogue, mixture, sources
from llie_jax.data.sources import Source

_VAGUE = ("dataset", "image", "images")
"""Names of folders that do not tell which set it is."""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Scored images that the weights were trained on.

    Attributes:
        trained_on: the training set.
        fact: how many images, and how that is known.
    """

    trained_on: str
    fact: str

    def __str__(self) -> str:
        return f"trained on {self.trained_on}: {self.fact}"


def find(trained_on: str, scored: Source, root: str | None = None) -> Overlap | None:
    """Returns the overlap of training and scored images, None if there is none.

    Where both sets are at hand, their pixels are compared; otherwise, and for images
    made of parts of others, the catalogue says which sets share images.

    Args:
        trained_on: the training data, any text that names sets of the catalogue.
        scored: the scored images.
        root: the folder of the training set; by default the set's default folder.
    """
    known = catalogue.DATASETS.get(scored.name)
    # Of folders of one's own the name says nothing.
    published = known and not known.own
    if published and scored.split == "train" and was_selected_on(trained_on, scored):
        return Overlap(scored.name, "the scored images are its training split")
    for name, fact in (known.seen_by if known else {}).items():
        if not _names(trained_on, name):
            continue
        training = None if known.composite else _open(name, root)
        if training is None:
            return Overlap(name, f"{fact} (by the names of the sets)")
        shared = len(_pixels(training) & _pixels(scored))
        if shared:
            return Overlap(
                name, f"{shared} of {len(scored)} scored images are training images"
            )
    return None


def was_selected_on(selected_on: str, scored: Source) -> bool:
    """Returns whether weights were chosen by their scores on the scored images.

    Args:
        selected_on: sets and splits as text, such as "lol_v1 test"; a set without a
            split means all of it.
        scored: the scored images.
    """
    if not _names(selected_on, scored.name):
        return False
    known = catalogue.DATASETS.get(scored.name)
    splits = known.splits if known else ("train", "test")
    named = [split for split in splits if re.search(rf"\b{split}\b", selected_on)]
    return not named or scored.split in named


def training_data(described: Mapping[str, Any], config: Mapping[str, Any] | None):
    """Returns the name and the root of what weights were trained on.

    Args:
        described: from `llie_jax.weights.describe`.
        config: the run's config, if they come from a run.
    """
    if config:
        root = config["data"]["train"]["root"]
        return mixture.trained_on(config["data"]), root or None
    metadata = described["metadata"]
    published = weight_files.recognise(metadata.get("source_sha256", ""))
    facts = metadata.get("trained_on", ""), published.trained_on if published else ""
    return ", ".join(filter(None, facts)), None


def _names(text: str, name: str) -> bool:
    """Returns whether "LOL-v2 real, LSRW" names the set `lol_v2_real`.

    Names of its folders count too: "LOL" alone is LOL-v1.
    """
    text = text.lower()
    known = catalogue.DATASETS.get(name)
    if any(
        re.search(rf"(?<![\w-]){re.escape(alias)}(?![\w-])", text)
        for alias in (known.wrappers if known else ())
        if alias not in _VAGUE
    ):
        return True
    name, text = (re.sub(r"[^a-z0-9]", "", each) for each in (name, text))
    return name in text


def _open(name: str, root: str | None) -> Source | None:
    try:
        return data.open_source(name, root=root, split="train")
    except (OSError, ValueError):
        return None


def _pixels(source: Source) -> set[str]:
    """Returns a hash of each input's pixels."""

    def digest(index: int) -> str:
        image = source.image(index, "image")
        return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()

    return set(sources.parallel_map(digest, range(len(source))))
