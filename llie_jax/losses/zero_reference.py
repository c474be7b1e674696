"""Losses that judge an image, or the maps that brighten it, without a reference.

As in `losses.pixel`, each returns one value per image, [B].
"""

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax import messages
from llie_jax.image.resize import area_downsample
from llie_jax.losses.base import LossCard
from llie_jax.losses.pixel import as_float, check_shapes, reduce_pixels
from llie_jax.losses.variation import absolute, variation
from llie_jax.registry import register

YCBCR = ("reference", "correct")

_YCBCR_MATRIX = np.array(
    [[0.257, -0.148, 0.439], [0.564, -0.291, -0.368], [0.098, 0.439, -0.071]],
    np.float32,
)
_YCBCR_BIAS = np.array([16, 128, 128], np.float32) / 255


@register("spatial_consistency", LossCard())
def spatial_consistency(
    prediction: jax.Array, target: jax.Array, *, cell: int = 4
) -> jax.Array:
    """Returns how much the contrast between neighbouring cells differs, [B].

    Compares the enhanced image with the low-light one: `against="image"`. Cells at the
    border have a neighbour of zeros outside.

    Source: Guo et al., Zero-DCE, CVPR 2020, Eq. (4).
    Differs: as in the authors' code, contrasts have a sign; in the paper they are
    absolute.

    Args:
        prediction: images [B, H, W, C].
        target: images of the same shape.
        cell: side of a cell in pixels.

    Raises:
        ValueError: if the shapes differ, or an image is smaller than a cell.
    """
    check_shapes(prediction, target)
    # Contrasts are linear, so the difference of contrasts is that of a difference.
    change = _cells(prediction, cell) - _cells(target, cell)
    padded = jnp.pad(change, ((0, 0), (1, 1), (1, 1)))
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    neighbours = (above, below, left, right)
    return reduce_pixels(sum(jnp.square(change - each) for each in neighbours), "mean")


@register("exposure", LossCard(needs_target=False))
def exposure(image: jax.Array, *, cell: int = 16, level: float = 0.6) -> jax.Array:
    """Returns the squared distance of each cell's mean from a level, [B].

    Source: Guo et al., Zero-DCE, CVPR 2020, Eq. (5).
    Differs: as in the authors' code, the distance is squared; in the paper it is
    absolute.

    Args:
        image: images [B, H, W, C].
        cell: side of a cell in pixels.
        level: the level of a well-exposed cell.

    Raises:
        ValueError: if an image is smaller than a cell.
    """
    return reduce_pixels(jnp.square(_cells(image, cell) - level), "mean")


@register("colour_constancy", LossCard(needs_target=False))
def colour_constancy(image: jax.Array) -> jax.Array:
    """Returns how far the means of an image's channels lie apart, [B].

    The gradient of a grey image is 0.

    Source: Guo et al., Zero-DCE, CVPR 2020, Eq. (6).
    Differs: as in the authors' code, this is the root of the sum of fourth powers; in
    the paper it is the sum of squares.

    Args:
        image: RGB images [B, H, W, 3].
    """
    red, green, blue = jnp.moveaxis(as_float(image).mean((1, 2)), -1, 0)
    total = (red - green) ** 4 + (red - blue) ** 4 + (green - blue) ** 4
    grey = total == 0  # where the root has no finite gradient
    return jnp.where(grey, 0.0, jnp.sqrt(jnp.where(grey, 1.0, total)))


@register("total_variation", LossCard(needs_target=False))
def total_variation(image: jax.Array, *, mean_channels: bool = True) -> jax.Array:
    """Returns twice the mean squared difference of neighbouring pixels, [B].

    Rows and columns have means of their own, which are added. Applied to the maps that
    brighten an image, it is Zero-DCE's illumination smoothness.

    Source: Guo et al., Zero-DCE, CVPR 2020, Eq. (7), with squares as in the authors'
    code; Liu et al., RUAS, CVPR 2021, for denoised images.

    Args:
        image: images or maps [B, H, W, C].
        mean_channels: whether the channels are averaged, as in RUAS, or summed, as in
            Zero-DCE.

    Raises:
        ValueError: if an image is a single row or column.
    """
    channels = 1 if mean_channels else image.shape[-1]
    return 2 * channels * variation(image, power=2)


@register("edge_aware_smoothness", LossCard())
def edge_aware_smoothness(
    prediction: jax.Array,
    target: jax.Array,
    *,
    ycbcr: str = "reference",
    separate_means: bool = False,
) -> jax.Array:
    """Returns how much an illumination varies where the image does not, [B].

    Sums over the 24 neighbours of a pixel in its 5x5 window: the absolute difference of
    the illumination, times a weight that falls with the distance between the pixels in
    YCbCr. Compares the illumination with the image that it was estimated on.

    Source: Ma et al., SCI, CVPR 2022, Section 3.3; Liu et al., RUAS, CVPR 2021.
    Differs: the authors convert an image to YCbCr after flattening it with channels
    first, so that their "RGB" is three neighbouring values of one channel. `ycbcr`
    chooses between this and the colours of the pixels.

    Args:
        prediction: the illumination [B, H, W, 3].
        target: the image of the same shape.
        ycbcr: "reference" for the authors' conversion, "correct" for that of colours.
        separate_means: False averages the product of weight and difference, with the
            channels of the difference summed, as in SCI; True multiplies the mean
            weight by the mean difference, as in RUAS.

    Raises:
        ValueError: if the shapes differ, the image has no three channels, or `ycbcr` is
            unknown.
    """
    check_shapes(prediction, target)
    illumination, image = as_float(prediction), _to_ycbcr(as_float(target), ycbcr)
    total = jnp.zeros(image.shape[0])
    for offset in _half_window():
        distance = jnp.square(_shifted_difference(image, offset)).sum(-1)
        weight = jnp.exp(-distance / 200)
        change = absolute(_shifted_difference(illumination, offset))
        if not weight[0].size:  # an image smaller than the offset
            continue
        if separate_means:
            term = reduce_pixels(weight, "mean") * reduce_pixels(change, "mean")
        else:
            term = reduce_pixels(weight * change.sum(-1), "mean")
        total += 2 * term  # the opposite neighbour gives the same
    return total


def _cells(image: jax.Array, side: int) -> jax.Array:
    """Returns the means of cells over all channels, [B, H // side, W // side]."""
    height, width = image.shape[1:3]
    if side < 1 or min(height, width) < side:
        raise ValueError(
            f"The images are {height} x {width}, but the loss averages cells of "
            f"{side} x {side} pixels; give larger images or another 'cell'."
        )
    rows, columns = height // side * side, width // side * side
    grey = as_float(image)[:, :rows, :columns].mean(-1, keepdims=True)
    return area_downsample(grey, side)[..., 0]


def _to_ycbcr(image: jax.Array, ycbcr: str) -> jax.Array:
    """Returns images [B, H, W, 3] in YCbCr; see `edge_aware_smoothness`."""
    if ycbcr not in YCBCR:
        raise ValueError(
            f"Unknown ycbcr {ycbcr!r}.{messages.suggest(ycbcr, YCBCR)} Use one of "
            f"{YCBCR}."
        )
    if image.shape[-1] != 3:
        raise ValueError(
            f"The image has shape {image.shape}; YCbCr needs [B, H, W, 3]."
        )

    def convert(triples):
        # Unlike a matrix product, not rounded to bfloat16 on accelerators.
        return (triples[..., None] * _YCBCR_MATRIX).sum(-2) + _YCBCR_BIAS

    if ycbcr == "correct":
        return convert(image)
    planes = jnp.moveaxis(image, -1, 1)
    triples = planes.reshape(planes.shape[0], -1, 3)
    return jnp.moveaxis(convert(triples).reshape(planes.shape), 1, -1)


def _half_window() -> list[tuple[int, int]]:
    """Returns half of the offsets in a 5x5 window; the others are their negatives."""
    below = [(row, column) for row in (1, 2) for column in range(-2, 3)]
    return [(0, 1), (0, 2), *below]


def _shifted_difference(x: jax.Array, offset: tuple[int, int]) -> jax.Array:
    """Returns `x` minus itself an offset further, where both exist."""
    rows, columns = offset
    height, width = x.shape[1:3]
    here = x[:, : max(height - rows, 0), max(-columns, 0) : width - max(columns, 0)]
    there = x[:, rows:, max(columns, 0) : width + min(columns, 0)]
    return here - there
