"""Low-light pairs from ordinary photographs, by a camera sensor model.

`darken` is the model, `darken_folder` makes pairs from a user's own photos, and
`write_demo` makes the data set `lowlight_demo` from the photographs in the scikit-image
package.
"""

import contextlib
import importlib.util
import os
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from llie_jax import messages
from llie_jax.files import local
from llie_jax.image import color, formats, io, levels

DEMO_PHOTOS = {
    "astronaut": ("astronaut.png",),
    "chelsea": ("chelsea.png",),
    "coffee": ("coffee.png",),
    "motorcycle": ("motorcycle_left.png", "motorcycle_right.png"),
    "rocket": ("rocket.jpg",),
}
"""Scene -> its photographs in scikit-image. The two motorcycles are a stereo pair."""

DEMO_TEST_SCENES = ("coffee",)
"""Scenes of the split "test"; all tiles of the others belong to "train"."""

DEMO_EXPOSURES = (0.03, 0.05, 0.08)
DEMO_TILE = 192


def darken(
    image: np.ndarray,
    *,
    exposure: float = 0.05,
    full_well: float = 5000.0,
    read_noise: float = 3.0,
    bits: int = 12,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """Returns the photo that a camera would take with less light.

    The photo is decoded to linear light E in [0, 1], which gives an expected
    `exposure * full_well * E` electrons per pixel. The sensor counts N of them,

        N ~ Poisson(exposure * full_well * E) + Normal(0, read_noise^2),

    an A/D converter with 2^bits levels up to `full_well` quantises N, and the result is
    encoded as 8-bit sRGB. There is no gain: the photo stays dark, like the inputs of
    LOL.

    Each colour of each pixel is a separate sensor element. A colour filter array and
    the processing after it (demosaicing, denoising, compression) are not modelled.

    Source: the standard Poisson-Gaussian model, Foi et al., Practical
    Poissonian-Gaussian noise modeling and fitting for single-image raw-data, TIP 2008;
    sRGB as in IEC 61966-2-1.

    Args:
        image: a well-lit photo [H, W, 3], sRGB; uint8, uint16, or float in [0, 1].
        exposure: factor on linear light, above 0 and at most 1; 0.05 is 4.3 stops less.
        full_well: electrons at white. Fewer electrons give more shot noise.
        read_noise: standard deviation of the read noise, in electrons.
        bits: resolution of the A/D converter, 1 to 16.
        seed: of the noise; equal arguments give equal results.

    Returns:
        uint8 [H, W, 3].

    Raises:
        TypeError: if `image` has another dtype.
        ValueError: if its shape or an option is out of range.
    """
    image = np.asarray(image)
    if image.dtype not in levels.DTYPES:
        raise TypeError(
            f"`image` must be uint8, uint16 or float32 in [0, 1]; got {image.dtype}."
        )
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"`image` must be [H, W, 3]; got {list(image.shape)}.")
    if not 0 < exposure <= 1:
        raise ValueError(f"exposure={exposure}; give a factor above 0, at most 1.")
    if not 0 < full_well < 1e12:
        raise ValueError(f"full_well={full_well}; give a positive electron count.")
    if not 0 <= read_noise < 1e12:
        raise ValueError(f"read_noise={read_noise}; give 0 or more electrons.")
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits}; give 1 to 16.")
    if min(seed if isinstance(seed, Sequence) else [seed]) < 0:
        raise ValueError(f"seed={seed}; give 0 or more.")

    rng = np.random.default_rng(seed)
    if image.dtype == np.float32:
        linear = color.srgb_to_linear(image.astype(np.float64))
    else:  # from a table
        top = np.iinfo(image.dtype).max
        linear = color.srgb_to_linear(np.arange(top + 1) / top)[image]
    electrons = rng.poisson(exposure * full_well * linear).astype(np.float64)
    electrons += rng.normal(0.0, read_noise, image.shape)
    steps = 2**bits - 1
    signal = np.round(np.clip(electrons / full_well, 0, 1) * steps) / steps
    return np.round(255 * color.linear_to_srgb(signal)).astype(np.uint8)


def darken_folder(
    photos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    exposures: Sequence[float] = (0.05,),
    full_well: float = 5000.0,
    read_noise: float = 3.0,
    bits: int = 12,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> int:
    """Writes `out/low` and `out/high` from a folder of photos: a `paired_folder`.

    Both have 8 bits; deeper photos are darkened in full depth, then rounded.

    The noise of a photo depends on `seed` and its name, not on the other photos. Each
    exposure makes a pair; with several, the names end in the exposure.

    Args:
        photos: the folder of well-lit photos.
        out: the folder to write, completely or not at all.
        exposures: see `darken`, also for the options below.
        full_well: electrons at white.
        read_noise: in electrons.
        bits: resolution of the A/D converter.
        seed: of the noise.
        progress: called with the name of each photo.

    Returns:
        The number of pairs written.

    Raises:
        ValueError: if there are no photos, two share a name, one is damaged, or `out`
            already contains files.
        OSError: if a folder cannot be read or written.
    """
    listing = io.list_folder(photos)
    files, others = listing.images, formats.describe_skipped(listing.skipped)
    if not files:
        raise ValueError(
            f"There are no photos in {photos}{others and f' ({others})'}; supported "
            f"suffixes: {formats.listed()}."
        )
    messages.note(others and f"{photos}: {others}.")
    by_stem: dict[str, pathlib.Path] = {}
    for file in files:
        if (other := by_stem.setdefault(file.stem, file)) is not file:
            raise ValueError(f"{other} and {file} make the same pair; rename one.")
    count = 0
    with _new_pairs(out) as (low, high):
        for file in files:
            progress(file.name)
            photo = io.read_rgb(file)
            for exposure in exposures:
                ending = f"-e{exposure:g}" if len(exposures) > 1 else ""
                name = f"{file.stem}{ending}.png"
                dark = darken(
                    photo,
                    exposure=exposure,
                    full_well=full_well,
                    read_noise=read_noise,
                    bits=bits,
                    seed=(seed, zlib.crc32(name.encode())),
                )
                io.write_image(low / name, dark)
                io.write_image(high / name, levels.to_uint8(photo))
                count += 1
    return count


def photographs() -> pathlib.Path:
    """Returns the folder of the photographs in the scikit-image package.

    Read as files: `skimage.data` would try to download missing ones.

    Raises:
        ModuleNotFoundError: if scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The photographs are those in scikit-image, which is not installed: pip "
            "install scikit-image"
        )
    return pathlib.Path(spec.origin).parent / "data"


def write_demo(root: str | os.PathLike, *, seed: int = 0) -> dict[str, int]:
    """Writes the data set `lowlight_demo`: `root/{train,test}/{low,high}/*.png`.

    Each photograph is cut into tiles without overlap, and each tile is darkened with
    every exposure. The photograph of the test split is not in the training split. A
    name gives photograph, tile and exposure: `coffee-r0-c1-e05`.

    Args:
        root: the folder to write.
        seed: of the noise.

    Returns:
        The number of pairs per split.

    Raises:
        ModuleNotFoundError: if scikit-image is not installed.
        FileNotFoundError: if its package lacks a photograph.
        ValueError: if `root` already contains files.
    """
    photos = photographs()
    counts = {}
    for split in ("train", "test"):
        counts[split] = 0
        with _new_pairs(os.path.join(root, split)) as (low, high):
            for scene, files in DEMO_PHOTOS.items():
                if (scene in DEMO_TEST_SCENES) != (split == "test"):
                    continue
                for name, tile, exposure in _demo_pairs(scene, files, photos):
                    noise = (seed, zlib.crc32(name.encode()))
                    dark = darken(tile, exposure=exposure, seed=noise)
                    io.write_image(low / name, dark)
                    io.write_image(high / name, tile)
                    counts[split] += 1
    return counts


def _demo_pairs(
    scene: str, files: Sequence[str], folder: pathlib.Path
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yields (file name, tile, exposure) for all pairs of one scene."""
    for view, file in enumerate(files):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"The installed scikit-image does not contain {file}; install a "
                "release that does, such as 0.26."
            )
        prefix = scene if len(files) == 1 else f"{scene}-v{view}"
        for place, tile in _tiles(io.read_rgb(folder / file), DEMO_TILE):
            for exposure in DEMO_EXPOSURES:
                yield (
                    f"{prefix}-{place}-e{round(100 * exposure):02d}.png",
                    tile,
                    exposure,
                )


def _tiles(image: np.ndarray, size: int) -> list[tuple[str, np.ndarray]]:
    """Returns (place, tile) for a centred grid of square tiles."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    top = (image.shape[0] - rows * size) // 2
    left = (image.shape[1] - columns * size) // 2
    return [
        (
            f"r{row}-c{column}",
            image[
                top + row * size : top + (row + 1) * size,
                left + column * size : left + (column + 1) * size,
            ],
        )
        for row in range(rows)
        for column in range(columns)
    ]


@contextlib.contextmanager
def _new_pairs(
    folder: str | os.PathLike,
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields temporary folders that become `folder/low` and `folder/high` on success.

    Raises:
        ValueError: if one of them contains files, because a mixture of old and new
            pairs is never intended.
    """
    folder = local(folder)
    final = folder / "low", folder / "high"
    for path in final:
        if path.exists() and any(path.iterdir()):
            raise ValueError(
                f"{path} already contains files; give a new folder, or remove them."
            )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as temporary:
        made = pathlib.Path(temporary, "low"), pathlib.Path(temporary, "high")
        for path in made:
            path.mkdir()
        yield made
        for path, place in zip(made, final, strict=True):
            os.replace(path, place)  # an empty folder may be replaced
