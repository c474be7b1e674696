"""PairLIE with the authors' recipe, on pairs of dark exposures. Not yet trained.

llie-jax train --config pairlie --workdir runs/pairlie
    --config.data.train.root=data/exposure_pairs

The root has a folder for each scene with at least two exposures of it, as the authors'
training set of 324 scenes from SICE and LOL. No reference is needed.

The total loss of the paper is C + R + 500 * P: `pixel` is C, `projection` is P, and the
other four terms add up to R.

Differs: an epoch of the authors draws one pair of each scene; here it has all ordered
pairs of all scenes, so scenes with more exposures occur more often. The number of steps
is that of the authors, 400 epochs of 324 steps. --config.stages.s0.steps changes it;
the rate halves at the same fractions.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md. The term on the image with the
bank is `pixel`: its reflectance has to be that of the second exposure without the bank.
"""

from llie_jax.configs import base


def get_config(lfpv: bool = False):
    """Returns the config."""
    config = base.get_config()
    config.seed = 123456789
    config.model = base.sized("pairlie", "paper")
    config.data.train.name = "exposure_pairs"
    config.data.validation.fraction = 0.0
    config.data.augment.flip_horizontal = False
    config.data.augment.flip_vertical = False
    config.stages.s0.steps = 400 * 324
    config.stages.s0.patch_size = 128
    config.stages.s0.batch_size = 1

    def mse(on: str, against: str, weight: float = 1.0):
        return base.spec("mse", on=f"aux.{on}", against=against, weight=weight)

    config.loss.terms = dict(
        pixel=mse("reflectance", "aux.second_reflectance"),
        projection=mse("denoised", "image", weight=500.0),
        recomposition=mse("recomposed", "aux.denoised"),
        reflectance=mse("reflectance", "aux.brightened"),
        illumination=mse("illumination", "aux.brightest"),
        smoothness=base.spec("variation", on="aux.illumination", distance=2),
    )
    config.optimizer = base.spec("adam", learning_rate=1e-4)
    config.schedule = base.spec("steps", boundaries=(0.25, 0.5, 0.75), factor=0.5)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
