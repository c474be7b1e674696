"""SCI with the authors' recipe, on LOL or your own photos. Not yet trained.

llie-jax train --config sci --workdir runs/sci
    --config.data.train.root=data/lol_v1
llie-jax train --config sci:data=image_folder --workdir runs/sci
    --config.data.train.root=photos

No references are needed; those of LOL only serve to score the held-out pairs. Training
uses whole images, one per step. The authors' weights `medium` come from LOL and LSRW
together: put both into one folder and use `data=image_folder`, which resizes photos to
400 x 600. The number of steps is 1000 epochs of the data set, for photos of LOL-v1.

The smoothness terms use the authors' conversion to YCbCr, which mixes neighbouring
pixels; --config.loss.terms.smoothness.ycbcr=correct converts colours.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md; the terms of the first stage
apply to both outputs.
"""

from llie_jax.configs import base
from llie_jax.data import catalogue


def get_config(data: base.LOL_OR_PHOTOS = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    counted = "lol_v1" if data == "image_folder" else data
    size = catalogue.get(counted).image_size
    config = base.get_config()
    config.model = base.sized("sci", "paper")
    config.data.train.name = data
    config.data.train.size = size if data == "image_folder" else (0, 0)
    config.data.validation.fraction = 0.05
    config.data.augment.flip_horizontal = False
    config.data.augment.flip_vertical = False
    config.stages.s0.steps = 1000 * base.training_pairs(counted)
    config.stages.s0.patch_size, config.stages.s0.patch_width = size
    config.stages.s0.batch_size = 1
    terms = {}
    for stage in range(config.model.num_stages):
        suffix = f"_{stage}" if stage else ""
        estimated = dict(
            on=f"aux.illumination{suffix}",
            against=f"aux.input{suffix}" if stage else "image",
        )
        terms[f"fidelity{suffix}"] = base.spec("mse", weight=1.5, **estimated)
        terms[f"smoothness{suffix}"] = base.spec("edge_aware_smoothness", **estimated)
    config.loss.terms = terms
    config.optimizer = base.spec("adam", learning_rate=3e-4, l2=3e-4, clip_norm=5.0)
    config.schedule = base.spec("constant", kind="schedule")
    config.log.every_steps = 100
    config.evaluate.every_steps = 5000
    config.checkpoint.every_steps = 5000
    if lfpv:
        return base.add_lfpv(config, shared=("fidelity", "smoothness"))
    return config
