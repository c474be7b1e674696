"""CIDNet on the synthetic pairs of LOL-v2 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/cidnet_lol_v2_syn.py
    --workdir runs/cidnet_lol_v2_syn --config.data.train.root=data/lol_v2

As for LOL-v1, see there for the perceptual terms.
"""

from llie_jax.configs import cidnet_lol_v1


def get_config():
    """Returns the config."""
    return cidnet_lol_v1.get_config("lol_v2_syn", pairs=900)
