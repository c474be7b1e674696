"""SNR-Net on the outdoor videos of SDSD with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_sdsd_out.py
    --workdir runs/snr_net_sdsd_out --config.data.train.root=data/sdsd_outdoor

As for SDSD's indoor videos, but with smaller crops and batches and a lower rate.
"""

from llie_jax.configs import base, snr_net_sdsd_in


def get_config():
    """Returns the config."""
    config = snr_net_sdsd_in.get_config()
    config.stages.s0.patch_size = 128
    config.stages.s0.batch_size = 4
    config.optimizer.learning_rate = 1e-4
    return base.check(config)
