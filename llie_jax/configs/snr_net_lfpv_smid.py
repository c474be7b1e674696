"""SNR-Net with LFPV on SMID, what the authors of LFPV released. Not yet trained.

python train.py --config llie_jax/configs/snr_net_lfpv_smid.py
    --workdir runs/snr_net_lfpv_smid --config.data.train.root=data/smid

Data as in snr_net_smid.py. The perceptual term is on what the backbone makes without
the bank; it needs the VGG19 weights of torchvision and is off here, so that a run needs
nothing but the data: --config.loss.terms.backbone_perceptual.weight=0.1 turns it on.
"""

from llie_jax.configs import base, snr_net_smid


def get_config():
    """Returns the config."""
    config = snr_net_smid.get_config()
    with config.loss.unlocked():
        config.loss.terms.perceptual = base.spec("vgg19", reduce="sum", weight=0.0)
    return base.add_lfpv(config)
