"""CIDNet on LOL-v1 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/cidnet_lol_v1.py
    --workdir runs/cidnet_lol_v1 --config.data.train.root=data/lol_v1

Every loss term counts twice: between RGB images, and between their HVI forms with the
exponent that is being learned. The perceptual terms need the VGG19 weights of
torchvision. They are off here, so that a run needs nothing but the data;
--config.loss.terms.perceptual.weight=0.01 and
--config.loss.terms.hvi_perceptual.weight=0.01 turn them on, and say which file to get
if it is missing. "--config.data.augment.gamma=(0.6,1.2)" turns on the random exponents
that the authors recommend for photos from elsewhere.

Gradients are not clipped: in the authors' code, clipping comes too early to have an
effect. The rate rises by the step from 0, not by the epoch. At inference the authors
raise the saturation of LOL-v1's results: --option saturation=1.3.
"""

from llie_jax.configs import base


def get_config(data: str = "lol_v1", pairs: int = 485):
    """Returns the config.

    Args:
        data: the data set's name.
        pairs: of the authors' training split; they make the epochs.
    """
    config = base.get_config()
    config.model = base.spec("cidnet")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    epoch = pairs // 8
    config.stages.s0.steps = 1000 * epoch
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 8
    perceptual = dict(
        layers=("conv1_2", "conv2_2", "conv3_4", "conv4_4"),
        factors=(1.0, 1.0, 1.0, 1.0),
        normalize=True,
        signed=True,
        distance="mse",
        weight=0.0,
    )
    config.loss.terms = {
        f"{prefix}{term}": base.spec(name, space=space, **options)
        for prefix, space in (("", ""), ("hvi_", "hvi"))
        for term, name, options in (
            ("pixel", "l1", {}),
            ("ssim", "ssim", dict(weight=0.5)),
            ("edge", "edge", dict(weight=50.0)),
            ("perceptual", "vgg19", perceptual),
        )
    }
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.schedule.warmup_steps = 3 * epoch
    config.schedule.final_rate = 1e-7
    config.schedule.hold_steps = epoch
    config.nonfinite = "skip"
    config.log.every_steps = 50
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.check(config)
