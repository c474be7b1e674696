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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_backend(x, kernels, cpu: Form, default: Form):
    """Uses the form `cpu` on CPU and `default` elsewhere.

    The form is chosen at lowering time and not from the devices present, because code
    for an accelerator is also compiled on machines without one. Each gradient chooses
    separately: a choice inside a differentiated function would keep the residuals of
    both forms.
    """
    return lax.platform_dependent(x, kernels, cpu=cpu.forward, default=default.forward)


def _by_backend_forward(x, kernels, cpu, default):
    return by_backend(x, kernels, cpu, default), (x, kernels)


def _by_backend_backward(cpu, default, residuals, g):
    return (
        lax.platform_dependent(
            g, *residuals, cpu=cpu.input_gradient, default=default.input_gradient
        ),
        lax.platform_dependent(
            g, *residuals, cpu=cpu.kernel_gradient, default=default.kernel_gradient
        ),
    )


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
    convolution each. Other backends use the native convolution.

    Args:
        x: features [B, H, W, C].
        kernel: [kh, kw, C / groups, features], kh and kw odd.
        groups: number of groups; `groups == C == features` is a depthwise convolution.
        dilation: spacing of the kernel's taps, in pixels.
        implementation: None chooses by backend; "lax" or "shifts" forces one.

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
    if implementation is None:
        return by_backend(x, kernels, shifts, transposed(plain))
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


_BLOCK_BYTES = 4 * 2**20


def _shifted_sum(x, kernels, *, dilations):
    """Sums the shifted products, one block of rows at a time.

    The loop has at least two iterations. Without a loop, XLA would fuse the sum into
    each consumer of the result and recompute it there: in DarkIR this made the
    convolutions four times slower.
    """
    batch, height, width, channels = x.shape
    group_inputs = kernels[0].shape[2]
    padded = _pad(x, kernels, dilations)
    weights = [_by_partner(kernel.astype(jnp.float32)) for kernel in kernels]
    num_blocks = max(2, -(-4 * x.size // _BLOCK_BYTES))
    rows = -(-height // num_blocks)
    shape = (batch, rows, width, channels)

    def add_block(block, y):
        first = jnp.minimum(block * rows, height - rows)  # the last block may overlap
        total = jnp.zeros(shape, jnp.float32)
        for k, i, j, top, left in _taps(kernels, dilations):
            views = _read(padded, (0, first + top, left), shape, group_inputs)
            for n, view in enumerate(views):
                total += view * weights[k][i, j, n]
        return lax.dynamic_update_slice(y, total.astype(y.dtype), (0, first, 0, 0))

    # `x` only provides the buffer: every row is overwritten.
    return lax.fori_loop(0, -(-height // rows), add_block, x)


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
    reduction of the full products does neither.
    """
    batch, height, width, channels = x.shape
    group_inputs = kernels[0].shape[2]
    padded = _pad(x, kernels, dilations)
    shape = (1, 1, width, channels)

    def add_row(n, sums):
        b, row = n // height, n % height
        g_row = lax.dynamic_slice(g, (b, row, 0, 0), shape).astype(jnp.float32)
        views = [
            view
            for _, _, _, top, left in _taps(kernels, dilations)
            for view in _read(padded, (b, row + top, left), shape, group_inputs)
        ]
        return [total + g_row * view for total, view in zip(sums, views, strict=True)]

    sizes = [math.prod(kernel.shape[:3]) for kernel in kernels]
    zeros = [jnp.zeros_like(g, jnp.float32, shape=shape)] * sum(sizes)
    sums = lax.fori_loop(0, batch * height, add_row, zeros, unroll=2)
    sums = jnp.concatenate(sums).sum((1, 2))
    return tuple(
        _by_partner(part.reshape(kernel.shape)).astype(kernel.dtype)
        for part, kernel in zip(
            jnp.split(sums, np.cumsum(sizes)[:-1]), kernels, strict=True
        )
    )


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

    def conv(x, kernels):
        return plain_conv(x, kernels[0], strides=strides, padding=padding)

    if implementation == "lax":
        return conv(x, (kernel,))
    plain = cpu = transposed(conv)
    even = height % 2 == width % 2 == 0
    if (kh, kw, strides, padded, even) == (2, 2, 2, False, True):
        cpu = transposed(_halving_product)
    elif strides == 1 and not padded and kh % 2 == kw % 2 == 1 and channels >= 8:
        cpu = transposed(_cropped_conv)
    elif (
        strides == 1
        and padding == ((kh // 2,) * 2, (kw // 2,) * 2)
        and kh % 2 == kw % 2 == 1
    ):
        # Measured: patches and planes of more channels cost more.
        if features <= 4 < channels:
            cpu = cpu._replace(kernel_gradient=_few_features_kernel_gradient)
        if max(channels, features) <= 6 and kh * kw <= 9:
            cpu = cpu._replace(
                forward=_sum_of_planes, input_gradient=_sum_of_planes_input_gradient
            )
    if cpu is plain:
        return conv(x, (kernel,))
    return by_backend(x, (kernel,), cpu, plain)


def _halving_product(x, kernels):
    """2x2 convolution of stride 2 as one matrix product."""
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height // 2, 2, width // 2, 2 * channels)
    kernel = kernels[0].reshape(2, 2 * channels, -1)
    return jnp.einsum("bhiwc,ico->bhwo", rows, kernel)


def _cropped_conv(x, kernels):
    """Convolution without padding, as the inside of one with padding.

    XLA's own takes twice to six times as long for 36 to 144 channels.
    """
    kh, kw = kernels[0].shape[:2]
    _, height, width, _ = x.shape
    rows, columns = kh // 2, kw // 2
    y = plain_conv(x, kernels[0], strides=1, padding=((rows, rows), (columns, columns)))
    return y[:, rows : height - rows, columns : width - columns]


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


def _few_features_kernel_gradient(g, x, kernels):
    """One matrix product of the input with patches of the output's gradient."""
    kh, kw, channels, features = kernels[0].shape
    _, height, width, _ = x.shape
    rows, columns = kh // 2, kw // 2
    g = jnp.pad(g, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    patches = jnp.concatenate(
        [
            g[:, kh - 1 - i : kh - 1 - i + height, kw - 1 - j : kw - 1 - j + width]
            for i in range(kh)
            for j in range(kw)
        ],
        axis=-1,
    )
    product = x.reshape(-1, channels).T @ patches.reshape(-1, kh * kw * features)
    return (product.reshape(channels, kh, kw, features).transpose(1, 2, 0, 3),)
