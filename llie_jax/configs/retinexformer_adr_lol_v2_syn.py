"""Retinexformer with ADR and POG on the synthetic pairs of LOL-v2. Not yet trained.

python train.py --config llie_jax/configs/retinexformer_adr_lol_v2_syn.py
    --workdir runs/retinexformer_adr_lol_v2_syn --config.data.train.root=data/lol_v2

The recipe is Retinexformer's, since the paper on ADR names none.
"""

from llie_jax.configs import base, retinexformer_lol_v2_syn
from llie_jax.models import retinexformer


def get_config():
    """Returns the config."""
    config = retinexformer_lol_v2_syn.get_config()
    config.model = base.spec("retinexformer", **retinexformer.SIZES["adr"])
    return base.check(config)
