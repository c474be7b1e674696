"""IAT with the authors' recipe, on LOL-v1 and LOL-v2-real. Not yet trained.

llie-jax train --config iat --workdir runs/iat
    --config.data.train.root=data/lol_v1

Stage s0 trains on crops of 256 pixels, 200 epochs of ten per image; s1 on whole images,
400 epochs.

Differs: one cosine for the whole run. The authors step theirs every iteration although
its period counts epochs, so that their rate goes up and down all the time.
Differs: rate and L2 are those of the authors' first stage throughout; their second one
starts at 1e-4, with an L2 of 1e-4.
Differs: crops are drawn in each step, while the authors cut ten of each image once.
Differs: crops are flipped but not rotated, because s1 is not square; the authors choose
among nine flips and rotations.
Differs: held-out training images choose the checkpoint; the authors use the test set.
"""

from typing import Literal

from llie_jax.configs import base

_BATCH = 8


def get_config(data: Literal["lol_v1", "lol_v2_real"] = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("iat", "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    pairs = base.training_pairs(data)
    config.stages = dict(
        s0=dict(steps=200 * 10 * pairs // _BATCH, patch_size=256, batch_size=_BATCH),
        s1=dict(
            steps=400 * pairs // _BATCH,
            patch_size=400,
            patch_width=600,
            batch_size=_BATCH,
        ),
    )
    config.loss.terms = dict(pixel=base.spec("l1"))
    config.optimizer = base.spec("adam", learning_rate=2e-4, l2=4e-4)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
