"""A small model with ADR, which several studies share."""

import jax
import pytest

import llie_jax
from llie_jax.studies import layers

BACKBONE = {"name": "retinexformer", "width": 4, "num_blocks": (1, 1)}
ADR = {
    "name": "adr",
    "width": 3,
    "conv": {"name": "orthogonal", "embedding_dim": 8, "decoder_gain": 8.0},
}
ATTENTION = [
    f"stage_0/denoiser/{place}/block_0/attention"
    for place in ("encoder_0", "bottleneck", "decoder_0")  # in execution order
]


@pytest.fixture(scope="session")
def made():
    """The model and its initial variables."""
    model = llie_jax.build({**BACKBONE, "reallocate": ADR})
    return model, {"params": layers.initial(model, jax.random.key(5))}
