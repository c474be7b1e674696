"""Restormer on LOL-v1 with its authors' recipe for other tasks. Not yet trained.

llie-jax train --config restormer_progressive --workdir runs/restormer_progressive
    --config.data.train.root=data/lol_v1

Patches grow while batches shrink, to 384 pixels and one pair; each stage compiles once.
Batches of one or two pairs run on at most as many devices. The rate stays at 3e-4 for
92,000 of the 300,000 steps, then falls.
"""

from typing import Literal

from llie_jax.configs import base

STAGES = (
    (92_000, 128, 8),
    (64_000, 160, 5),
    (48_000, 192, 4),
    (36_000, 256, 2),
    (36_000, 320, 1),
    (24_000, 384, 1),
)
"""Steps, patch size and batch size."""


def get_config(reallocate: Literal["", "adr"] = "", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("restormer", reallocate or "paper")
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = True
    config.stages = {
        f"s{i}": dict(steps=steps, patch_size=patch, batch_size=batch)
        for i, (steps, patch, batch) in enumerate(STAGES)
    }
    config.loss.terms = dict(pixel=base.spec("l1"))
    config.optimizer = base.spec(
        "adamw", learning_rate=3e-4, weight_decay=1e-4, clip_norm=0.01
    )
    config.schedule = base.spec(
        "cosine_periods", periods=(92.0, 208.0), period_rates=(3e-4, 1e-6)
    )
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
