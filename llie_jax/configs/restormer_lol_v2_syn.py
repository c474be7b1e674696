"""Restormer on LOL-v2's synthetic pairs with Retinexformer's recipe. Not yet trained.

python train.py --config llie_jax/configs/restormer_lol_v2_syn.py
    --workdir runs/restormer_lol_v2_syn --config.data.train.root=data/lol_v2

Restormer's authors have no low-light recipe; Retinexformer's have, in the same
framework. Restormer's own, for other tasks, is restormer_progressive_lol_v1.py.
"""

from llie_jax.configs import base, retinexformer_lol_v2_syn


def get_config():
    """Returns the config."""
    config = retinexformer_lol_v2_syn.get_config()
    config.model = base.spec("restormer")
    return base.check(config)
