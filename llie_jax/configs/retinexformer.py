"""Retinexformer with the authors' recipe, on LOL-v1 and LOL-v2. Not yet trained.

llie-jax train --config retinexformer --workdir runs/retinexformer
    --config.data.train.root=data/lol_v1
llie-jax train --config retinexformer:data=lol_v2_real,reallocate=adr
    --workdir runs/retinexformer_adr --config.data.train.root=data/lol_v2

The rate first rises from 2e-4 to 3e-4, then restarts at 2e-4 and falls to 1e-6. The
comments in the authors' code describe a fixed 3e-4, but the code does this.
--config.stages.s0.steps shortens both periods in proportion.

`reallocate=adr` adds ADR and POG with the ADR paper's settings for Retinexformer; that
paper states no recipe, so this one is kept. `lfpv=true` wraps the model in LFPV, see
docs/recipes.md.
"""

from typing import Literal

from llie_jax.configs import base


def get_config(
    data: base.LOL = "lol_v1", reallocate: Literal["", "adr"] = "", lfpv: bool = False
):
    """Returns the config."""
    config = base.get_config()
    config.seed = 100
    config.model = base.sized("retinexformer", reallocate or "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    # The eight symmetries of the square, and mixtures of pairs.
    config.data.augment.rotate = True
    config.data.augment.mixup = 1.2
    config.stages.s0.steps = 150_000
    config.stages.s0.patch_size = 256 if data == "lol_v2_real" else 128
    config.stages.s0.batch_size = 8
    config.loss.terms = dict(pixel=base.spec("l1"))
    config.optimizer = base.spec("adam", learning_rate=2e-4, clip_norm=0.01)
    config.schedule = base.spec(
        "cosine_periods", periods=(46.0, 104.0), period_rates=(3e-4, 1e-6)
    )
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
