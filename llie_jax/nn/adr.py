"""Attention dynamic reallocation (ADR): rewrites query, key and value for each image.

Source: Li et al., Rethinking Model Redundancy for Low-light Image Enhancement,
arXiv 2412.16459, Eqs. (1) to (3). The paper publishes no code.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.nn import dynamic_conv as dynamic_conv  # registers its layers
from llie_jax.nn.layers import FvcoreCounted, Layer
from llie_jax.nn.pog import OrthogonalConv
from llie_jax.registry import Card, register
from llie_jax.types import ModuleFactory


@register("adr", Card("reallocation"))
class AttentionDynamicReallocation(Layer, FvcoreCounted):
    """Adds to features what a bottleneck of two generated convolutions makes of them.

    For the slot `reallocate` of attentions. The second convolution begins with zeros,
    so that a model with ADR is bit-identical to the model without it at initialisation.

    The kernels depend on the whole image. Given in the collection `kernels` (`squeeze`
    and `expand`), they are taken from there: one image's kernels can serve all its
    tiles. Where that collection is mutable, the generated ones are written to it.

    Attributes:
        width: channels Dm of the bottleneck, fewer than those of the features.
        conv: builds the generator of each convolution's kernel: `orthogonal` (POG),
            `dynamic` or `static`.
        zero_start: whether the second convolution begins with zeros; False begins with
            random kernels, as published.
    """

    width: int
    conv: ModuleFactory = OrthogonalConv
    zero_start: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C].

        Raises:
            ValueError: if `width` is not below C.
        """
        channels = x.shape[-1]
        if not 1 <= self.width < channels:
            raise ValueError(
                f"ADR's width={self.width} is a bottleneck of the {channels} channels "
                f"of query, key and value; use 1 to {channels - 1}."
            )
        squeeze, expand = self._kernels(x)
        return x + sample_conv(sample_conv(x, squeeze), expand)

    def _kernels(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the kernels of both convolutions, [B, k, k, C, width] and back."""
        names = ("squeeze", "expand")
        if self.has_variable("kernels", names[0]):
            return tuple(self.get_variable("kernels", name) for name in names)
        first, second = self._generators(x.shape[-1])
        pooled = _mean(x)
        squeeze = first.kernel(pooled)
        if squeeze.shape[1:3] == (1, 1):
            # The mean of the bottleneck, without computing it: the convolution is
            # linear and has no bias. Both kernels are then known after one pass.
            pooled = jnp.einsum("bc,bco->bo", pooled, _for_each(squeeze, x)[:, 0, 0])
        else:
            pooled = _mean(sample_conv(x, squeeze))
        kernels = squeeze, second.kernel(pooled)
        if self.is_mutable_collection("kernels") and not self.is_initializing():
            for name, kernel in zip(names, kernels, strict=True):
                self.put_variable("kernels", name, kernel)
        return kernels

    def _generators(self, channels: int, **options) -> tuple[nn.Module, nn.Module]:
        """Returns the modules that make the kernels."""
        options |= self.types
        return (
            self.conv(features=self.width, name="squeeze", **options),
            self.conv(
                features=channels, name="expand", zero_init=self.zero_start, **options
            ),
        )

    def fvcore_macs(self, x: jax.Array) -> int:
        """Returns what fvcore would count for the paper's form of one call.

        The generators' networks are counted for each value, the bases as computed
        beforehand, and their weighting, which is elementwise, not at all.
        """
        batch, height, width, channels = x.shape
        pixels = height * width
        first, second = self._generators(channels, parent=None)
        convolutions = 2 * channels * self.width * first.kernel_size**2 * pixels
        return batch * (
            convolutions
            + first.generator_macs(channels, pixels)
            + second.generator_macs(self.width, pixels)
        )


def sample_conv(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """Convolves each image with a kernel of its own, with zero padding.

    Args:
        x: features [B, H, W, C].
        kernels: [B, k, k, C, features] with odd k, or [1, ...] for one of all images.

    Returns:
        Features [B, H, W, features] in the dtype of `x`; sums are float32 at least.
    """
    kernels = _for_each(kernels.astype(x.dtype), x)
    size = kernels.shape[1]
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def product(x, kernel):
        # With the pixels in one dimension: XLA's gradients of more take twice as long.
        pixels = x.reshape(len(x), -1, x.shape[-1])
        y = jnp.einsum("bnc,bco->bno", pixels, kernel, preferred_element_type=wide)
        return y.reshape(*x.shape[:-1], -1)

    if size == 1:
        return product(x, kernels[:, 0, 0]).astype(x.dtype)
    reach = size // 2
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    # One product per tap: patches would take k * k times the memory of `x`.
    return sum(
        product(padded[:, i : i + height, j : j + width], kernels[:, i, j])
        for i in range(size)
        for j in range(size)
    ).astype(x.dtype)


def _for_each(kernels: jax.Array, x: jax.Array) -> jax.Array:
    """Returns one kernel for each image."""
    return jnp.broadcast_to(kernels, (len(x), *kernels.shape[1:]))


def _mean(x: jax.Array) -> jax.Array:
    """Returns the mean over the pixels, [B, C], float32 at least."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
