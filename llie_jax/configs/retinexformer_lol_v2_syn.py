"""Retinexformer on the synthetic pairs of LOL-v2, the authors' way. Not yet trained.

python train.py --config llie_jax/configs/retinexformer_lol_v2_syn.py
    --workdir runs/retinexformer_lol_v2_syn --config.data.train.root=data/lol_v2

As for LOL-v1.
"""

from llie_jax.configs import base, retinexformer_lol_v1


def get_config():
    """Returns the config."""
    config = retinexformer_lol_v1.get_config()
    config.data.train.name = "lol_v2_syn"
    return base.check(config)
