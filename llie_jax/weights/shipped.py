"""Weights that come with the package: `data/NAME.safetensors`, each with its card.

A card, `data/NAME.md`, says what the weights were trained on and how, what they reach,
where they fail, and their licence.
"""

import os
import pathlib

from llie_jax import files

DEFAULT = "dawn"
"""The weights that photos get if nobody chooses others."""

FOLDER = pathlib.Path(__file__).with_name("data")


def names() -> list[str]:
    """Returns the names of all weights that ship, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def locate(name: str) -> pathlib.Path | None:
    """Returns the release file of a name, None if no weights of that name ship."""
    path = FOLDER / f"{name}.safetensors"
    return path if name in names() else None


def default() -> pathlib.Path:
    """Returns the release file of `DEFAULT`.

    Raises:
        FileNotFoundError: if this copy of the package lacks it.
    """
    path = locate(DEFAULT)
    if path is None:
        raise FileNotFoundError(
            f"This copy of llie_jax comes without its weights {DEFAULT!r} (they belong "
            f"in {FOLDER}). Install the wheel, or give other weights: a run's workdir, "
            "as `make demo` trains in runs/demo, or a file that `llie-jax convert` "
            "makes of an official checkpoint."
        )
    return path


def ships(weights: str | os.PathLike | None) -> bool:
    """Returns whether weights, as given to `llie_jax.load`, come with the package."""
    if weights is None:
        return True
    path = files.path(weights)
    return not path.exists() and str(weights) in names()
