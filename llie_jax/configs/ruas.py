"""RUAS, training of the searched network, on LOL or your own photos. Not yet trained.

llie-jax train --config ruas --workdir runs/ruas
    --config.data.train.root=data/lol_v1
llie-jax train --config ruas:data=image_folder --workdir runs/ruas
    --config.data.train.root=photos

No references are needed; those of LOL only serve to score the held-out pairs. Every
step trains the illumination stages, and every 50th of the 800 steps also the denoiser,
at 1/15 of the rate. The search for the cells is not part of this project.

Differs: the authors step two optimizers, here one has two rates: gradients are clipped
by their joint norm, and between its steps the denoiser still follows its momentum and
its L2 term. The authors start from a trained denoiser, which they offer as
model/denoise.pt; here it starts at random, unless --config.init_from names trained
weights, such as a converted official checkpoint.

The smoothness term uses the authors' conversion to YCbCr, which mixes neighbouring
pixels; --config.loss.terms.smoothness.ycbcr=correct converts colours.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md; the terms on the illumination
apply to both outputs.
"""

from llie_jax.configs import base

STEPS, PERIOD = 800, 50


def _every_period(value: float):
    """Returns a weight that is 0 but for the last step of every period."""
    last = range(PERIOD - 1, STEPS, PERIOD)
    return dict(
        name="piecewise_constant",
        values=(0.0, *(value, 0.0) * len(last)),
        boundaries=tuple(edge for step in last for edge in (step, step + 1)),
    )


def get_config(data: base.LOL_OR_PHOTOS = "lol_v1", lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("ruas", "paper")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    config.data.augment.flip_horizontal = False
    config.data.augment.flip_vertical = False
    config.stages.s0.steps = STEPS
    config.stages.s0.patch_size = 320
    config.stages.s0.batch_size = 1
    estimated = dict(on="aux.illumination", against="image")
    config.loss.terms = dict(
        fidelity=base.spec("mse", weight=0.5, **estimated),
        smoothness=base.spec("edge_aware_smoothness", separate_means=True, **estimated),
        noise=base.spec(
            "total_variation", on="aux.denoised", weight=_every_period(1.0)
        ),
        noise_fidelity=base.spec(
            "mse",
            on="aux.denoised",
            against="aux.denoiser_input",
            weight=_every_period(1e-7),
        ),
    )
    config.optimizer = base.spec(
        "sgd",
        learning_rate=0.015,
        momentum=0.9,
        l2=3e-4,
        clip_norm=5.0,
        scaled=dict(parameters="*denoiser/*", factor=0.001 / 0.015),
    )
    config.schedule = base.spec("constant", kind="schedule")
    config.log.every_steps = 50
    config.evaluate.every_steps = 200
    config.checkpoint.every_steps = 200
    if lfpv:
        return base.add_lfpv(config, shared=("fidelity", "smoothness"))
    return config
