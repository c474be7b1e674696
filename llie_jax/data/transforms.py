"""Resizing, random crops, flips, rotations and mixtures, and the plan of all batches.

A plan is a pure function of the seed and the step, in NumPy, for the global batch. Both
loaders follow it, so they yield the same batches; a resumed run continues with the next
step; the number of devices or processes has no effect.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from llie_jax.data import relight
from llie_jax.data.sources import Group
from llie_jax.image import levels, overview

# Independent streams of random numbers; _REPEAT and above are of the groups.
_ORDER, _CROP, _BATCH, _LIGHT, _REPEAT = 0, 1, 2, 3, 4

CROP_KEYS = ("index", "rows", "columns", "transpose")
"""What defines a crop."""


class Stage(NamedTuple):
    """A phase of training with one static shape.

    Attributes:
        steps: number of steps.
        patch_size: height of the crops, and their width if `patch_width` is 0.
        batch_size: records per step, over all devices of all processes.
        patch_width: width of crops that are not square; 0 for square ones.
    """

    steps: int
    patch_size: int
    batch_size: int
    patch_width: int = 0

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the crops."""
        return self.patch_size, self.patch_width or self.patch_size


@dataclasses.dataclass(frozen=True)
class Augment:
    """Which random transforms are applied.

    The defaults are DarkIR's: each flip with probability 1/2, no rotation. All three
    together give the eight symmetries of the square, equally likely.

    All images of a record are cropped, flipped, rotated and mixed in the same way.

    Attributes:
        flip_horizontal: swap left and right.
        flip_vertical: swap top and bottom.
        rotate: rotate by 0, 90, 180 or 270 degrees; square crops only.
        mixup: parameter of Beta(mixup, mixup). With probability 1/2 per batch, each
            record is mixed with another record of the batch; the share that records
            keep is drawn from the distribution, once per batch. 0 never mixes;
            Retinexformer uses 1.2.
        gamma: lowest and highest exponent applied to `image`, in steps of 0.01, drawn
            once per batch; other images keep their brightness. CIDNet has (0.6, 1.2) as
            an option.
        relight: share of the records whose image is made of their target by a sensor
            model, see `relight`; 0 keeps all images.
        exposures: lowest and highest factor on linear light of relit records.

    Raises:
        ValueError: if `mixup` is negative, `gamma` is no range above 0, `relight` is
            not in [0, 1], or `exposures` is no range above 0 up to 1.
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    rotate: bool = False
    mixup: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    relight: float = 0.0
    exposures: tuple[float, float] = (0.02, 1.0)

    def __post_init__(self):
        if not 0 <= self.mixup < math.inf:
            raise ValueError(f"mixup is {self.mixup}; give 0 or more.")
        if len(self.gamma) != 2 or not 0 < self.gamma[0] <= self.gamma[1] < math.inf:
            raise ValueError(
                f"gamma is {tuple(self.gamma)}; give the lowest and the highest "
                "exponent, both above 0."
            )
        if not 0 <= self.relight <= 1:
            raise ValueError(f"relight is {self.relight}; give a share from 0 to 1.")
        if len(self.exposures) != 2 or not 0 < self.exposures[0] <= self.exposures[1]:
            raise ValueError(
                f"exposures is {tuple(self.exposures)}; give the lowest and the "
                "highest factor, above 0."
            )
        if self.exposures[1] > 1:
            raise ValueError(
                f"exposures is {tuple(self.exposures)}; factors above 1 would clip."
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which crops make up each batch.

    Attributes:
        sizes: height and width of every record's images, int [N, 2].
        stages: the phases of training, in order.
        augment: the random transforms.
        seed: seeds all random choices.
        groups: how often records occur, in order; (): each once per epoch.

    Raises:
        ValueError: if `augment` rotates crops that are not square.
    """

    sizes: np.ndarray
    stages: tuple[Stage, ...]
    augment: Augment
    seed: int
    groups: tuple[Group, ...] = ()

    def __post_init__(self):
        for height, width in (stage.crop for stage in self.stages):
            if self.augment.rotate and height != width:
                raise ValueError(
                    f"augment.rotate=True needs square crops, not {height} x {width}; "
                    "set it to False, or patch_width to 0."
                )

    @property
    def steps(self) -> int:
        """The number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def locate(self, step: int) -> tuple[Stage, int]:
        """Returns the stage of a step, and the number of samples before the step.

        Raises:
            IndexError: if the step is out of range.
        """
        first_step = samples = 0
        for stage in self.stages:
            if first_step <= step < first_step + stage.steps:
                return stage, samples + (step - first_step) * stage.batch_size
            first_step += stage.steps
            samples += stage.steps * stage.batch_size
        raise IndexError(
            f"Step {step} is not among the {first_step} steps of the plan."
        )

    def batch(
        self,
        step: int,
        part: slice = slice(None),
    ) -> dict[str, np.ndarray]:
        """Returns the crops of one step.

        Every record occurs once per epoch, or as often as its group says, and each
        epoch has its own order; epochs continue across stages.

        Args:
            step: the step, counted over all stages from 0.
            part: the records of one process; by default those of all processes.

        Returns:
            `index` int32 [B], the record; `rows` int32 [B, P] and `columns` int32
            [B, Q], the source rows and columns of the crop: consecutive numbers,
            descending if the crop is flipped; `transpose` bool [B], whether the crop is
            then transposed. With mixtures also `share` float32 [B], how much of each
            record is kept, and `partner_index`, `partner_rows` and so on, the crop that
            it is mixed with; with a range of exponents `gamma` float32 [B]; with relit
            records the entries of `relight.plan`.
        """
        # Always drawn for the global batch, so the parts of all processes agree.
        stage, samples = self.locate(step)
        crops = self._crops(step, stage, samples)
        batch = dict(crops)
        draws = _uniform(self.seed, _BATCH, step, 3 + stage.batch_size)
        mixed, share, gamma, order = *draws[:3], np.argsort(draws[3:], kind="stable")
        if self.augment.mixup:
            beta = special.betaincinv(self.augment.mixup, self.augment.mixup, share)
            share = beta if mixed < 0.5 else 1.0
            batch["share"] = np.full(stage.batch_size, share, np.float32)
            batch |= {f"partner_{key}": value[order] for key, value in crops.items()}
        low, high = self.augment.gamma
        if (low, high) != (1, 1):
            exponent = low + np.floor(gamma * (round(100 * (high - low)) + 1)) / 100
            batch["gamma"] = np.full(stage.batch_size, exponent, np.float32)
        if self.augment.relight:
            draws = _uniform(
                self.seed, _LIGHT, step, relight.DRAWS * stage.batch_size
            ).reshape(relight.DRAWS, -1)
            batch |= relight.plan(draws, self.augment.relight, self.augment.exposures)
        return {key: value[part] for key, value in batch.items()}

    @functools.cached_property
    def _repeats(self) -> tuple[tuple[int, float], ...]:
        """The number of records of each group, and how often an epoch shows each."""
        groups = self.groups or (Group("", len(self.sizes)),)
        whole = sum(group.weight for group in groups if group.count)
        return tuple(
            (
                group.count,
                group.weight / whole * len(self.sizes) / group.count
                if group.weight and group.count
                else group.repeat,
            )
            for group in groups
        )

    def _records(self, stage: Stage, samples: int) -> np.ndarray:
        """Returns the records of a global batch, int32 [B]."""
        count = len(_epoch(self.seed, 0, self._repeats))
        places = np.arange(samples, samples + stage.batch_size)
        epochs, places = np.divmod(places, count)
        index = np.empty(len(places), np.int32)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            index[here] = _epoch(self.seed, epoch, self._repeats)[places[here]]
        return index

    def shares(self, steps: range) -> dict[str, float]:
        """Returns the share of each group in the samples of some steps."""
        index = np.concatenate([self._records(*self.locate(step)) for step in steps])
        ends = np.cumsum([group.count for group in self.groups])
        counts = np.bincount(np.searchsorted(ends, index, "right"), minlength=len(ends))
        return {
            group.label: float(count / len(index))
            for group, count in zip(self.groups, counts, strict=True)
        }

    def _crops(self, step: int, stage: Stage, samples: int) -> dict[str, np.ndarray]:
        """Returns the crops of a global batch."""
        draws = _uniform(self.seed, _CROP, step, 5 * stage.batch_size)
        top, left, vertical, horizontal, turn = draws.reshape(5, -1)
        index = self._records(stage, samples)

        height, width = stage.crop
        room = self.sizes[index] - stage.crop + 1
        top = np.floor(top * room[:, 0]).astype(np.int32)
        left = np.floor(left * room[:, 1]).astype(np.int32)
        flip_rows = self.augment.flip_vertical & (vertical < 0.5)
        flip_columns = self.augment.flip_horizontal & (horizontal < 0.5)
        # np.rot90(x, k) is a transposition for odd k, after a flip of the columns
        # (k = 1, 2) and one of the rows (k = 2, 3).
        turns = np.floor(4 * turn) * self.augment.rotate
        flip_rows ^= turns >= 2
        flip_columns ^= (turns == 1) | (turns == 2)
        return {
            "index": index,
            "rows": _run(top, height, flip_rows),
            "columns": _run(left, width, flip_columns),
            "transpose": turns % 2 == 1,
        }


def crop(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, transpose: bool
) -> np.ndarray:
    """Returns the crop [P, Q, C] of an image [H, W, C]; see `Plan.batch`."""
    patch = image[_slice(rows), _slice(columns)]
    return patch.swapaxes(0, 1) if transpose else patch


def crop_batch(images: jax.Array, crops: dict[str, jax.Array]) -> jax.Array:
    """Returns crops [B, P, Q, C] of resident images [N, H, W, C]; see `Plan.batch`."""
    height, width = crops["rows"].shape[1], crops["columns"].shape[1]

    def one(index, rows, columns, transpose):
        # Rows and columns are consecutive, so a slice and a reversal suffice; a
        # gather of single pixels is slow on accelerators.
        start = (
            index,
            jnp.minimum(rows[0], rows[-1]),
            jnp.minimum(columns[0], columns[-1]),
            0,
        )
        shape = (1, height, width, images.shape[-1])
        patch = jax.lax.dynamic_slice(images, start, shape)[0]
        patch = jnp.where(rows[0] > rows[-1], patch[::-1], patch)
        patch = jnp.where(columns[0] > columns[-1], patch[:, ::-1], patch)
        if height != width:  # never transposed, see `Plan`
            return patch
        return jnp.where(transpose, patch.swapaxes(0, 1), patch)

    return jax.vmap(one)(
        crops["index"], crops["rows"], crops["columns"], crops["transpose"]
    )


def mix(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Applies the mixtures, lights and exponents of the plan.

    Args:
        batch: the images of the records by their keys [B, P, Q, 3], and the entries of
            `Plan.batch` besides the crops; with mixtures also the partners' images,
            `partner_image` and so on.

    Returns:
        The images of the records, `index`, and `overview` and `window` if they were
        given. Changed images are float32 in [0, 1];
        others are unchanged.
    """
    images = {
        key: value
        for key, value in batch.items()
        if value.ndim == 4 and not key.startswith(("partner_", "overview"))
    }
    views = {key: batch[key] for key in ("overview", "window") if key in batch}
    if "relit" in batch:
        found = relight.relight(batch)
        images |= {key: found[key] for key in ("image", "target")}
        views |= {key: found[key] for key in views if key in found}
    if "share" in batch:
        share = batch["share"][:, None, None, None]
        for key, image in images.items():
            rest = levels.to_float(batch[f"partner_{key}"])
            images[key] = share * levels.to_float(image) + (1 - share) * rest
    if "gamma" in batch:
        gamma = batch["gamma"][:, None, None, None]
        images["image"] = levels.to_float(images["image"]) ** gamma
        if views:  # the mean of powers is close to the power of the mean
            views["overview"] = views["overview"] ** gamma
    if views:
        names = ("overview", "window")
        mirrored = overview.mirrored(*(views[name] for name in names))
        views = dict(zip(names, mirrored, strict=True))
    return images | views | {"index": batch["index"]}


def check_patches(
    sizes: np.ndarray, names: Sequence[str], stages: Sequence[Stage]
) -> None:
    """Checks that the crops of every stage fit into every image.

    Raises:
        ValueError: naming the smallest image, its size and what to do.
    """
    for stage in stages:
        room = (sizes - stage.crop).min(axis=1)
        smallest = int(np.argmin(room))
        if room[smallest] < 0:
            (height, width), image = stage.crop, sizes[smallest]
            raise ValueError(
                f"A crop of {height} x {width} is larger than the image "
                f"{names[smallest]!r}, {image[0]} x {image[1]} (height x width). "
                "Reduce patch_size and patch_width, or leave small images out."
            )


def _run(start: np.ndarray, length: int, reverse: np.ndarray) -> np.ndarray:
    """Returns int32 [B, length]: start, start + 1, ...; descending where `reverse`."""
    offsets = np.arange(length, dtype=np.int32)
    return start[:, None] + np.where(reverse[:, None], offsets[::-1], offsets)


def _slice(run: np.ndarray) -> slice:
    """Returns the slice for consecutive numbers, rising or falling."""
    if run[0] <= run[-1]:
        return slice(run[0], run[-1] + 1)
    return slice(run[0], run[-1] - 1 if run[-1] else None, -1)


def _uniform(seed: int, stream: int, number: int, count: int) -> np.ndarray:
    """Returns float64 numbers in [0, 1), a pure function of the arguments."""
    # Raw output of a counter-based generator, which NumPy guarantees to be stable.
    bits = np.random.Philox(key=seed, counter=[0, 0, stream, number]).random_raw(count)
    return (bits >> np.uint64(11)) * 2.0**-53


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, repeats: tuple[tuple[int, float], ...]) -> np.ndarray:
    """Returns the records of one epoch, in its order."""
    found, start = [], 0
    for number, (count, repeat) in enumerate(repeats):
        records = np.arange(start, start + count)
        found += [records] * int(repeat)
        if rest := round((repeat - int(repeat)) * count):
            draws = _uniform(seed, _REPEAT + number, epoch, count)
            found.append(np.sort(np.argsort(draws, kind="stable")[:rest]) + start)
        start += count
    records = np.concatenate(found)
    return records[_order(seed, epoch, len(records))]


def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order of the records in one epoch."""
    return np.argsort(_uniform(seed, _ORDER, epoch, count), kind="stable")
