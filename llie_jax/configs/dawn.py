"""Dawn, this project's own network for real photos, on LOL-v1.

llie-jax train --config dawn --workdir runs/dawn --config.data.train.root=data/lol_v1

Four tenths of the inputs are not LOL's but made of the references: a quarter of those
is as bright as the reference, so that good photos are left alone; the others are
darker, with sensor noise. Crops come with the overview of their photo.

The shipped weights (llie_jax/weights/data/dawn.md) come from several shorter runs.
"""

from typing import Literal

from llie_jax.configs import base


def get_config(
    data: base.LOL = "lol_v1",
    size: Literal["base", "one_curve", "no_gate", "static"] = "base",
    lfpv: bool = False,
):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("dawn", size)
    config.data.train.name = data
    config.data.validation.fraction = 0.06
    config.data.augment.relight = 0.4
    # LFPV needs multiples of 32: Dawn divides an image by 8, and its patches by 4.
    patch_size = 128 if lfpv else 112
    config.stages.s0 = dict(steps=12000, patch_size=patch_size, batch_size=8)
    config.loss.terms = dict(
        pixel=base.spec("l1"),
        ssim=base.spec("ssim", weight=0.2),
        toned=base.spec("l1", on="aux.toned", weight=0.25),
    )
    config.optimizer = base.spec("adam", learning_rate=2e-3, clip_norm=1.0)
    config.schedule = base.spec("cosine", kind="schedule", warmup_steps=100)
    config.ema.decay = 0.998
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
