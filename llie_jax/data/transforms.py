"""Random crops, flips and rotations, and the plan of which record gets which.

A plan is a pure function of the seed and the step, in numpy and for the whole batch of
all processes. Both loaders follow it, so they give the same batches; a restarted run
asks for the next step; the number of devices or processes changes nothing.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_ORDER, _CROP = 0, 1  # independent streams of random numbers


class Stage(NamedTuple):
    """A part of training with one static shape.

    Attributes:
        steps: number of steps.
        patch_size: height and width of the crops.
        batch_size: pairs per step, over all devices of all processes.
    """

    steps: int
    patch_size: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Augment:
    """Which random transforms are applied, to image and target alike.

    The defaults are DarkIR's: each flip with probability 1/2, no rotation. All three
    together give the eight symmetries of the square, equally likely.

    Attributes:
        flip_horizontal: left and right are swapped.
        flip_vertical: top and bottom are swapped.
        rotate: by 0, 90, 180 or 270 degrees.
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    rotate: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every batch is made of.

    Attributes:
        sizes: height and width of every record's images, int [N, 2].
        stages: the parts of training, one after the other.
        augment: the random transforms.
        seed: of everything random.
    """

    sizes: np.ndarray
    stages: tuple[Stage, ...]
    augment: Augment
    seed: int

    @property
    def steps(self) -> int:
        """The number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def locate(self, step: int) -> tuple[Stage, int]:
        """Returns the stage of a step, and how many samples came before the step.

        Raises:
            IndexError: if the stages have no such step.
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

        Every record comes once per epoch, in an order of its own for each epoch;
        epochs go on over the borders of stages.

        Args:
            step: the step, counted over all stages from 0.
            part: the pairs of one process; by default those of all processes.

        Returns:
            `index` int32 [B], the record; `rows` and `columns` int32 [B, P], where in
            the record's images the crop's rows and columns come from: consecutive
            numbers, falling if the crop is flipped; `transpose` bool [B], whether the
            crop is then transposed; `weight` float32 [B], all 1.
        """
        stage, samples = self.locate(step)
        count = len(self.sizes)
        # Drawn for the whole batch, whatever the part, so that parts fit together.
        draws = _uniform(self.seed, _CROP, step, 5 * stage.batch_size)
        top, left, vertical, horizontal, turn = draws.reshape(5, -1)[:, part]
        places = np.arange(samples, samples + stage.batch_size)[part]
        epochs, places = np.divmod(places, count)
        index = np.empty(len(places), np.int32)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            index[here] = _order(self.seed, epoch, count)[places[here]]

        room = self.sizes[index] - stage.patch_size + 1
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
            "rows": _run(top, stage.patch_size, flip_rows),
            "columns": _run(left, stage.patch_size, flip_columns),
            "transpose": turns % 2 == 1,
            "weight": np.ones(len(index), np.float32),
        }


def crop(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, transpose: bool
) -> np.ndarray:
    """Returns the crop [P, P, C] of an image [H, W, C]; see `Plan.batch`."""
    patch = image[_slice(rows), _slice(columns)]
    return patch.swapaxes(0, 1) if transpose else patch


def crop_batch(images: jax.Array, crops: dict[str, jax.Array]) -> jax.Array:
    """Returns crops [B, P, P, C] of resident images [N, H, W, C]; see `Plan.batch`."""
    size = crops["rows"].shape[1]

    def one(index, rows, columns, transpose):
        # Rows and columns are consecutive: a slice and a reversal are plain copies, a
        # gather of single pixels is slow on accelerators.
        start = (
            index,
            jnp.minimum(rows[0], rows[-1]),
            jnp.minimum(columns[0], columns[-1]),
            0,
        )
        shape = (1, size, size, images.shape[-1])
        patch = jax.lax.dynamic_slice(images, start, shape)[0]
        patch = jnp.where(rows[0] > rows[-1], patch[::-1], patch)
        patch = jnp.where(columns[0] > columns[-1], patch[:, ::-1], patch)
        return jnp.where(transpose, patch.swapaxes(0, 1), patch)

    return jax.vmap(one)(
        crops["index"], crops["rows"], crops["columns"], crops["transpose"]
    )


def check_patches(
    sizes: np.ndarray, names: Sequence[str], stages: Sequence[Stage]
) -> None:
    """Checks that every image holds every stage's crop.

    Raises:
        ValueError: naming the smallest image, its size and what to do.
    """
    patch = max(stage.patch_size for stage in stages)
    smallest = int(np.argmin(sizes.min(axis=1)))
    height, width = sizes[smallest]
    if patch > min(height, width):
        raise ValueError(
            f"patch_size={patch} is larger than the image {names[smallest]!r}, "
            f"{height} x {width} (height x width). Set patch_size to at most "
            f"{min(height, width)}, or leave small images out."
        )


def _run(start: np.ndarray, length: int, reverse: np.ndarray) -> np.ndarray:
    """Returns int32 [B, length]: start, start + 1, ...; backwards where reversed."""
    offsets = np.arange(length, dtype=np.int32)
    return start[:, None] + np.where(reverse[:, None], offsets[::-1], offsets)


def _slice(run: np.ndarray) -> slice:
    """Returns the slice that takes what consecutive numbers name."""
    if run[0] <= run[-1]:
        return slice(run[0], run[-1] + 1)
    return slice(run[0], run[-1] - 1 if run[-1] else None, -1)


def _uniform(seed: int, stream: int, number: int, count: int) -> np.ndarray:
    """Returns float64 numbers in [0, 1), a pure function of the arguments."""
    # Raw output of a counter-based generator: numpy promises that it never changes.
    bits = np.random.Philox(key=seed, counter=[0, 0, stream, number]).random_raw(count)
    return (bits >> np.uint64(11)) * 2.0**-53


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order of the records in one epoch."""
    return np.argsort(_uniform(seed, _ORDER, epoch, count), kind="stable")
