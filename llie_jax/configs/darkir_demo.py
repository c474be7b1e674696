"""A small DarkIR on the photographs in scikit-image: minutes on two cores.

llie-jax train --config darkir_demo --workdir runs/demo

Held-out scene: 9.0 dB before, 21 to 22 dB after. So few steps leave a grid on every
picture; `make demo` trains cpga_plus_demo, which does not.
"""

from llie_jax.configs import base


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("darkir", "small")
    config.data.train.name = "lowlight_demo"
    config.data.validation.fraction = 0.2
    config.stages.s0.steps = 300
    config.stages.s0.patch_size = 96
    config.stages.s0.batch_size = 8
    config.optimizer.learning_rate = 1e-3
    config.ema.decay = 0.99
    config.log.every_steps = 10
    config.evaluate.every_steps = 100
    config.checkpoint.every_steps = 100
    return config
