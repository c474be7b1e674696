"""DarkIR with the authors' optimizer, schedule and losses. Not yet trained.

llie-jax train --config darkir --workdir runs/darkir
    --config.data.train.root=data/lol_v1

DarkIR-l is `darkir:size=l`. The perceptual loss needs the weights of a pretrained
network and is off here, so that a run needs only the data;
--config.loss.terms.perceptual.weight=0.01 turns it on, and the error says how to get
the weights if they are missing. The authors' code compares features of VGG19, the paper
says LPIPS: `perceptual=lpips_vgg` (or lpips_alex). `lfpv=true` wraps the model in LFPV,
see docs/recipes.md.
"""

from typing import Literal

from llie_jax.configs import base


def get_config(
    data: base.LOL = "lol_v1",
    size: Literal["m", "l"] = "m",
    perceptual: Literal["vgg19", "lpips_vgg", "lpips_alex"] = "vgg19",
    lfpv: bool = False,
):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("darkir", size)
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    # 500 epochs of the pairs that are not held out, 461 for LOL-v1.
    pairs = base.training_pairs(data)
    epoch = (pairs - round(0.05 * pairs)) // 8
    config.stages.s0.steps = 500 * epoch
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 8
    config.loss.terms = dict(
        pixel=base.spec("l1"),
        edge=base.spec("edge", weight=50.0),
        guide=base.spec("l1", on="aux.guide", resize="target_area"),
        perceptual=base.spec(perceptual, weight=0.0),
    )
    config.schedule.hold_steps = epoch
    config.log.every_steps = 50
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
