"""Restormer on LOL-v1 with its authors' recipe for other tasks. Not yet trained.

python train.py --config llie_jax/configs/restormer_progressive_lol_v1.py
    --workdir runs/restormer_progressive_lol_v1 --config.data.train.root=data/lol_v1

Patches grow while batches shrink, to 384 pixels and one pair; each stage compiles once.
A batch of one or two needs as few devices. The rate stays at 3e-4 for 92 of the 300
thousand steps, then falls.
"""

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


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.model = base.spec("restormer")
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = True
    config.stages = {
        f"s{i}": dict(steps=steps, patch_size=patch, batch_size=batch)
        for i, (steps, patch, batch) in enumerate(STAGES)
    }
    config.loss.terms = dict(pixel=base.spec("l1"))
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.01
    config.schedule.name = "cosine_periods"
    config.schedule.periods = (92.0, 208.0)
    config.schedule.period_rates = (3e-4, 1e-6)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.check(config)
