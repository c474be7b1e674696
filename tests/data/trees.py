"""Miniature data sets for the tests, in the layouts that users have on disk."""

import pathlib

import numpy as np

from llie_jax.image import io


def image(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    """A random image [height, width, 3], uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pairs(
    folder: pathlib.Path,
    names: tuple[str, ...],
    *,
    low: str = "low",
    high: str = "high",
    size: tuple[int, int] = (8, 8),
    first: int = 0,
) -> pathlib.Path:
    """Writes `folder/low` and `folder/high`; a name may include its suffix."""
    for number, name in enumerate(names, first):
        file = name if "." in name else f"{name}.png"
        for place, seed in ((low, 2 * number), (high, 2 * number + 1)):
            path = folder / place / file
            path.parent.mkdir(parents=True, exist_ok=True)
            io.write_image(path, image(seed, *size))
    return folder


def photos(
    folder: pathlib.Path, names: tuple[str, ...], *, size: tuple[int, int] = (8, 8)
) -> pathlib.Path:
    """Writes images directly into `folder`; a name may include its suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        file = name if "." in name else f"{name}.png"
        io.write_image(folder / file, image(number, *size))
    return folder


def lol(root: pathlib.Path) -> pathlib.Path:
    """Writes a LOL-v1 of three training pairs and one test pair."""
    pairs(root / "our485", ("2", "10", "7.PNG"))
    pairs(root / "eval15", ("1",), first=50)
    return root


def scenes(root: pathlib.Path, exposures: dict[str, tuple[str, ...]]) -> pathlib.Path:
    """Writes a folder for each scene with its exposures."""
    for scene, names in exposures.items():
        photos(root / scene, names)
    return root
