"""Convolution kernels generated from orthogonal bases (POG).

Each value of a generated kernel has an embedding, a row of a learned table. The row is
the mirror of a Householder reflection, whose matrix is an orthogonal basis. A vector
that the image decides weights the basis vectors, and a small network shared by all
values turns their sum into the value.

The bases are never formed. With a unit row n, the weights w and a linear layer U, u,

    s = (I - 2 n n^T) w = w - 2 n (n . w)
    U s + u = (U w + u) - 2 (n . w) (U n)

where U n does not depend on the image.

Source: Li et al., Rethinking Model Redundancy for Low-light Image Enhancement,
arXiv 2412.16459, Eqs. (4) to (7).
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.nn.layers import Layer, uniform
from llie_jax.registry import Card, register
from llie_jax.types import Dtype

FORMS = ("closed", "explicit")


def unit_rows(embedding: jax.Array) -> jax.Array:
    """Returns the rows of [N, De] with length 1, in float32.

    Rows shorter than 1e-6 are divided by that, so that their gradient stays finite.
    """
    x = embedding.astype(jnp.promote_types(embedding.dtype, jnp.float32))
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def householder_basis(embedding: jax.Array) -> jax.Array:
    """Returns the orthogonal basis of each row: [N, De] -> [N, De, De].

    I - 2 n n^T with the unit row n: symmetric, orthogonal and its own inverse. This is
    the definition; `OrthogonalConv` does without it unless its `form` is "explicit".

    Source: Eq. (4).
    """

    def reflection(row):
        return jnp.eye(len(row), dtype=row.dtype) - 2 * jnp.outer(row, row)

    return jax.vmap(reflection)(unit_rows(embedding))


@jax.custom_vjp
def _decode(along, projected, shared, output):
    """Returns values [B, N] before the last bias: output . gelu(shared + along h).

    Nothing of size B x H x N is kept for the gradient, and on CPU nothing made.

    Args:
        along: -2 n . w of each image and row, [B, N].
        projected: h = U n of each row, [H, N].
        shared: U w + u of each image, [B, H].
        output: the last layer's weights [H].
    """
    return jax.lax.platform_dependent(
        along, projected, shared, output, cpu=_decode_in_turns, default=_decode_at_once
    )


def _decode_at_once(along, projected, shared, output):
    hidden, _ = _gelu(shared[..., None] + along[:, None] * projected)
    return jnp.einsum("bhn,h->bn", hidden, output)


def _decode_in_turns(along, projected, shared, output):
    def add(i, values):
        hidden, _ = _gelu(shared[:, i, None] + along * projected[i])
        return values + output[i] * hidden

    start = jnp.zeros_like(along)
    return jax.lax.fori_loop(0, len(output), add, start, unroll=_UNROLL)


def _decode_forward(*arguments):
    return _decode(*arguments), arguments


def _decode_backward(arguments, gradient):
    return jax.lax.platform_dependent(
        gradient,
        *arguments,
        cpu=_decode_gradient_in_turns,
        default=_decode_gradient_at_once,
    )


def _decode_gradient_at_once(gradient, along, projected, shared, output):
    hidden, slope = _gelu(shared[..., None] + along[:, None] * projected)
    inner = gradient[:, None] * output[:, None] * slope  # [B, H, N]
    return (
        jnp.sum(inner * projected, axis=1),
        jnp.sum(inner * along[:, None], axis=0),
        jnp.sum(inner, axis=-1),
        jnp.einsum("bhn,bn->h", hidden, gradient),
    )


def _decode_gradient_in_turns(gradient, along, projected, shared, output):
    # As products: XLA's sums along the last axis are slow on CPU.
    ones = jnp.ones((along.shape[1],), along.dtype)

    def add(i, sums):
        to_along, to_projected, to_shared, to_output = sums
        hidden, slope = _gelu(shared[:, i, None] + along * projected[i])
        inner = gradient * output[i] * slope
        return (
            to_along + inner * projected[i],
            to_projected.at[i].set(jnp.sum(inner * along, axis=0)),
            to_shared.at[:, i].set(inner @ ones),
            to_output.at[i].set(jnp.sum((gradient * hidden) @ ones)),
        )

    start = jax.tree.map(jnp.zeros_like, (along, projected, shared, output))
    return jax.lax.fori_loop(0, len(output), add, start, unroll=_UNROLL)


_decode.defvjp(_decode_forward, _decode_backward)

_UNROLL = 8  # measured: more compiles longer and is no faster


def _gelu(x):
    """Returns the tanh form of GELU, and its derivative."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    tanh = jnp.tanh(scale * (x + cubic * x**3))
    half = 0.5 * (1 + tanh)
    slope = 0.5 * x * (1 - tanh**2) * scale * (1 + 3 * cubic * x**2)
    return x * half, half + slope


class _Linear(nn.Module):
    """The parameters of a linear layer, initialised as in PyTorch."""

    inputs: int
    features: int
    kernel_gain: float = 1.0
    bias_gain: float = 1.0
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Returns kernel [inputs, features] and bias [features], float32 or wider."""

        def parameter(name, shape, gain):
            init = uniform(gain / math.sqrt(self.inputs))
            value = self.param(name, init, shape, self.param_dtype)
            return value.astype(jnp.promote_types(value.dtype, jnp.float32))

        shape = (self.inputs, self.features)
        return (
            parameter("kernel", shape, self.kernel_gain),
            parameter("bias", shape[1:], self.bias_gain),
        )


@register("orthogonal", Card("kernel", internal=("features", "zero_init")))
class OrthogonalConv(Layer):
    """Generates the kernel of a convolution for each image from orthogonal bases.

    Parameters: the table `embedding` [N, De], N values in the order output channel,
    input channel, row, column; `mix_in`, `mix_out`, which turn the mean features into
    the weights of the basis vectors; `decode_in`, `decode_out`, which turn a weighted
    sum of them into a value. For inference the collection `cache` holds what does not
    depend on the image, see `llie_jax.inference.freeze`.

    Source: Eqs. (4) to (7).
    Differs: the closed form at the top of this file; the values are equal.

    Attributes:
        features: number of output channels.
        embedding_dim: length De of an embedding, at least 2.
        kernel_size: rows and columns of the kernel, odd.
        decoder_gain: scale of the first layer of the value network at the start. With
            1, the paper's, all values of a new kernel are almost equal; the square root
            of `embedding_dim` spreads them.
        zero_init: begin with the kernel 0.
        form: "closed", or "explicit" to compute with the bases themselves, as the paper
            defines them: slow, needs N * De^2 values of memory, and gives the same
            kernels.
    """

    features: int
    embedding_dim: int = 64
    kernel_size: int = 1
    decoder_gain: float = 1.0
    zero_init: bool = False
    form: str = "closed"

    @nn.compact
    def kernel(self, pooled: jax.Array) -> jax.Array:
        """Returns the kernels [B, k, k, C, features] of images.

        Args:
            pooled: mean over the pixels of the convolution's input, [B, C].

        Raises:
            ValueError: if `embedding_dim` is below 2, `kernel_size` is even, or `form`
                is unknown.
        """
        size, dim = self.kernel_size, self.embedding_dim
        check_kernel_size(size)
        if dim < 2:
            raise ValueError(
                f"embedding_dim={dim}: a basis needs at least two vectors."
            )
        if self.form not in FORMS:
            raise ValueError(
                f"Unknown form {self.form!r} of the generator; use one of {FORMS}."
            )
        inputs = pooled.shape[-1]
        count, hidden = inputs * self.features * size**2, dim // 2

        def linear(inputs, features, name, **gains):
            return _Linear(
                inputs, features, param_dtype=self.param_dtype, name=name, **gains
            )()

        embedding = self.param(
            "embedding", nn.initializers.normal(1.0), (count, dim), self.param_dtype
        )
        mix_in, mix_in_bias = linear(inputs, dim, "mix_in")
        mix_out, mix_out_bias = linear(dim, dim, "mix_out")
        decode_in, decode_in_bias = linear(
            dim, hidden, "decode_in", kernel_gain=self.decoder_gain
        )
        start = 0.0 if self.zero_init else 1.0
        decode_out, decode_out_bias = linear(
            hidden, 1, "decode_out", kernel_gain=start, bias_gain=start
        )

        mixed = pooled.astype(mix_in.dtype) @ mix_in + mix_in_bias
        mixed = nn.gelu(mixed, approximate=True)
        weights = nn.softmax(mixed @ mix_out + mix_out_bias)
        if self.form == "explicit":
            mixed = jnp.einsum("bj,nij->bni", weights, householder_basis(embedding))
            inner = nn.gelu(mixed @ decode_in + decode_in_bias, approximate=True)
            values = inner @ decode_out[:, 0] + decode_out_bias
        else:
            rows, projected = self._cached(
                lambda: _project(unit_rows(embedding), decode_in)
            )
            values = decode_out_bias + _decode(
                -2 * weights @ rows.T,
                projected,
                weights @ decode_in + decode_in_bias,
                decode_out[:, 0],
            )
        values = values.reshape(-1, self.features, inputs, size, size)
        return values.transpose(0, 3, 4, 2, 1)

    def _cached(self, compute):
        """Returns unit rows and their projections, from the cache if there is one."""
        names = ("rows", "projected")
        if self.has_variable("cache", names[0]):
            return tuple(self.get_variable("cache", name) for name in names)
        values = compute()
        if self.is_mutable_collection("cache") and not self.is_initializing():
            for name, value in zip(names, values, strict=True):
                self.put_variable("cache", name, value)
        return values

    def generator_macs(self, inputs: int, pixels: int) -> int:
        """Returns what fvcore counts besides the convolution itself, for one image.

        That is the pooling, and the networks in the authors' form.
        """
        dim, hidden = self.embedding_dim, self.embedding_dim // 2
        count = inputs * self.features * self.kernel_size**2
        return inputs * pixels + count * (dim + 1) * hidden + (inputs + dim) * dim


def _project(rows, decode_in):
    """Returns the rows [N, De], and their products with a layer [De, H], [H, N]."""
    # Kept apart from the transposition: in one, XLA's product is slower on CPU.
    return rows, jax.lax.optimization_barrier(rows @ decode_in).T


def check_kernel_size(size: int) -> None:
    """Raises ValueError if a kernel of this size has no centre."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel_size={size}; use an odd number, 1 or more.")
