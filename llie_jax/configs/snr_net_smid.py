"""SNR-Net on SMID with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_smid.py --workdir runs/snr_net_smid
    --config.data.train.root=data/smid

The root holds pairs exported as images of equal names, in low/ and high/. Training
resizes them to 512 x 960 and cuts crops, flipped and not rotated. Held-out pairs keep
their size, so images are best exported at that size. Frames of a video that share their
reference are held out together.
"""

from llie_jax.configs import base, snr_net_lol_v1


def get_config():
    """Returns the config."""
    config = snr_net_lol_v1.get_config()
    config.data.train.name = "paired_folder"
    config.data.train.size = (512, 960)
    config.data.augment.rotate = False
    config.stages.s0.steps = 200_000
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 12
    config.schedule.name = "cosine"
    config.schedule.final_rate = 1e-7
    return base.check(config)
