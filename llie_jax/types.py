"""The types that models, losses, data and training share."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import struct

Dtype = Any
"""Anything that `jnp.dtype` accepts: `jnp.bfloat16`, "float32"."""

ModuleFactory = Callable[..., nn.Module]
"""A slot for a part: called with the options its user decides, gives a Module.

A factory and not an instance, so that each block owns its parameters.
"""

Batch = dict[str, jax.Array]
"""One batch of pairs.

`image` and `target` [B, H, W, 3]; `weight` [B], 0 where a record only pads the last
batch; `index` [B], the number of the record in its source.
"""


@struct.dataclass
class Outputs:
    """What every model returns, in training and at inference.

    Attributes:
        image: the enhanced image [B, H, W, 3], not clipped.
        aux: further named predictions or scalars, for example DarkIR's `guide`.
        losses: scalars that only the model itself can compute.
    """

    image: jax.Array
    aux: dict[str, jax.Array] = struct.field(default_factory=dict)
    losses: dict[str, jax.Array] = struct.field(default_factory=dict)
