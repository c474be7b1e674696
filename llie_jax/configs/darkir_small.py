"""A narrow DarkIR on LOL-v1 for two CPU cores and twenty minutes.

llie-jax train --config darkir_small --workdir runs/lol_small
    --config.data.train.root=data/lol_v1

On 20 of the 485 training pairs, two of them held out: eval15 18.30 dB PSNR, 0.660 SSIM
(protocol default, seed 0, 3500 steps, the best by validation); 19 minutes on two cores.
"""

from llie_jax.configs import base


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("darkir", "small")
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.1
    config.data.augment.rotate = True  # few pairs, so all eight symmetries
    # Fourier amplitudes and global means depend on the image size, so the last stage
    # approaches the size of the test images.
    config.stages = dict(
        s0=dict(steps=2000, patch_size=128, batch_size=4),
        s1=dict(steps=1500, patch_size=256, batch_size=2),
    )
    config.loss.terms = dict(
        pixel=base.spec("l1"),
        guide=base.spec("l1", on="aux.guide", resize="target_area"),
    )
    config.optimizer.learning_rate = 1e-3
    config.optimizer.b2 = 0.99
    config.ema.decay = 0.998
    config.log.every_steps = 50
    config.evaluate.every_steps = 500
    config.checkpoint.every_steps = 500
    return config
