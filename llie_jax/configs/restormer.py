"""Restormer with Retinexformer's recipe, on LOL-v1 and LOL-v2. Not yet trained.

llie-jax train --config restormer --workdir runs/restormer
    --config.data.train.root=data/lol_v1
llie-jax train --config restormer:data=lol_v2_syn,reallocate=adr
    --workdir runs/restormer_adr --config.data.train.root=data/lol_v2

Restormer's authors publish no low-light recipe; Retinexformer's do, in the same
framework. Restormer's own recipe, for other tasks, is restormer_progressive.py.

`reallocate=adr` adds ADR and POG with the ADR paper's settings for Restormer; that
paper states no recipe, so this one is kept. `lfpv=true` wraps the model in LFPV, see
docs/recipes.md.
"""

from typing import Literal

from llie_jax.configs import base, retinexformer


def get_config(
    data: base.LOL = "lol_v1", reallocate: Literal["", "adr"] = "", lfpv: bool = False
):
    """Returns the config."""
    config = retinexformer.get_config(data)
    config.model = base.sized("restormer", reallocate or "paper")
    return base.add_lfpv(config) if lfpv else config
