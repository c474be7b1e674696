"""Attention between channels, and the default part of its slot."""

import jax
import jax.numpy as jnp

from llie_jax.nn.layers import Identity
from llie_jax.registry import Card, register

register("identity", Card("reallocation"))(Identity)


def channel_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    scale: jax.Array,
    *,
    num_heads: int,
) -> jax.Array:
    """Attention between the channels of each head, over all pixels.

    Each channel of query and key is a vector over the pixels, normalised to unit
    length. The cost is linear in the number of pixels.

    Source: Zamir et al., Restormer, CVPR 2022, Eq. (1).

    Args:
        query: features [B, H, W, C]; the channels of head h are the h-th part of C.
        key: likewise.
        value: likewise.
        scale: factor on each head's scores, `num_heads` elements in any shape.
        num_heads: number of heads, which divides C.

    Returns:
        Features [B, H, W, C]: channel i is the sum of the value's channels of its head,
        weighted by a softmax over the products of query channel i with the keys.
        Lengths, scores and softmax are float32; the result has the dtype of `value`.

    Raises:
        ValueError: if `num_heads` does not divide C.
    """
    batch, height, width, channels = value.shape
    if channels % num_heads:
        raise ValueError(
            f"{channels} channels do not divide into {num_heads} heads; use a multiple."
        )
    # The lengths scale the small score matrix rather than the features. They are summed
    # before the heads are split: on CPU, XLA is several times slower afterwards.
    heads = (batch, num_heads, channels // num_heads)
    query_scale, key_scale = (_inverse_length(x).reshape(heads) for x in (query, key))
    shape = (batch, height * width, num_heads, channels // num_heads)
    query, key, value = (x.reshape(shape) for x in (query, key, value))
    scores = jnp.einsum(
        "bnhi,bnhj->bhij", query, key, preferred_element_type=jnp.float32
    )
    scores *= query_scale[..., :, None] * key_scale[..., None, :]
    scores *= scale.astype(jnp.float32).reshape(num_heads, 1, 1)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    output = jnp.einsum("bhij,bnhj->bnhi", weights, value)
    return output.reshape(batch, height, width, channels)


def _inverse_length(x: jax.Array) -> jax.Array:
    """Returns 1 / max(length over pixels, 1e-12), [B, C] of [B, H, W, C]."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2))
    # Clamped inside the root, so that the gradient at zero is zero and not NaN.
    return jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
