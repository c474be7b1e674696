"""SNR-Net on LOL-v1 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_lol_v1.py
    --workdir runs/snr_net_lol_v1 --config.data.train.root=data/lol_v1

The rate halves after 50, 100, 200 and 300 of the 600 thousand steps; with fewer,
--config.stages.s0.steps, at the same shares. The loss is a sum over the pixels of an
image. The authors sum over the batch too, where this is the mean; Adam takes the same
steps for both, but for its eps.
"""

from llie_jax.configs import base


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.model = base.spec("snr_net")
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = True
    config.stages.s0.steps = 600_000
    config.stages.s0.patch_size = 128
    config.stages.s0.batch_size = 32
    config.loss.terms = dict(pixel=base.spec("charbonnier", reduce="sum"))
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "steps"
    config.schedule.boundaries = (1 / 12, 1 / 6, 1 / 3, 1 / 2)
    config.schedule.factor = 0.5
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.check(config)
