"""Convolutions as array functions, with faster forms where XLA is slow on CPU.

`by_backend` chooses the form of every convolution at lowering time.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_implementation: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "implementation", default=None
)


@contextlib.contextmanager
def use_implementation(implementation: str | None) -> Iterator[None]:
    """Forces one implementation on all convolutions that are traced inside.

    With "lax", programs contain only native convolutions, on every backend and for
    symbolic sizes, as in an export.

    Args:
        implementation: "lax", or None to choose by backend.

    Raises:
        ValueError: if the implementation is unknown.
    """
    if implementation not in (None, "lax"):
        raise ValueError(
            f"Unknown implementation {implementation!r} for all convolutions; use "
            "'lax' or None."
        )
    token = _implementation.set(implementation)
    try:
        yield
    finally:
        _implementation.reset(token)


def forced_implementation() -> str | None:
    """Returns the implementation that `use_implementation` forces, or None."""
    return _implementation.get()


Kernels = tuple[jax.Array, ...]


class Form(NamedTuple):
    """One implementation of a sum of convolutions of the same input.

    Attributes:
        forward: (x, kernels) -> y.
        input_gradient: (gradient of y, x, kernels) -> gradient of x.
        kernel_gradient: (gradient of y, x, kernels) -> gradients of the kernels.
    """

    forward: Callable[[jax.Array, Kernels], jax.Array]
    input_gradient: Callable[[jax.Array, jax.Array, Kernels], jax.Array]
    kernel_gradient: Callable[[jax.Array, jax.Array, Kernels], Kernels]


def transposed(forward: Callable[[jax.Array, Kernels], jax.Array]) -> Form:
    """Completes a form with the gradients that JAX derives."""

    def input_gradient(g, x, kernels):
        return jax.linear_transpose(lambda x: forward(x, kernels), x)(g)[0]

    def kernel_gradient(g, x, kernels):
        return jax.linear_transpose(lambda kernels: forward(x, kernels), kernels)(g)[0]

    return Form(forward, input_gradient, kernel_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def by_backend(x, kernels, cpu: Form, default: Form, tpu: Form | None = None):
    """Uses the form `cpu` on CPU, `tpu` (if given) on TPU, and `default` elsewhere.

    The form is chosen at lowering time and not from the devices present, because code
    for an accelerator is also compiled on machines without one. Each gradient chooses
    separately: a choice inside a differentiated function would keep the residuals of
    both forms.
    """
    return _chosen(0, cpu, default, tpu)(x, kernels)


def _by_backend_forward(x, kernels, cpu, default, tpu):
    return by_backend(x, kernels, cpu, default, tpu), (x, kernels)


def _by_backend_backward(cpu, default, tpu, residuals, g):
    return tuple(_chosen(part, cpu, default, tpu)(g, *residuals) for part in (1, 2))


def _chosen(part: int, cpu: Form, default: Form, tpu: Form | None) -> Callable:
    """Returns a function of the forms, chosen by the platform it is lowered for."""
    forms = {"cpu": cpu, "default": default} | ({"tpu": tpu} if tpu else {})
    functions = {platform: form[part] for platform, form in forms.items()}
    return functools.partial(lax.platform_dependent, **functions)


by_backend.defvjp(_by_backend_forward, _by_backend_backward)


def grouped_conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    groups: int,
    dilation: int = 1,
    implementation: str | None = None,
) -> jax.Array:
    """Grouped convolution of stride 1 with zero padding that keeps the size.

    On CPU, where XLA's grouped convolution is slow, depthwise kernels and kernels in
    groups of two channels become sums of shifted products, and larger groups one
    convolution each. On TPU groups of two channels are one dense convolution: for v5e,
    XLA estimates a fortieth of the cycles of the native one, which leaves 126 of 128
    lanes empty. Other backends use the native convolution.

    Args:
        x: features [B, H, W, C].
        kernel: [kh, kw, C / groups, features], kh and kw odd.
        groups: number of groups; `groups == C == features` is a depthwise convolution.
        dilation: spacing of the kernel's taps, in pixels.
        implementation: None chooses by backend; "lax", "shifts" or, for groups of two
            channels, "dense" forces one.

    Returns:
        Features [B, H, W, features] in the dtype of `x`.

    Raises:
        ValueError: if the shapes are inconsistent, or the implementation is unknown or
            does not cover them.
    """
    implementation = implementation or _implementation.get()
    return _summed_conv(x, (kernel,), groups, (dilation,), implementation)


def summed_depthwise(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    *,
    dilations: Sequence[int],
    implementation: str | None = None,
) -> jax.Array:
    """Sum of depthwise convolutions of the same input, one for each dilation.

    On CPU the branches share one padded copy of the input and one pass over it, which
    takes half the time and memory of separate convolutions.

    Args:
        x: features [B, H, W, C].
        kernels: one [kh, kw, 1, C] per branch, kh and kw odd.
        dilations: spacing of each kernel's taps, in pixels.
        implementation: None chooses by backend; "lax" or "shifts" forces one.

    Returns:
        Features [B, H, W, C] in the dtype of `x`.

    Raises:
        ValueError: if the shapes are inconsistent, or the implementation is unknown.
    """
    if len(kernels) != len(dilations):
        raise ValueError(
            f"{len(kernels)} kernels for dilations {tuple(dilations)}; give one kernel "
            "for each."
        )
    return _summed_conv(
        x,
        tuple(kernels),
        x.shape[-1],
        tuple(dilations),
        implementation or _implementation.get(),
    )


def _check_shapes(x: jax.Array, kernels: Kernels, groups: int) -> None:
    for kernel in kernels:
        kh, kw, group_inputs, features = kernel.shape
        if x.ndim != 4 or x.shape[-1] != group_inputs * groups or features % groups:
            raise ValueError(
                f"`x` {x.shape} and `kernel` {kernel.shape} do not fit {groups} groups;"
                " give [B, H, W, C] and [kh, kw, C / groups, features], features a "
                "multiple of groups."
            )
        if kh % 2 == 0 or kw % 2 == 0:
            raise ValueError(f"the kernel is {kh} x {kw}; use odd sizes.")


# Jitted, because calls outside of jit would otherwise trace every time.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _summed_conv(x, kernels, groups, dilations, implementation):
    _check_shapes(x, kernels, groups)
    plain = functools.partial(_plain_sum, groups=groups, dilations=dilations)
    # One or two input channels per group, and as many outputs.
    covered = all(
        kernel.shape[2] <= 2 and kernel.shape[3] == x.shape[-1] for kernel in kernels
    )
    # Splitting groups of one input and several outputs gives too many convolutions.
    few = groups > 1 and min(kernel.shape[2] for kernel in kernels) > 2
    if implementation == "lax" or (implementation is None and not (covered or few)):
        return plain(x, kernels)
    if implementation is None and few:
        split = functools.partial(_split_sum, groups=groups, dilations=dilations)
        return by_backend(x, kernels, transposed(split), transposed(plain))
    shifts = Form(
        functools.partial(_shifted_sum, dilations=dilations),
        functools.partial(_shifted_input_gradient, dilations=dilations),
        functools.partial(_shifted_kernel_gradient, dilations=dilations),
    )
    pairs = kernels[0].shape[2] == 2
    dense = functools.partial(_dense_sum, groups=groups, dilations=dilations)
    if implementation is None:
        tpu = transposed(dense) if pairs else None
        return by_backend(x, kernels, shifts, transposed(plain), tpu)
    if implementation == "dense" and pairs:
        return by_backend(x, kernels, transposed(dense), transposed(dense))
    if implementation == "shifts" and covered:
        return by_backend(x, kernels, shifts, shifts)
    raise ValueError(
        f"implementation={implementation!r} is unknown or does not cover kernels "
        f"{[kernel.shape for kernel in kernels]}; use None or 'lax'."
    )


def plain_conv(x, kernel, *, strides=1, padding, dilation=1, groups=1):
    """Returns the native convolution of [B, H, W, C] with [kh, kw, C / groups, F]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(strides, strides),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _plain_sum(x, kernels, *, groups, dilations):
    total = None
    for kernel, dilation in zip(kernels, dilations, strict=True):
        padding = [(dilation * (k // 2),) * 2 for k in kernel.shape[:2]]
        y = plain_conv(x, kernel, padding=padding, dilation=dilation, groups=groups)
        total = y if total is None else total + y
    return total


def _dense_sum(x, kernels, *, groups, dilations):
    """Grouped convolutions as dense ones, with zeros between the groups."""

    def dense(kernel):
        *_, inputs, features = kernel.shape
        rows = np.arange(groups * inputs)[:, None] // inputs
        columns = np.arange(features) // (features // groups)
        # Row c holds the kernel's input c % inputs, in the columns of its own group.
        return jnp.tile(kernel, (1, 1, groups, 1)) * (rows == columns)

    kernels = [dense(kernel).astype(x.dtype) for kernel in kernels]
    return _plain_sum(x, kernels, groups=1, dilations=dilations)


def _split_sum(x, kernels, *, groups, dilations):
    """One convolution for each group."""
    parts = zip(
        jnp.split(x, groups, axis=-1),
        *(jnp.split(kernel, groups, axis=-1) for kernel in kernels),
        strict=True,
    )
    return jnp.concatenate(
        [
            _plain_sum(part, part_kernels, groups=1, dilations=dilations)
            for part, *part_kernels in parts
        ],
        axis=-1,
    )


def _reach(kernels: Kernels, dilations: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns by which the kernels reach beyond the image's border."""
    rows, columns = (
        max(
            dilation * (kernel.shape[axis] // 2)
            for kernel, dilation in zip(kernels, dilations, strict=True)
        )
        for axis in (0, 1)
    )
    return rows, columns


def _taps(
    kernels: Kernels, dilations: tuple[int, ...]
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yields (kernel index, kernel row, kernel column, top, left) for each tap.

    `top` and `left` are the origin of the tap's view in the image padded by `_reach`.
    """
    rows, columns = _reach(kernels, dilations)
    for k, (kernel, dilation) in enumerate(zip(kernels, dilations, strict=True)):
        kh, kw = kernel.shape[:2]
        for i in range(kh):
            for j in range(kw):
                top = rows + dilation * (i - kh // 2)
                yield k, i, j, top, columns + dilation * (j - kw // 2)


def _pad(x: jax.Array, kernels: Kernels, dilations: tuple[int, ...]) -> jax.Array:
    """Pads rows and columns by `_reach`, and channels by one if `_read` needs it."""
    rows, columns = _reach(kernels, dilations)
    channels = kernels[0].shape[2] - 1
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (channels, channels)))


def _read(padded, start, shape, group_inputs) -> list[jax.Array]:
    """Reads a view in float32 and, for groups of two, also with its pairs swapped.

    Args:
        padded: result of `_pad`.
        start: origin of the view in [B, H, W].
        shape: shape of the view, [B, H, W, C].
        group_inputs: 1 or 2.
    """

    def view(channel):
        return lax.dynamic_slice(padded, (*start, channel), shape).astype(jnp.float32)

    if group_inputs == 1:
        return [view(0)]
    # Two shifted reads stay contiguous in memory, unlike a gather.
    odd = np.arange(shape[-1]) % 2 == 1
    return [view(1), jnp.where(odd, view(0), view(2))]


def _by_partner(kernel: jax.Array) -> jax.Array:
    """Reorders a kernel's inputs to match the views of `_read`; its own inverse.

    [kh, kw, n, features] with two inputs: from (even, odd) to (own channel, partner).
    """
    odd = np.arange(kernel.shape[-1]) % 2 == 1
    return jnp.where(odd, kernel[:, :, ::-1], kernel)


def _shifted_sum(x, kernels, *, dilations):
    """Sums the shifted products in one pass.

    The barriers keep XLA from fusing the sum into each consumer of the result, which
    would compute it again there, and the padding into each of the views.
    """
    padded = lax.optimization_barrier(_pad(x, kernels, dilations))
    weights = [_by_partner(kernel.astype(jnp.float32)) for kernel in kernels]
    total = jnp.zeros(x.shape, jnp.float32)
    for k, i, j, top, left in _taps(kernels, dilations):
        views = _read(padded, (0, top, left), x.shape, kernels[0].shape[2])
        for n, view in enumerate(views):
            total += view * weights[k][i, j, n]
    return lax.optimization_barrier(total.astype(x.dtype))


def _shifted_input_gradient(g, x, kernels, *, dilations):
    del x  # `g` has the same shape, and nothing else is needed

    def transpose(kernel):
        kh, kw, inputs, features = kernel.shape
        flipped = kernel[::-1, ::-1].reshape(kh, kw, inputs, -1, inputs)
        return flipped.transpose(0, 1, 4, 3, 2).reshape(kh, kw, inputs, features)

    return _shifted_sum(g, tuple(map(transpose, kernels)), dilations=dilations)


def _shifted_kernel_gradient(g, x, kernels, *, dilations):
    """Accumulates the products with `g` row by row, and sums along rows at the end.

    A row and its sums stay in the cache, and adding rows uses vector registers; XLA's
    reduction of the full products does neither. One product serves a column of taps.
    """
    *_, width, channels = x.shape
    group_inputs = kernels[0].shape[2]
    rows, columns = _reach(kernels, dilations)
    padded = _pad(x, kernels, dilations)
    # The images one below the other; where two meet, the gradient is zero.
    g = jnp.pad(g, ((0, 0), (0, 2 * rows), (0, 0), (0, 0)))
    padded, g = (y.reshape(1, -1, *y.shape[2:]) for y in (padded, g))

    def add_row(row, sums):
        g_row = lax.dynamic_slice(g, (0, row, 0, 0), (1, 1, width, channels))[0]
        g_row = g_row.astype(jnp.float32)
        sums = iter(sums)
        new = []
        for kernel, dilation in zip(kernels, dilations, strict=True):
            kh, kw = kernel.shape[:2]
            top = row + rows - dilation * (kh // 2)
            shape = (1, dilation * (kh - 1) + 1, width, channels)
            for j in range(kw):
                left = columns + dilation * (j - kw // 2)
                for view in _read(padded, (0, top, left), shape, group_inputs):
                    new.append(next(sums) + view[0, ::dilation] * g_row)
        return new

    zeros = [
        jnp.zeros((kernel.shape[0], width, channels), jnp.float32)
        for kernel in kernels
        for _ in range(kernel.shape[1] * group_inputs)
    ]
    # Without unrolling, XLA copies the sums in every iteration.
    sums = lax.fori_loop(0, g.shape[1] - 2 * rows, add_row, zeros, unroll=2)
    sums = iter([total.sum(1) for total in sums])
    gradients = []
    for kernel in kernels:
        taps = [next(sums) for _ in range(kernel.shape[1] * group_inputs)]
        gradient = jnp.stack(taps, axis=1).reshape(kernel.shape)
        gradients.append(_by_partner(gradient).astype(kernel.dtype))
    return tuple(gradients)


def dense_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int,
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
    """Ungrouped convolution.

    Args:
        x: features [B, H, W, C].
        kernel: [kh, kw, C, features].
        strides: stride in pixels, the same for rows and columns.
        padding: zeros above and below, left and right.

    Returns:
        Features [B, H', W', features] in the dtype of `x`.
    """
    return _dense_conv(x, kernel, strides, padding, _implementation.get())


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _dense_conv(x, kernel, strides, padding, implementation):
    kh, kw, channels, features = kernel.shape
    _, height, width, _ = x.shape
    padded = any(map(any, padding))
    if (kh, kw, strides, padded) == (1, 1, 1, False):
        # As a matrix: with more axes, XLA's kernel gradient copies the input twice.
        y = x.reshape(-1, channels) @ kernel[0, 0]
        return y.reshape(*x.shape[:-1], features)

    conv = functools.partial(_conv, strides=strides, padding=padding)
    if implementation == "lax":
        return conv(x, (kernel,))
    even = height % 2 == width % 2 == 0
    if (kh, kw, strides, padded, even) == (2, 2, 2, False, True):
        cpu = transposed(_halving_product)
    else:
        forward = functools.partial(_same_conv, padding=padding)
        cpu = transposed(forward if _within_same(kernel, strides, padding) else conv)
        cpu = cpu._replace(
            kernel_gradient=functools.partial(
                _dense_kernel_gradient, strides=strides, padding=padding
            )
        )
        same = strides == 1 and padding == ((kh // 2,) * 2, (kw // 2,) * 2)
        # Measured: planes of more channels or taps cost more.
        few = max(channels, features) <= 6 and kh * kw <= 9
        if same and few and kh % 2 == kw % 2 == 1:
            cpu = cpu._replace(
                forward=_sum_of_planes, input_gradient=_sum_of_planes_input_gradient
            )
    return by_backend(x, (kernel,), cpu, transposed(conv))


def _conv(x, kernels, *, strides, padding):
    return plain_conv(x, kernels[0], strides=strides, padding=padding)


def _halving_product(x, kernels):
    """2x2 convolution of stride 2 as one matrix product."""
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height // 2, 2, width // 2, 2 * channels)
    kernel = kernels[0].reshape(2, 2 * channels, -1)
    return jnp.einsum("bhiwc,ico->bhwo", rows, kernel)


def _within_same(kernel, strides, padding) -> bool:
    """Whether the output is the inner part of that of a convolution of equal size."""
    same = [k // 2 for k in kernel.shape[:2]]
    return (
        strides == 1
        and all(k % 2 for k in kernel.shape[:2])
        and all(max(sides) <= half for sides, half in zip(padding, same, strict=True))
        and any(min(sides) < half for sides, half in zip(padding, same, strict=True))
    )


def _same_conv(x, kernels, *, padding):
    """Convolution that keeps the size, then cropped.

    XLA computes it on all cores; without padding it takes five times as long.
    """
    halves = [k // 2 for k in kernels[0].shape[:2]]
    y = plain_conv(x, kernels[0], padding=[(half, half) for half in halves])
    crop = [
        (half - before, half - after)
        for half, (before, after) in zip(halves, padding, strict=True)
    ]
    (top, bottom), (left, right) = crop
    return y[:, top : y.shape[1] - bottom, left : y.shape[2] - right]


def _sum_of_planes(x, kernels):
    """Sums shifted planes, one for each channel and tap, times a number.

    XLA's convolution of three channels uses a fraction of a vector register. At 3 to 3
    channels this is six times faster, at 6 to 6 channels 1.7 times.
    """
    kh, kw, channels, features = kernels[0].shape
    _, height, width, _ = x.shape
    kernel = kernels[0].astype(jnp.float32)
    planes = x.transpose(0, 3, 1, 2).astype(jnp.float32)
    planes = jnp.pad(planes, ((0, 0), (0, 0), (kh // 2,) * 2, (kw // 2,) * 2))
    sums = [
        sum(
            planes[:, c, i : i + height, j : j + width] * kernel[i, j, c, f]
            for i in range(kh)
            for j in range(kw)
            for c in range(channels)
        )
        for f in range(features)
    ]
    # Without the barrier, XLA recomputes the sums in each consumer.
    return lax.optimization_barrier(jnp.stack(sums, -1).astype(x.dtype))


def _sum_of_planes_input_gradient(g, x, kernels):
    del x  # it has the size of `g`
    return _sum_of_planes(g, (kernels[0][::-1, ::-1].swapaxes(2, 3),))


def _dense_kernel_gradient(g, x, kernels, *, strides, padding):
    """Matrix products of shifted views of the input and of the output's gradient.

    XLA's own kernel gradient takes up to five times as long. A tap pairs each output
    pixel with an input pixel some rows and columns away: either the input or the
    gradient is shifted by that. Every view is a copy, so both axes are shifted in the
    array with much fewer channels, or else rows in one and columns in the other.
    """
    kernel = kernels[0]
    kh, kw, channels, features = kernel.shape
    (top, _), (left, _) = padding
    _, height, width, _ = x.shape
    copies = {
        (True, True): kh * kw * channels,
        (False, False): kh * kw * features,
        (False, True): kh * features + kw * channels,
    }
    # The gradient of a strided convolution would have to be spread out.
    shift_x = (True, True) if strides > 1 else min(copies, key=copies.get)
    rows, columns = [i - top for i in range(kh)], [j - left for j in range(kw)]
    size = [
        g.shape[1] if shift_x[0] else height,
        g.shape[2] if shift_x[1] else width,
    ]
    x_views = _views(
        x,
        rows if shift_x[0] else [0],
        columns if shift_x[1] else [0],
        size,
        strides,
    )
    g_views = _views(
        g,
        [0] if shift_x[0] else [-row for row in rows],
        [0] if shift_x[1] else [-column for column in columns],
        size,
    )
    pixels = math.prod((len(x), *size))
    gradients = jnp.concatenate(g_views, axis=-1).reshape(pixels, -1)
    products = [
        lax.dot_general(
            view.reshape(pixels, channels),
            gradients,
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        for view in x_views
    ]
    # One of the first axes of each pair has length 1.
    x_rows, x_columns = kh if shift_x[0] else 1, kw if shift_x[1] else 1
    product = jnp.stack(products).reshape(
        x_rows, x_columns, channels, kh // x_rows, kw // x_columns, features
    )
    product = product.transpose(0, 3, 1, 4, 2, 5).reshape(kernel.shape)
    return (product.astype(kernel.dtype),)


def _views(x, rows, columns, size, strides=1) -> list[jax.Array]:
    """Returns views [B, *size, C] that start at each row and column, 0 outside `x`."""
    spans = [strides * (length - 1) + 1 for length in size]
    starts = (rows, columns)
    before = [max(0, -min(start)) for start in starts]
    after = [
        max(0, max(start) + span - length)
        for start, span, length in zip(starts, spans, x.shape[1:3], strict=True)
    ]
    padded = jnp.pad(x, ((0, 0), *zip(before, after, strict=True), (0, 0)))
    return [
        padded[:, top : top + spans[0] : strides, left : left + spans[1] : strides]
        for top in (row + before[0] for row in rows)
        for left in (column + before[1] for column in columns)
    ]
