"""Zero-DCE++ with the authors' recipe, on LOL or your own photos. Not yet trained.

llie-jax train --config zero_dce_pp --workdir runs/zero_dce_pp
    --config.data.train.root=data/lol_v1
llie-jax train --config zero_dce_pp:data=image_folder --workdir runs/zero_dce_pp
    --config.data.train.root=photos

As Zero-DCE (llie_jax/configs/zero_dce.py), but with images of 512 x 512 pixels, a
heavier smoothness term and 100 epochs. Training estimates the curves at full size; at
inference the authors use --option scale=12.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md; all loss terms apply to both
outputs.
"""

from llie_jax.configs import base, zero_dce


def get_config(data: base.LOL_OR_PHOTOS = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = zero_dce.get_config(data)
    config.model = base.sized("zero_dce_pp", "paper")
    config.data.train.size = (512, 512)
    config.stages.s0.steps = 100 * -(-zero_dce.IMAGES // 8)
    config.stages.s0.patch_size = 512
    config.loss.terms.smoothness.weight = 1600.0
    return base.add_lfpv(config, shared=tuple(config.loss.terms)) if lfpv else config
