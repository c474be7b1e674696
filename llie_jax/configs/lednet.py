"""LEDNet with the authors' recipe, on LOL-Blur, LOL-v1 and LOL-v2. Not yet trained.

llie-jax train --config lednet --workdir runs/lednet
    --config.data.train.root=data/lolblur
llie-jax train --config lednet:data=lol_v1,lfpv=true --workdir runs/lednet_lfpv
    --config.data.train.root=data/lol_v1

The authors train on LOL-Blur only, and hold nothing out; here whole videos are.

The weights are the authors', whose images are in [-1, 1]: an L1 between images in
[0, 1] is half of theirs, hence 2 and 2 * 0.8. The perceptual terms need torchvision's
VGG19 weights and are off here, so that a run needs only the data;
--config.loss.terms.perceptual.weight=0.01 and
--config.loss.terms.side_perceptual.weight=0.008 turn them on, and the error names the
file if it is missing. The authors' variant with a discriminator is not included.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md.
"""

from typing import Literal

from llie_jax.configs import base

PERCEPTUAL = dict(
    layers=("conv1_2", "conv2_2", "conv3_4", "conv4_4"),
    factors=(1.0, 1.0, 1.0, 1.0),
    normalize=True,
    weight=0.0,
)
SIDE = dict(on="aux.side", resize="target_bicubic")


def get_config(
    data: Literal["lolblur", "lol_v1", "lol_v2_real", "lol_v2_syn"] = "lolblur",
    lfpv: bool = False,
):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("lednet", "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.01 if data == "lolblur" else 0.05
    config.data.augment.rotate = True
    config.stages.s0.steps = 500_000
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 16
    config.loss.terms = dict(
        pixel=base.spec("l1", weight=2.0),
        perceptual=base.spec("vgg19", **PERCEPTUAL),
        side=base.spec("l1", weight=1.6, **SIDE),
        side_perceptual=base.spec("vgg19", **SIDE, **PERCEPTUAL),
    )
    config.optimizer = base.spec("adam", learning_rate=1e-4, b2=0.99)
    config.schedule = base.spec("cosine", kind="schedule", final_rate=1e-7)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
