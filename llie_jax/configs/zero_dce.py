"""Zero-DCE with the authors' recipe, on LOL or your own photos. Not yet trained.

llie-jax train --config zero_dce --workdir runs/zero_dce
    --config.data.train.root=data/lol_v1
llie-jax train --config zero_dce:data=image_folder --workdir runs/zero_dce
    --config.data.train.root=photos

No references are needed; those of LOL only serve to score the held-out pairs. The
authors train on 2,422 images made from part 1 of SICE, with photos of many exposures;
export them to a folder and use `data=image_folder`. The number of steps is that of
their 200 epochs, whatever the data.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md; all loss terms apply to both
outputs.
"""

from llie_jax.configs import base

IMAGES = 2422
"""Training images of the authors."""


def get_config(data: base.LOL_OR_PHOTOS = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("zero_dce", "paper")
    config.data.train.name = data
    config.data.train.size = (256, 256)
    config.data.validation.fraction = 0.05
    config.data.augment.flip_horizontal = False
    config.data.augment.flip_vertical = False
    config.stages.s0.steps = 200 * -(-IMAGES // 8)
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 8
    config.loss.terms = dict(
        spatial=base.spec("spatial_consistency", against="image"),
        exposure=base.spec("exposure", weight=10.0),
        colour=base.spec("colour_constancy", weight=5.0),
        smoothness=base.spec(
            "total_variation", on="aux.curves", mean_channels=False, weight=200.0
        ),
    )
    config.optimizer = base.spec("adam", learning_rate=1e-4, l2=1e-4, clip_norm=0.1)
    config.schedule = base.spec("constant", kind="schedule")
    config.log.every_steps = 50
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config, shared=tuple(config.loss.terms)) if lfpv else config
