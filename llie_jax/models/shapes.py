"""Shapes of a model's variables, and of the images that it takes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax import jaxprs
from llie_jax.nn import conv_kernels


def variable_shapes(
    model: nn.Module, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Returns what `model.init` would make, with shapes and dtypes in place of arrays.

    Takes a moment even for large models, since nothing is compiled.

    Args:
        model: the model.
        size: (height, width) of the image it is traced with, the smallest by default.
            JAX keeps the traces of what is inside: another trace of the same size is
            faster.

    Returns:
        `{collection: tree of jax.ShapeDtypeStruct}`, the first collection is `params`.
    """
    size = size or (model.multiple, model.multiple)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with conv_kernels.use_implementation("lax"):  # the fastest to trace
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def initial_variables(
    model: nn.Module, rng: jax.Array, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns what `model.init` makes, compiled in a fraction of the time.

    Args:
        model: the model.
        rng: random key of the parameters.
        size: (height, width) of the image it is traced with.
    """
    with conv_kernels.use_implementation("lax"):  # what is traced is never run
        return jaxprs.batched(model.init)(rng, jnp.zeros((1, *size, 3)))


def check_image(model: nn.Module, image: jax.Array) -> None:
    """Checks that a model takes images of this shape.

    Raises:
        ValueError: if `image` is not [B, H, W, 3], or the model's `multiple` does not
            divide its sides.
    """
    if image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(f"image has the shape {image.shape}, not [B, H, W, 3].")
    height, width = image.shape[1:3]
    if height % model.multiple or width % model.multiple:
        raise ValueError(
            f"image is {height} x {width}; this {type(model).__name__} needs multiples "
            f"of {model.multiple}. Use llie_jax.inference.padding.pad_to_multiple, or "
            "llie_jax.enhance for any size."
        )
