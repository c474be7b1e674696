"""Retinexformer on the real pairs of LOL-v2 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/retinexformer_lol_v2_real.py
    --workdir runs/retinexformer_lol_v2_real --config.data.train.root=data/lol_v2

As for LOL-v1, but with patches of 256.
"""

from llie_jax.configs import base, retinexformer_lol_v1


def get_config():
    """Returns the config."""
    config = retinexformer_lol_v1.get_config()
    config.data.train.name = "lol_v2_real"
    config.stages.s0.patch_size = 256
    return base.check(config)
