"""Retinexformer on LOL-v1 with the authors' recipe. Not yet trained.

python train.py --config llie_jax/configs/retinexformer_lol_v1.py
    --workdir runs/retinexformer_lol_v1 --config.data.train.root=data/lol_v1

The rate first rises from 2e-4 to 3e-4, then begins again at 2e-4 and falls to 1e-6. The
authors' comments speak of a fixed 3e-4; their code, of which the published weights are,
does this. For fewer steps, --config.stages.s0.steps shortens both periods alike.
"""

from llie_jax.configs import base


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.seed = 100
    config.model = base.spec("retinexformer")
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.05
    # The eight symmetries of the square, and mixtures of pairs.
    config.data.augment.rotate = True
    config.data.augment.mixup = 1.2
    config.stages.s0.steps = 150_000
    config.stages.s0.patch_size = 128
    config.stages.s0.batch_size = 8
    config.loss.terms = dict(pixel=base.spec("l1"))
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.01
    config.schedule.name = "cosine_periods"
    config.schedule.periods = (46.0, 104.0)
    config.schedule.period_rates = (3e-4, 1e-6)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.check(config)
