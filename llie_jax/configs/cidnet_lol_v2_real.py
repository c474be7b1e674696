"""CIDNet on the real pairs of LOL-v2 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/cidnet_lol_v2_real.py
    --workdir runs/cidnet_lol_v2_real --config.data.train.root=data/lol_v2

As for LOL-v1, see there for the perceptual terms. The authors never draw four of the
689 pairs, which shortens their epochs. Their table holds results times 0.8, a factor
chosen on the test set (--option alpha=0.8); report those without it as well.
"""

from llie_jax.configs import cidnet_lol_v1


def get_config():
    """Returns the config."""
    return cidnet_lol_v1.get_config("lol_v2_real", pairs=685)
