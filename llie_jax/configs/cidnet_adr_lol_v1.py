"""CIDNet with ADR and POG on LOL-v1. Not yet trained.

python train.py --config llie_jax/configs/cidnet_adr_lol_v1.py
    --workdir runs/cidnet_adr_lol_v1 --config.data.train.root=data/lol_v1

The recipe is CIDNet's, see cidnet_lol_v1.py: the paper on ADR names none.
"""

from llie_jax.configs import base, cidnet_lol_v1
from llie_jax.models import cidnet


def get_config():
    """Returns the config."""
    config = cidnet_lol_v1.get_config()
    config.model = base.spec("cidnet", **cidnet.SIZES["adr"])
    return base.check(config)
