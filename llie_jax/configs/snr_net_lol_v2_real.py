"""SNR-Net on the real pairs of LOL-v2 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_lol_v2_real.py
    --workdir runs/snr_net_lol_v2_real --config.data.train.root=data/lol_v2

As for LOL-v1, but on whole images of 400 x 608, flipped and not rotated, and with a
perceptual term. It needs the VGG19 weights of torchvision and is off here, so that a
run needs nothing but the data; --config.loss.terms.perceptual.weight=0.1, the authors'
value, turns it on, and says which file to get if it is missing.
"""

from llie_jax.configs import base, snr_net_lol_v1


def get_config():
    """Returns the config."""
    config = snr_net_lol_v1.get_config()
    config.data.train.name = "lol_v2_real"
    config.data.train.size = (400, 608)
    config.data.augment.rotate = False
    config.stages.s0.patch_size = 400
    config.stages.s0.patch_width = 608
    config.stages.s0.batch_size = 4
    with config.unlocked():
        config.loss.terms.perceptual = base.spec("vgg19", reduce="sum", weight=0.0)
    return base.check(config)
