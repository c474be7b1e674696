"""NIQE, a score without reference: the distance to statistics of pristine images.

All take RGB images [H, W, 3], uint8, uint16 or floats in [0, 1], rounded to 8 bits.
Lower is better. They work in float64, since the pseudo-inverse amplifies rounding.
Scores depend on the pristine parameters: those of the original release are what papers
use, see `load_parameters`.

Source: Mittal et al., Making a "Completely Blind" Image Quality Analyzer, IEEE SPL
2013.
"""

import abc
import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from scipy import io as matlab
from scipy import ndimage, special

from llie_jax import files, messages
from llie_jax.features import packages, weights
from llie_jax.image import color, resize
from llie_jax.metrics import values
from llie_jax.metrics.base import ORIGIN, Metric, MetricCard
from llie_jax.registry import register

BLOCK = 96
"""Side of the blocks at full size, in pixels; 48 at half size."""

FILE = "niqe.npz"
"""The name of the file of pristine parameters in the usual places."""

ORIGINAL = "the original release"
"""The origin of the parameters that papers use."""

_ORIGINAL_DIGEST = "0d50e6d00688e04b651458368fd80e2feca4528a5a5b32bbf00641fae4ea5f80"
_PAGE = "https://github.com/XPixelGroup/BasicSR/tree/master/basicsr/metrics"
_FEATURES = 36
_SHARP = 0.75  # share of the sharpest block's sharpness, from which a block is used
_OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = special.gamma(2 / _SHAPES) ** 2 / (
    special.gamma(1 / _SHAPES) * special.gamma(3 / _SHAPES)
)


@dataclasses.dataclass(frozen=True)
class _NIQE(Metric):
    """NIQE with one conversion to luma and one way to halve the image.

    Attributes:
        antialiased: whether the image is halved as MATLAB does; otherwise bilinearly.
        parameters: file of the pristine parameters; "" looks in the usual places.
        crop_border: pixels to leave out at every side.
    """

    antialiased: ClassVar[bool] = True

    parameters: str = ""
    crop_border: int = 0

    def load_constants(self) -> dict[str, Any]:
        """Loads the pristine parameters, see `load_parameters`."""
        mean, covariance, origin = load_parameters(self.parameters or None)
        return {"mean": mean, "covariance": covariance, ORIGIN: origin}

    @abc.abstractmethod
    def luma(self, image: np.ndarray) -> np.ndarray:
        """Returns the luma [H, W] of 8-bit levels [H, W, 3].

        It is computed in float32, as in the scripts: where a value lies between two
        integers, rounding depends on the last bit, and so do the later digits of NIQE.
        """

    def __call__(self, images, targets, constants):
        """Returns the distance of each image to the pristine statistics."""
        del targets
        return [self._distance(image, constants) for image in images]

    def _distance(self, image: np.ndarray, constants) -> float:
        image = values.crop(values.to_levels(image), self.crop_border)
        height, width = image.shape[:2]
        if min(height, width) < BLOCK:
            raise ValueError(
                f"NIQE needs at least {BLOCK} x {BLOCK} pixels; {height} x {width} are "
                "left."
            )
        if min(height, width) < 2 * BLOCK:
            messages.note(
                f"NIQE of an image of {height} x {width} pixels means little: below "
                f"{2 * BLOCK} on a side, the covariance of its blocks is singular."
            )
        rows, _ = block_features(self.luma(image), antialiased=self.antialiased)
        mean, covariance = statistics(rows)
        difference = constants["mean"] - mean
        inverse = np.linalg.pinv((constants["covariance"] + covariance) / 2)
        return float(np.sqrt(difference @ inverse @ difference))


def _card(used_by: str) -> MetricCard:
    return MetricCard(
        used_by=used_by,
        higher_is_better=False,
        needs_target=False,
        minimum_size=BLOCK,
    )


@register("niqe", _card("current BasicSR; agrees with the original release"))
class NIQE(_NIQE):
    """NIQE on BT.601 luma rounded to integers."""

    def luma(self, image: np.ndarray) -> np.ndarray:
        """Returns the rounded luma [H, W]."""
        return np.rint(color.luma_bt601(_unit(image)))


@register("niqe_legacy", _card("older forks of BasicSR, the Restormer family"))
class NIQELegacy(_NIQE):
    """NIQE on unrounded luma, halved without antialiasing."""

    antialiased = False

    def luma(self, image: np.ndarray) -> np.ndarray:
        """Returns the unrounded luma [H, W]."""
        return color.luma_bt601(_unit(image))


@register("niqe_swapped", _card("HVI-CIDNet"))
class NIQESwapped(NIQE):
    """`niqe` with red and blue swapped, as scripts do that mix up their order."""

    def luma(self, image: np.ndarray) -> np.ndarray:
        """Returns the rounded luma [H, W] of the swapped image."""
        return super().luma(image[..., ::-1])


@register("niqe_yiq", _card("near pyiqa's niqe, which DarkIR and recent papers use"))
class NIQEYIQ(_NIQE):
    """NIQE on the Y of YIQ (0 to 255), rounded to integers."""

    def luma(self, image: np.ndarray) -> np.ndarray:
        """Returns the rounded Y [H, W]."""
        return np.rint(255 * color.gray(_unit(image)))


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def block_features(
    luma: np.ndarray, *, antialiased: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of an image's blocks, and how sharp the blocks are.

    Args:
        luma: [H, W], 0 to 255, float64; at least `BLOCK` high and wide. What is left of
            the last whole block is not used.
        antialiased: see `_NIQE`.

    Returns:
        [blocks, 36], 18 features at full and 18 at half size, with NaN for blocks
        without texture; and the mean local deviation of each block [blocks].
    """
    height, width = (side // BLOCK * BLOCK for side in luma.shape)
    luma = luma[:height, :width].astype(np.float64)
    found = []
    for side in (BLOCK, BLOCK // 2):
        normalised, deviation = _normalised(luma)
        found.append(_features(_blocks(normalised, side)))
        if side == BLOCK:
            sharpness = _blocks(deviation, side).mean((1, 2))
            half = (height // 2, width // 2)
            if antialiased:
                luma = 255 * resize.resize_matlab(luma / 255, half)
            else:
                luma = luma.reshape(half[0], 2, half[1], 2).mean((1, 3))
    return np.concatenate(found, axis=1), sharpness


def statistics(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean [36] and the covariance [36, 36] of the features of blocks.

    Args:
        rows: [blocks, 36]. The mean ignores each NaN, the covariance rows with one; it
            is zero if fewer than two rows are left.
    """
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):  # no block has this feature: NaN
        mean = np.where(known, rows, 0).sum(0) / known.sum(0)
    whole = rows[known.all(1)]
    if len(whole) < 2:
        return mean, np.zeros((rows.shape[1], rows.shape[1]))
    return mean, np.cov(whole, rowvar=False)


def fit(images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pristine parameters of images: mean [36] and covariance [36, 36].

    Only blocks count whose sharpness is more than 0.75 of that of the image's sharpest.

    Args:
        images: RGB [H, W, 3], uint8, uint16 or floats in [0, 1], sharp and well
            exposed. The original release used 125 photographs of 480 x 320 to 1280 x
            720 pixels.

    Raises:
        ValueError: if an image is smaller than a block, or too few blocks are left for
            a covariance of full rank.
    """
    found = []
    for number, image in enumerate(images):
        if min(image.shape[:2]) < BLOCK:
            raise ValueError(
                f"Image {number + 1} is {image.shape[0]} x {image.shape[1]}; NIQE "
                f"needs at least {BLOCK} x {BLOCK} pixels."
            )
        rows, sharpness = block_features(NIQE().luma(values.to_levels(image)))
        found.append(rows[sharpness > _SHARP * sharpness.max()])
    rows = np.concatenate(found) if found else np.empty((0, _FEATURES))
    whole = np.count_nonzero(~np.isnan(rows).any(1))
    if whole <= _FEATURES:
        raise ValueError(
            f"{len(found)} images have {whole} sharp blocks of {BLOCK} x {BLOCK} "
            f"pixels; more than {_FEATURES} are needed, and thousands are better."
        )
    return statistics(rows)


def save_parameters(
    path: str | os.PathLike, mean: np.ndarray, covariance: np.ndarray, origin: str
) -> None:
    """Writes pristine parameters to a `.npz`, with the names that BasicSR uses.

    Args:
        path: the file.
        mean: [36].
        covariance: [36, 36].
        origin: where they come from, in words.
    """
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mu_pris_param=mean[None],
            cov_pris_param=covariance,
            origin=np.array(origin),
        )


def load_parameters(
    path: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the mean [36], the covariance [36, 36], and where they come from.

    Args:
        path: BasicSR's `.npz`, MATLAB's `.mat`, or a file by `llie-jax niqe-fit`. None
            looks for `niqe.npz` in the folder LLIE_JAX_WEIGHTS and in
            `~/.cache/llie_jax`, then in an installed BasicSR or what pyiqa has
            downloaded.

    Raises:
        FileNotFoundError: if there is none; the message says how to get one.
        ValueError: if the file is damaged or holds something else.
    """
    path = _find(path)
    try:
        arrays = _read(path)
        mean = np.asarray(arrays["mean"], np.float64).reshape(_FEATURES)
        covariance = np.asarray(arrays["covariance"], np.float64)
        covariance = covariance.reshape(_FEATURES, _FEATURES)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} does not hold the pristine parameters of NIQE ({error}); expected "
            "mu_pris_param (36 values) and cov_pris_param (36 x 36)."
        ) from error
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path} holds values that are not finite.")
    arrays_digest = weights.digest({"mean": mean, "covariance": covariance})
    if arrays_digest == _ORIGINAL_DIGEST:
        return mean, covariance, ORIGINAL
    origin = arrays.get("origin") or path.name
    return mean, covariance, f"{origin} (sha256 {arrays_digest[:12]})"


def _find(path: str | os.PathLike | None) -> pathlib.Path:
    """Returns the file of pristine parameters."""
    if path is not None:
        looked = [files.path(path).expanduser()]
    else:
        torch_home = os.environ.get("TORCH_HOME", "~/.cache/torch")
        looked = [
            *weights.places(FILE),
            packages.locate("basicsr/metrics/niqe_pris_params.npz"),
            pathlib.Path(torch_home).expanduser()
            / "hub/pyiqa/niqe_modelparameters.mat",
        ]
    for place in looked:
        if place is not None and place.is_file():
            return files.local_copy(place)
    where = " or ".join(str(place) for place in looked if place is not None)
    raise FileNotFoundError(
        f"No pristine parameters of NIQE at {where}, nor in an installed BasicSR. Get "
        f"niqe_pris_params.npz from {_PAGE} and save it as "
        f"{weights.places(FILE)[-1]}; or `llie-jax niqe-fit FOLDER` computes "
        "parameters from your own pristine photos, whose scores are not comparable "
        "with those of papers."
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns "mean", "covariance" and perhaps "origin" of a file."""
    if path.suffix == ".mat":
        found = matlab.loadmat(path)
        return {"mean": found["mu_prisparam"], "covariance": found["cov_prisparam"]}
    with np.load(path, allow_pickle=False) as found:
        origin = {"origin": str(found["origin"])} if "origin" in found else {}
        return {
            "mean": found["mu_pris_param"],
            "covariance": found["cov_pris_param"],
            **origin,
        }


def _normalised(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the luma without local mean and contrast, and the local deviation."""
    taps = np.exp(-0.5 * ((np.arange(7) - 3) / (7 / 6)) ** 2)
    taps /= taps.sum()

    def mean(x):
        rows = ndimage.correlate1d(x, taps, axis=1, mode="nearest")
        return ndimage.correlate1d(rows, taps, axis=0, mode="nearest")

    centre = mean(luma)
    deviation = np.sqrt(np.abs(mean(luma**2) - centre**2))
    return (luma - centre) / (deviation + 1), deviation


def _blocks(x: np.ndarray, side: int) -> np.ndarray:
    """Returns the blocks [blocks, side, side] of [H, W], column by column."""
    rows, columns = x.shape[0] // side, x.shape[1] // side
    blocks = x.reshape(rows, side, columns, side).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(blocks).reshape(rows * columns, side, side)


def _features(blocks: np.ndarray) -> np.ndarray:
    """Returns 18 features of each block, [blocks, 18]."""
    shape, left, right = _asymmetric_gaussian(blocks)
    found = [shape, (left + right) / 2]
    for offset in _OFFSETS:
        neighbours = np.roll(blocks, offset, axis=(1, 2))
        shape, left, right = _asymmetric_gaussian(blocks * neighbours)
        mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
        found += [shape, mean, left, right]
    return np.stack(found, axis=1)


def _asymmetric_gaussian(
    blocks: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits an asymmetric generalised Gaussian: shape, left and right scale, [blocks].

    Source: Lasmar et al., ICIP 2009, by moments.
    """
    x = blocks.reshape(len(blocks), -1)
    square = x * x
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN without texture
        left, right = (
            np.sqrt(np.where(side, square, 0).sum(1) / side.sum(1))
            for side in (x < 0, x > 0)
        )
        skew = left / right
        ratio = np.abs(x).mean(1) ** 2 / square.mean(1)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    known = np.isfinite(ratio)
    # The ratio grows with the shape: the nearest on the grid is one of two.
    place = np.searchsorted(_RATIOS, np.where(known, ratio, 0)).clip(
        1, len(_RATIOS) - 1
    )
    place -= ratio - _RATIOS[place - 1] < _RATIOS[place] - ratio
    shape = np.where(known, _SHAPES[place], np.nan)
    scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
    return shape, left * scale, right * scale
