"""The types that models, losses, data and training share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
from flax import linen as nn
from flax import struct

Dtype = Any
"""Anything that `jnp.dtype` accepts: `jnp.bfloat16`, "float32"."""

ModuleFactory = Callable[..., nn.Module]
"""A slot for a part: makes a Module from the options that its caller sets.

A factory rather than an instance, so that each block owns its parameters.
"""


class Record(TypedDict):
    """One record of a data set: images of one size, [H, W, 3], RGB.

    They are as deep as their files: uint8, uint16, or float32 in [0, 1].

    The source declares which images its records have: `image` always, `target` where
    the set has references, and others under keys of their own.

    Attributes:
        name: its name, unique within the source.
        scene: what it shows; records of one scene show the same place.
        image: the low-light image.
        target: the normal-light reference.
    """

    name: str
    scene: str
    image: np.ndarray
    target: NotRequired[np.ndarray]


Batch = dict[str, jax.Array]
"""One batch of records.

Holds the images of the records under their keys, [B, H, W, 3]: `image` always,
`target` and others where the source has them; and `index` [B], the position of each
record in its source.
"""


@struct.dataclass
class Outputs:
    """What every model returns, in training and at inference.

    A loss term names its parts by path: `image`, `aux.NAME`, `losses.NAME`.

    Attributes:
        image: the enhanced image [B, H, W, 3], not clipped.
        aux: further named predictions or scalars, for example DarkIR's `guide`.
        losses: values that only the model itself can compute, scalars or [B], for the
            loss `model_loss`. Training without references uses these, and terms that
            compare with the batch's `image`.
    """

    image: jax.Array
    aux: dict[str, jax.Array] = struct.field(default_factory=dict)
    losses: dict[str, jax.Array] = struct.field(default_factory=dict)


SCORE_TOLERANCES = {"psnr": 0.01, "ssim": 2e-4}
"""Largest difference from the official code's score, per metric."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published checkpoint: where to get it, and the scores its authors report.

    Attributes:
        spec: the model's spec; omitted fields take their defaults.
        file: name of the official file.
        origin: the page that offers it.
        licence: its licence, as an SPDX identifier.
        trained_on: the training data.
        score: the authors' scores, metric name to value.
        protocol: how the scores were computed.
        sha256: hash of `file`; None if it is not recorded.
        parts: further official files, for a checkpoint in several files: name to
            SHA-256.
        reference: what the official code scores on the test split of LOL-v1 with the
            protocol `default`, metric to value; empty if nobody measured it.
        crop_multiple: `reference` is of images cropped at the bottom and right to
            multiples of this.
        selected_on: the sets on whose test images the authors chose this checkpoint,
            or a test option that `spec` holds.
        measured: what this project scores with them, as `llie-jax verify` measured;
            `weights.published` fills it in. Empty if it has not been measured.
    """

    spec: Mapping[str, Any]
    file: str
    origin: str
    licence: str
    trained_on: str
    score: Mapping[str, float]
    protocol: str
    sha256: str | None = None
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
    crop_multiple: int = 1
    selected_on: tuple[str, ...] = ()
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether this project scores what the official code does."""
        return bool(self.measured and self.reference) and all(
            abs(self.measured[metric] - value) <= SCORE_TOLERANCES[metric]
            for metric, value in self.reference.items()
        )
