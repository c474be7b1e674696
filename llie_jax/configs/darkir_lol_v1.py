"""DarkIR-m on LOL-v1 with the authors' optimizer, schedule and losses. Not yet trained.

python train.py --config llie_jax/configs/darkir_lol_v1.py --workdir runs/darkir_lol_v1
    --config.data.train.root=data/lol_v1

The paper's perceptual loss needs the VGG19 weights of torchvision. It is off here, so
that a run needs nothing but the data; --config.loss.terms.perceptual.weight=0.01 turns
it on, and says which file to get if it is missing. DarkIR-l: --config.model.width=64.
"""

from llie_jax.configs import base


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.model = base.spec("darkir")
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.05
    # 500 epochs of the 461 pairs that are left.
    epoch = 461 // 8
    config.stages.s0.steps = 500 * epoch
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 8
    config.loss.terms = dict(
        pixel=base.spec("l1"),
        edge=base.spec("edge", weight=50.0),
        guide=base.spec("l1", on="aux.guide", resize="target_area"),
        perceptual=base.spec("vgg19", weight=0.0),
    )
    config.schedule.hold_steps = epoch
    config.log.every_steps = 50
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.check(config)
