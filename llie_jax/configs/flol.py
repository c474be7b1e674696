"""FLOL on LOL-v1 and LOL-v2, with a recipe of ours. Not yet trained.

llie-jax train --config flol --workdir runs/flol
    --config.data.train.root=data/lol_v1

The authors publish neither training code nor losses nor a schedule. This recipe is a
plain choice, not theirs: L1 between the enhanced image and the reference, Adam, half a
cosine, flips and rotations. The result of the first stage has no loss of its own;
`Outputs.aux["amplitude_image"]` is there for a term that compares it.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md.
"""

from llie_jax.configs import base


def get_config(data: base.LOL = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("flol", "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = True
    config.stages.s0.steps = 100_000
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 8
    config.loss.terms = dict(pixel=base.spec("l1"))
    config.optimizer = base.spec("adam", learning_rate=4e-4)
    config.schedule = base.spec("cosine", kind="schedule", final_rate=1e-6)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
