"""The variables of a model by shape, without computing any of them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def variable_shapes(model: nn.Module) -> dict[str, Any]:
    """Returns what `model.init` would make, with shapes and dtypes in place of arrays.

    Takes a moment even for large models, since nothing is compiled.

    Returns:
        `{collection: tree of jax.ShapeDtypeStruct}`, the first collection is `params`.
    """
    side = model.multiple
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
