"""Resizing by integer factors and to any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def area_downsample(x: jax.Array, factor: int) -> jax.Array:
    """Returns the means of `factor` x `factor` cells, [B, H/factor, W/factor, C].

    Args:
        x: images or features [B, H, W, C] of a floating dtype.
        factor: cell side in pixels; H and W must divide by it.

    Raises:
        ValueError: if `factor` is not a positive integer or does not divide H and W.
    """
    _check_factor(factor)
    batch, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ValueError(
            f"{height} x {width} pixels do not divide into cells of {factor} x "
            f"{factor}; crop to {height // factor * factor} x "
            f"{width // factor * factor}."
        )
    cells = x.reshape(
        batch, height // factor, factor, width // factor, factor, channels
    )
    return cells.mean((2, 4))


def nearest_upsample(x: jax.Array, factor: int) -> jax.Array:
    """Returns `x` with every pixel repeated, [B, H*factor, W*factor, C].

    Args:
        x: images or features [B, H, W, C].
        factor: how often a pixel is repeated along each axis.

    Raises:
        ValueError: if `factor` is not a positive integer.
    """
    _check_factor(factor)
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image [H, W, C] resized to (height, width), in its own dtype.

    Bilinear between pixel centres, borders replicated, no antialiasing: OpenCV's
    INTER_LINEAR, within one level of 255. Integers are rounded. In NumPy, for images
    as they are read.
    """
    if image.shape[:2] == tuple(size):
        return image
    values = image
    for axis, (old, new) in enumerate(zip(image.shape, size, strict=False)):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = place.astype(int)
        share = (place - low).astype(np.float32).reshape(-1, *(1,) * (2 - axis))
        below = np.take(values, low, axis).astype(np.float32)
        above = np.take(values, np.minimum(low + 1, old - 1), axis)
        values = below + share * (above - below)
    return values if image.dtype == np.float32 else np.rint(values).astype(image.dtype)


# Jitted so that the MAC counter recognises the interpolation by its name.
@functools.partial(jax.jit, static_argnums=1)
def resize_aligned(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns `x` resized bilinearly, with the corner pixels aligned.

    PyTorch calls this `align_corners=True`. `jax.image.resize` aligns the outer edges
    of the corner pixels instead, and averages when it downsamples.

    Args:
        x: images or features [B, H, W, C] of a floating dtype.
        size: (height, width) of the result.

    Returns:
        [B, height, width, C] in the dtype of `x`, interpolated in float32.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, length in zip((1, 2), size, strict=True):
        y = _interpolate(y, axis, length)
    return y.astype(x.dtype)


# Jitted for the same reason.
@functools.partial(jax.jit, static_argnums=1)
def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns `x` resized bilinearly, with the outer edges aligned.

    Downsampling does not average. PyTorch calls this `align_corners=False`, OpenCV
    INTER_LINEAR.

    Args:
        x: images or features [B, H, W, C] of a floating dtype.
        size: (height, width) of the result.

    Returns:
        [B, height, width, C] in the dtype of `x`, interpolated in float32.
    """
    shape = (x.shape[0], *size, x.shape[-1])
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.image.resize(y, shape, "bilinear", antialias=False).astype(x.dtype)


# Jitted for the same reason.
@functools.partial(jax.jit, static_argnums=1)
def adaptive_mean(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the means of cells that cover `x`, of any size.

    Cell i of n along an axis of length l covers floor(i * l / n) to
    ceil((i + 1) * l / n), so cells may overlap. PyTorch calls this adaptive average
    pooling.

    Args:
        x: images or features [B, H, W, C] of a floating dtype.
        size: number of rows and columns of cells.

    Returns:
        [B, rows, columns, C] in the dtype of `x`, averaged in float32.
    """

    def weights(length, count):
        cell, place = jnp.arange(count)[:, None], jnp.arange(length)
        first, last = cell * length // count, -(-(cell + 1) * length // count)
        inside = ((first <= place) & (place < last)).astype(y.dtype)
        return inside / inside.sum(1, keepdims=True)

    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    with jax.default_matmul_precision("highest"):
        y = jnp.einsum("ih,bhwc->biwc", weights(x.shape[1], size[0]), y)
        y = jnp.einsum("jw,biwc->bijc", weights(x.shape[2], size[1]), y)
    return y.astype(x.dtype)


def resize_bicubic(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns `x` resized bicubically, with the outer edges aligned.

    The kernel has a = -0.75, as PyTorch's and OpenCV's; that of `jax.image.resize` has
    a = -0.5. Downsampling does not average. Borders are replicated.

    Source: Keys, Cubic Convolution Interpolation, IEEE TASSP 1981.

    Args:
        x: images or features [B, H, W, C] of a floating dtype.
        size: (height, width) of the result.

    Returns:
        [B, height, width, C] in the dtype of `x`, interpolated in float32.
    """
    a = -0.75
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, length in zip((1, 2), size, strict=True):
        old = y.shape[axis]
        place = (np.arange(length) + 0.5) * old / length - 0.5
        low = np.floor(place).astype(int)
        total = 0
        for tap in range(-1, 3):
            d = np.abs(place - low - tap)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            weight = np.where(d <= 1, near, far).astype(y.dtype)
            weight = weight.reshape([-1 if i == axis else 1 for i in range(y.ndim)])
            total += weight * jnp.take(y, np.clip(low + tap, 0, old - 1), axis)
        y = total
    return y.astype(x.dtype)


def resize_matlab(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns `x` resized bicubically as MATLAB's `imresize` does, on the host.

    The kernel has a = -0.5; when it downsamples, it is as much wider as the image gets
    smaller. Outer edges are aligned, borders are mirrored. Rounding is the caller's.

    Source: Keys, IEEE TASSP 1981; MATLAB's documentation.

    Args:
        x: image [H, W] or [H, W, C], floating point.
        size: (height, width) of the result.

    Returns:
        [height, width] or [height, width, C], in the precision of `x`.
    """
    for axis, length in zip((0, 1), size, strict=True):
        matrix = _matlab_weights(x.shape[axis], length).astype(x.dtype)
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


@functools.cache
def _matlab_weights(old: int, new: int) -> np.ndarray:
    """Returns the weights [new, old] of each pixel in each pixel of the result."""
    scale = min(new / old, 1)
    centre = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    reach = int(np.ceil(2 / scale)) + 1
    place = np.floor(centre).astype(int) + np.arange(-reach, reach + 1)
    d = np.abs(scale * (centre - place))
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weight = np.where(d <= 1, near, np.where(d <= 2, far, 0))
    weight /= weight.sum(1, keepdims=True)
    mirrored = place % (2 * old)
    mirrored = np.minimum(mirrored, 2 * old - 1 - mirrored)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], mirrored), weight)
    return weights


def _interpolate(x: jax.Array, axis: int, length: int) -> jax.Array:
    """Resizes one axis and keeps its first and last element in place.

    Doubling and halving read slices, since a gather is several times slower.
    """
    old = x.shape[axis]
    if length == old:
        return x
    # In float64 where possible; an export may have symbolic sizes.
    numpy = np if isinstance(length, int) else jnp
    place = numpy.arange(length) * (old - 1) / numpy.maximum(length - 1, 1)

    def column(values):
        shape = [1] * x.ndim
        shape[axis] = -1
        return values.astype(x.dtype).reshape(shape)

    def blend(first, second, share):
        return first + (second - first) * column(share)

    cut = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
    if old == 2 * length:
        return blend(cut(0, old, 2), cut(1, old, 2), place - 2 * numpy.arange(length))
    if length == 2 * old:
        here = numpy.arange(old)
        before = jnp.concatenate([cut(0, 1), cut(0, old - 1)], axis)
        after = jnp.concatenate([cut(1, old), cut(old - 1, old)], axis)
        even = blend(x, before, here - place[::2])
        odd = blend(x, after, place[1::2] - here)
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        return jnp.stack([even, odd], axis + 1).reshape(shape)
    low = numpy.minimum(place.astype(int), numpy.maximum(old - 2, 0))
    high = numpy.minimum(low + 1, old - 1)
    return blend(
        jnp.take(x, low, axis, mode="clip"),
        jnp.take(x, high, axis, mode="clip"),
        place - low,
    )


def _check_factor(factor: int) -> None:
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"A resize factor must be a positive integer, got {factor!r}.")
