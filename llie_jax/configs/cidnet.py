"""CIDNet with the authors' recipe, on LOL-v1 and both parts of LOL-v2. Not yet trained.

llie-jax train --config cidnet --workdir runs/cidnet
    --config.data.train.root=data/lol_v1
llie-jax train --config cidnet:data=lol_v2_syn,reallocate=adr --workdir runs/cidnet_adr
    --config.data.train.root=data/lol_v2

Every loss term applies twice: to RGB images, and to their HVI transforms with the
learned exponent. The perceptual terms need torchvision's VGG19 weights and are off
here, so that a run needs only the data; --config.loss.terms.perceptual.weight=0.01 and
--config.loss.terms.hvi_perceptual.weight=0.01 turn them on, and the error names the
file if it is missing. "--config.data.augment.gamma=(0.6,1.2)" turns on the random
exponents that the authors recommend for photos from other sources.

Gradients are not clipped: in the authors' code, clipping comes too early to have an
effect. The warm-up raises the rate from 0 per step, not per epoch. At inference the
authors raise the saturation of LOL-v1's results: --option saturation=1.3. Their table
for LOL-v2's real pairs reports results times 0.8, a factor chosen on the test set
(--option alpha=0.8); report results without it as well.

`reallocate=adr` adds ADR and POG with the ADR paper's settings for CIDNet; that paper
states no recipe, so this one is kept. `lfpv=true` wraps the model in LFPV, see
docs/recipes.md.
"""

from typing import Literal

from llie_jax.configs import base

NEVER_DRAWN = {"lol_v2_real": 4}
"""Data set -> number of training pairs that the authors' loader never draws."""

PERCEPTUAL = dict(
    layers=("conv1_2", "conv2_2", "conv3_4", "conv4_4"),
    factors=(1.0, 1.0, 1.0, 1.0),
    normalize=True,
    signed=True,
    distance="mse",
    weight=0.0,
)


def get_config(
    data: base.LOL = "lol_v1", reallocate: Literal["", "adr"] = "", lfpv: bool = False
):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("cidnet", reallocate or "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    epoch = (base.training_pairs(data) - NEVER_DRAWN.get(data, 0)) // 8
    config.stages.s0.steps = 1000 * epoch
    config.stages.s0.patch_size = 256
    config.stages.s0.batch_size = 8
    config.loss.terms = {
        f"{prefix}{term}": base.spec(name, space=space, **options)
        for prefix, space in (("", ""), ("hvi_", "hvi"))
        for term, name, options in (
            ("pixel", "l1", {}),
            ("ssim", "ssim", dict(weight=0.5)),
            ("edge", "edge", dict(weight=50.0)),
            ("perceptual", "vgg19", PERCEPTUAL),
        )
    }
    config.optimizer = base.spec("adam", learning_rate=1e-4)
    config.schedule = base.spec(
        "cosine",
        kind="schedule",
        warmup_steps=3 * epoch,
        final_rate=1e-7,
        hold_steps=epoch,
    )
    config.nonfinite = "skip"
    config.log.every_steps = 50
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
