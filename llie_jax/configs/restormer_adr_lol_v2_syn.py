"""Restormer with ADR and POG on the synthetic pairs of LOL-v2. Not yet trained.

python train.py --config llie_jax/configs/restormer_adr_lol_v2_syn.py
    --workdir runs/restormer_adr_lol_v2_syn --config.data.train.root=data/lol_v2

The recipe is that of restormer_lol_v2_syn.py: the paper on ADR names none.
"""

from llie_jax.configs import base, restormer_lol_v2_syn
from llie_jax.models import restormer


def get_config():
    """Returns the config."""
    config = restormer_lol_v2_syn.get_config()
    config.model = base.spec("restormer", **restormer.SIZES["adr"])
    return base.check(config)
