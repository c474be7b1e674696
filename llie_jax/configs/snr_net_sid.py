"""SNR-Net on SID with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/snr_net_sid.py --workdir runs/snr_net_sid
    --config.data.train.root=data/sid

The root holds pairs exported as images of equal names, in low/ and high/. Training
takes whole images of 512 x 960. Held-out pairs keep their size, so images are best
exported at that size. The perceptual term needs the VGG19 weights of torchvision and is
off here; --config.loss.terms.perceptual.weight=0.1, the authors' value, turns it on.
"""

from llie_jax.configs import base, snr_net_lol_v2_real


def get_config():
    """Returns the config."""
    config = snr_net_lol_v2_real.get_config()
    config.data.train.name = "paired_folder"
    config.data.train.size = (512, 960)
    config.stages.s0.steps = 200_000
    config.stages.s0.patch_size = 512
    config.stages.s0.patch_width = 960
    config.stages.s0.batch_size = 2
    config.optimizer.learning_rate = 1e-4
    config.schedule.name = "cosine"
    config.schedule.final_rate = 1e-7
    return base.check(config)
