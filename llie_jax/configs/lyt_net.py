"""LYT-Net with the authors' recipe, on LOL-v1 and LOL-v2. Not yet trained.

llie-jax train --config lyt_net --workdir runs/lyt_net
    --config.data.train.root=data/lol_v1

1500 epochs of one crop per step, without flips. The authors' script trains on LOL-v1;
LOL-v2 with the same settings is ours.

Differs: pairs of the training split are held out and choose the checkpoint; the authors
keep the best GT-mean PSNR on the test images.

The perceptual loss needs torchvision's VGG19 weights and is off here, so that a run
needs only the data; --config.loss.terms.perceptual.weight=0.06, the authors' value,
turns it on, and the error names the file if it is missing. MS-SSIM needs crops of at
least 161 pixels: with smaller ones, --config.loss.terms.ms_ssim.weight=0 turns it off.
`lfpv=true` wraps the model in LFPV, see docs/recipes.md.
"""

from llie_jax.configs import base

# Without ImageNet's normalisation, as in the authors' code.
PERCEPTUAL = dict(layers=("relu3_3",), factors=(1.0,), distance="mse", weight=0.0)


def get_config(data: base.LOL = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("lyt_net", "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    config.data.augment.flip_horizontal = False
    config.data.augment.flip_vertical = False
    epoch = base.training_pairs(data)
    config.stages.s0.steps = 1500 * epoch
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 1
    config.loss.terms = dict(
        pixel=base.spec("smooth_l1"),
        perceptual=base.spec("vgg19", **PERCEPTUAL),
        histogram=base.spec("soft_histogram", weight=0.05),
        ms_ssim=base.spec("ms_ssim", weight=0.5),
        psnr=base.spec("psnr", best=40.0, weight=0.0083),
        brightness=base.spec("brightness", weight=0.25),
    )
    config.optimizer = base.spec("adam", learning_rate=2e-4)
    config.schedule = base.spec(
        "cosine", kind="schedule", final_rate=0.0, hold_steps=epoch
    )
    config.log.every_steps = 100
    config.evaluate.every_steps = 5000
    config.checkpoint.every_steps = 5000
    return base.add_lfpv(config) if lfpv else config
