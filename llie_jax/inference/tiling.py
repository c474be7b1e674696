"""Tiling of large photos: overlapping tiles of one size, blended smoothly.

Memory is bounded by the tile and the model compiles once, whatever the size of the
photo. A model with global statistics or global attention sees only the tile, so its
result differs from the untiled one; blending spreads the disagreement of neighbouring
tiles over their whole overlap.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the tiles of a photo lie.

    Attributes:
        tile: (height, width) of every tile, in pixels.
        rows: the first row of each row of tiles, ascending.
        columns: the first column of each column of tiles, ascending.
    """

    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        """Returns the number of tiles."""
        return len(self.rows) * len(self.columns)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photo that the tiles cover."""
        return self.rows[-1] + self.tile[0], self.columns[-1] + self.tile[1]


def plan(size: tuple[int, int], *, tile: int, overlap: int, multiple: int = 1) -> Grid:
    """Spreads the fewest tiles evenly over a photo.

    No tile reaches beyond the photo, so none is padded. Tiles start at multiples of
    `multiple`: a network with strides then samples the same pixels as without tiles.

    Args:
        size: (height, width) of the photo, both multiples of `multiple`.
        tile: side of a tile in pixels; rounded up to a multiple of `multiple`, and
            clipped to the photo.
        overlap: minimum overlap of neighbouring tiles in pixels; rounded up likewise.
            Blending uses the whole actual overlap.
        multiple: the model's `multiple`.

    Raises:
        ValueError: if `overlap` is negative or not less than the tile, or `size` is not
            divisible by `multiple`.
    """
    if size[0] % multiple or size[1] % multiple:
        raise ValueError(
            f"The photo is {size[0]} x {size[1]}; tiles of this model need multiples "
            f"of {multiple}. Use llie_jax.inference.pad_to_multiple."
        )
    units, shared = math.ceil(tile / multiple), math.ceil(overlap / multiple)
    if overlap < 0 or shared >= units:
        raise ValueError(
            f"An overlap of {overlap} pixels does not fit tiles of {tile}; "
            f"it must be at least 0 and, in steps of {multiple}, less than the tile."
        )
    axes = [_starts(length // multiple, units, shared) for length in size]
    rows, columns = (tuple(start * multiple for start in starts) for starts in axes)
    side = units * multiple
    return Grid((min(side, size[0]), min(side, size[1])), rows, columns)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Returns evenly spread starts; neighbours share at least `overlap`."""
    room = length - tile
    if room <= 0:
        return [0]
    steps = math.ceil(room / (tile - overlap))
    return [step * room // steps for step in range(steps + 1)]


def weights(starts: tuple[int, ...], tile: int) -> np.ndarray:
    """Returns the blending weights along one axis, float32 [number of tiles, tile].

    Over each overlap the weight passes from one tile to the next along a raised cosine.
    At every pixel the weights of all tiles sum to 1, also where more than two meet: a
    tile's weight is the difference of two such passages, so the sum telescopes.
    """
    pixel = np.arange(starts[-1] + tile) + 0.5
    passages = [np.ones_like(pixel)]
    for before, start in itertools.pairwise(starts):
        overlap = before + tile - start
        phase = (pixel - start) / overlap if overlap else pixel > start
        passages.append(0.5 - 0.5 * np.cos(np.pi * np.clip(phase, 0, 1)))
    passages.append(np.zeros_like(pixel))
    return np.stack(
        [
            (entered - left)[start : start + tile]
            for start, (entered, left) in zip(
                starts, itertools.pairwise(passages), strict=True
            )
        ]
    ).astype(np.float32)


def apply(
    function: Callable[[np.ndarray, tuple[slice, slice]], np.ndarray],
    image: np.ndarray,
    grid: Grid,
    *,
    progress: Callable[[], None] | None = None,
) -> np.ndarray:
    """Applies `function` to each tile and blends the results.

    Args:
        function: maps a tile [h, w, C], all of one shape, and its window, the slices
            of rows and columns, to [h, w, C].
        image: [H, W, C], the size of the grid.
        grid: from `plan`.
        progress: called after each tile.

    Returns:
        float32 [H, W, C].

    Raises:
        ValueError: if the image does not have the size of the grid.
    """
    if image.shape[:2] != grid.size:
        raise ValueError(
            f"The image is {image.shape[0]} x {image.shape[1]}, "
            f"the grid is for {grid.size[0]} x {grid.size[1]}."
        )
    height, width = grid.tile
    if len(grid) == 1:
        result = np.asarray(function(image, np.s_[:height, :width]), np.float32)
        if progress is not None:
            progress()
        return result
    vertical, horizontal = weights(grid.rows, height), weights(grid.columns, width)
    result = np.zeros(image.shape, np.float32)
    for row, down in zip(grid.rows, vertical, strict=True):
        for column, across in zip(grid.columns, horizontal, strict=True):
            window = np.s_[row : row + height, column : column + width]
            weight = down[:, None, None] * across[:, None]
            result[window] += weight * np.asarray(function(image[window], window))
            if progress is not None:
                progress()
    return result


def seam_ratio(
    image: np.ndarray, grid: Grid, *, neighbours: int = 8, spacing: int = 1
) -> float:
    """Returns how much stronger steps are across tile borders than beside them.

    A step is the absolute difference of two adjacent lines, averaged over their length
    and channels; the ratio is the mean step where a tile begins or ends over the mean
    step of the `neighbours` lines on either side. 1 means no seam; 1.1 is invisible.

    A network with strides draws a faint lattice of its own, and tiles start on it. Then
    even the untiled result has a ratio other than 1; `spacing` equal to the model's
    `multiple` compares only lines at the same phase of the lattice.

    Args:
        image: [H, W, C], the size of the grid, or cropped from it.
        grid: from `plan`, with more than one tile.
        neighbours: how many lines to compare with, on each side of a border.
        spacing: distance of these lines, in pixels.

    Raises:
        ValueError: if the grid has a single tile, hence no border.
    """
    across, beside = [], []
    for axis, starts in enumerate((grid.rows, grid.columns)):
        lines = np.moveaxis(image, axis, 0).astype(np.float32)
        steps = np.abs(np.diff(lines, axis=0)).mean(axis=(1, 2))
        ends = [start + grid.tile[axis] for start in starts[:-1]]
        borders = {line - 1 for line in (*starts[1:], *ends) if line <= len(steps)}
        reach = neighbours * spacing
        near = {
            border + shift
            for border in borders
            for shift in range(-reach, reach + 1, spacing)
        }
        across.extend(steps[sorted(borders)])
        beside.extend(steps[sorted((near - borders) & set(range(len(steps))))])
    if not across:
        raise ValueError("The grid is a single tile and has no border.")
    return float(np.mean(across) / np.mean(beside))
