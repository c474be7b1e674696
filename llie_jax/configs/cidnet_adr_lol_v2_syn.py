"""CIDNet with ADR and POG on the synthetic pairs of LOL-v2. Not yet trained.

python train.py --config llie_jax/configs/cidnet_adr_lol_v2_syn.py
    --workdir runs/cidnet_adr_lol_v2_syn --config.data.train.root=data/lol_v2

The recipe is CIDNet's, see cidnet_lol_v2_syn.py: the paper on ADR names none.
"""

from llie_jax.configs import base, cidnet_lol_v2_syn
from llie_jax.models import cidnet


def get_config():
    """Returns the config."""
    config = cidnet_lol_v2_syn.get_config()
    config.model = base.spec("cidnet", **cidnet.SIZES["adr"])
    return base.check(config)
