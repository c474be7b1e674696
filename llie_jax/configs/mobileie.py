"""MobileIE with the authors' recipe, on LOL-v1 and LOL-v2. Not yet trained.

llie-jax train --config mobileie_warmup --workdir runs/mobileie_warmup
    --config.data.train.root=data/lol_v1
llie-jax train --config mobileie --workdir runs/mobileie
    --config.data.train.root=data/lol_v1 --config.init_from=runs/mobileie_warmup
llie-jax convert runs/mobileie mobileie.safetensors --fold

Trains on whole images without augmentation; the last command merges the branches.
Trained on dark images alone, the published weights invert colours on bright photos.
`lfpv=true` wraps the model in LFPV, see docs/recipes.md.

Differs: held-out training pairs choose the checkpoint; the authors use the test split.
"""

from llie_jax.configs import base
from llie_jax.data import catalogue

BATCH_SIZE = 4
HELD_OUT = 0.05


def epoch_steps(data: str) -> int:
    """Returns the steps of an epoch over the pairs that are not held out."""
    pairs = base.training_pairs(data)
    return (pairs - round(HELD_OUT * pairs)) // BATCH_SIZE


def get_config(data: base.LOL = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("mobileie", "paper")
    config.data.train.name = data
    config.data.validation.fraction = HELD_OUT
    config.data.augment.flip_horizontal = False
    config.data.augment.flip_vertical = False
    height, width = catalogue.get(data).image_size
    config.stages.s0.steps = 2000 * epoch_steps(data)
    config.stages.s0.patch_size = height
    config.stages.s0.patch_width = width
    config.stages.s0.batch_size = BATCH_SIZE
    config.loss.terms = dict(
        pixel=base.spec("outlier_aware"),
        colour=base.spec("rgb_cosine"),
        # The authors divide the distance to 50 dB by 100, and weight it by 2.
        psnr=base.spec("psnr", best=50.0, weight=2.0 / 100.0),
    )
    config.optimizer = base.spec("adam", learning_rate=1e-3)
    config.schedule = base.spec(
        "cosine_restarts",
        first=50 / 2000,
        growth=2.0,
        final_rate=1e-7,
        hold_steps=epoch_steps(data),
    )
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
