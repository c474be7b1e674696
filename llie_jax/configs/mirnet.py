"""MIRNet on LOL-v1 and LOL-v2 with its authors' recipe for denoising. Not yet trained.

llie-jax train --config mirnet --workdir runs/mirnet
    --config.data.train.root=data/lol_v1
llie-jax train --config mirnet:lfpv=true --workdir runs/mirnet_lfpv
    --config.data.train.root=data/lol_v1

The authors' code has no settings for LOL. Crops, batch, optimizer, schedule and loss
are those of its denoising; the 150,000 steps are those of their recipe for MIRNet-v2 on
LOL. The warm-up takes three epochs, and the rate then falls once per epoch.

Differs: mixtures of pairs have the authors' distribution, but one share per batch, in
half of the batches and from the start; the authors draw a share for each image, in all
batches after the fifth epoch.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md.
"""

from llie_jax.configs import base


def get_config(data: base.LOL = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("mirnet", "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = True
    config.data.augment.mixup = 1.2
    config.stages.s0.steps = 150_000
    config.stages.s0.patch_size = 128
    config.stages.s0.batch_size = 16
    config.loss.terms = dict(pixel=base.spec("charbonnier", eps=1e-6, clip=True))
    config.optimizer = base.spec("adam", learning_rate=2e-4, l2=1e-8)
    epoch = base.training_pairs(data) // 16
    config.schedule = base.spec(
        "cosine",
        kind="schedule",
        warmup_steps=3 * epoch,
        final_rate=1e-6,
        hold_steps=epoch,
    )
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
