"""The types that models, losses, data and training share."""

import dataclasses
from collections.abc import Callable, Mapping
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


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published checkpoint: where it is, and what its authors report for it.

    Attributes:
        spec: the model's spec; its other fields have their defaults.
        file: name of the official file.
        origin: the page that offers it.
        licence: its licence, as an SPDX identifier.
        trained_on: the training data.
        score: the authors' scores, metric name to value.
        protocol: how these were computed.
        sha256: hash of the official file; None as long as nobody has recorded it.
    """

    spec: Mapping[str, Any]
    file: str
    origin: str
    licence: str
    trained_on: str
    score: Mapping[str, float]
    protocol: str
    sha256: str | None = None
