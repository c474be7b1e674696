"""SNR-Net on the synthetic pairs of LOL-v2 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_lol_v2_syn.py
    --workdir runs/snr_net_lol_v2_syn --config.data.train.root=data/lol_v2

As for LOL-v1, and with a perceptual term. It needs the VGG19 weights of torchvision and
is off here, so that a run needs nothing but the data;
--config.loss.terms.perceptual.weight=0.02, the authors' value, turns it on, and says
which file to get if it is missing.
"""

from llie_jax.configs import base, snr_net_lol_v1


def get_config():
    """Returns the config."""
    config = snr_net_lol_v1.get_config()
    config.data.train.name = "lol_v2_syn"
    with config.unlocked():
        config.loss.terms.perceptual = base.spec("vgg19", reduce="sum", weight=0.0)
    return base.check(config)
