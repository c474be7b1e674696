"""DarkIR with the authors' optimizer, schedule and losses. Not yet trained.

llie-jax train --config darkir --workdir runs/darkir
    --config.data.train.root=data/lol_v1
llie-jax train --config darkir:data=lolblur --workdir runs/darkir_lolblur
    --config.data.train.root=data/lolblur
llie-jax train --config darkir:data=mixture --workdir runs/darkir_mt

DarkIR-l is `darkir:size=l`. The perceptual loss needs the weights of a pretrained
network and is off here, so that a run needs only the data;
--config.loss.terms.perceptual.weight=0.01 turns it on, and the error says how to get
the weights if they are missing. The authors' code compares features of VGG19, the paper
says LPIPS: `perceptual=lpips_vgg` (or lpips_alex). `lfpv=true` wraps the model in LFPV,
see docs/recipes.md.

`data=mixture` trains for several tasks at once, on the sets of the authors' code:
LOL-v1 and both parts of LOL-v2, each shown five times an epoch, 10,370 pairs, beside
the 10,200 of LOL-Blur. `data=mixture_published` has the sets that their README names
for the released weights, LOL-v2, LSRW and LOL-Blur; it states no repeats, so LOL-v2 has
the five of the code. Each set is prepared, or unpacked, in data/ or $LLIE_JAX_DATA;
--config.data.mixture.lolblur.root=/disk/LOL-Blur names another place,
--config.data.mixture.lolblur.repeat=2.0 another repeat, and `weight`, for all sets,
fixes their shares of the samples instead. Weights trained on LOL-v1 and on the real
pairs of LOL-v2 have seen test images of both.
"""

from typing import Literal

from llie_jax.configs import base

MIXTURES = {
    "mixture": dict(lol_v1=5.0, lol_v2_real=5.0, lol_v2_syn=5.0, lolblur=1.0),
    "mixture_published": dict(lol_v2_real=5.0, lol_v2_syn=5.0, lsrw=1.0, lolblur=1.0),
}
"""The sets of multi-task training, and how often an epoch shows them."""


def get_config(
    data: Literal[
        *("lol_v1", "lol_v2_real", "lol_v2_syn", "lolblur"),
        *("mixture", "mixture_published"),
    ] = "lol_v1",
    size: Literal["m", "l", "small"] = "m",
    perceptual: Literal["vgg19", "lpips_vgg", "lpips_alex"] = "vgg19",
    lfpv: bool = False,
):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("darkir", size)
    repeats = MIXTURES.get(data, {data: 1.0})
    if data in MIXTURES:
        config.data.train.name = "mixture"
        config.data.mixture = {
            name: dict(name=name, repeat=repeat) for name, repeat in repeats.items()
        }
    else:
        config.data.train.name = data
    large = "lolblur" in repeats
    held_out = 0.01 if large else 0.05
    config.data.validation.fraction = held_out
    # 500 epochs of the pairs that are not held out, 461 for LOL-v1.
    pairs = sum(int(base.training_pairs(name) * n) for name, n in repeats.items())
    batch_size = 16 if large else 8
    epoch = (pairs - round(held_out * pairs)) // batch_size
    config.stages.s0.steps = 500 * epoch
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = batch_size
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
