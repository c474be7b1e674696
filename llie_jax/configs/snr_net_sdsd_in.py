"""SNR-Net on the indoor videos of SDSD with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_sdsd_in.py
    --workdir runs/snr_net_sdsd_in --config.data.train.root=data/sdsd_indoor

As for SMID, but no pairs are held out: each frame has a reference of its own, and what
is held out would be almost equal to its neighbours in training.
"""

from llie_jax.configs import base, snr_net_smid


def get_config():
    """Returns the config."""
    config = snr_net_smid.get_config()
    config.data.validation.fraction = 0.0
    return base.check(config)
