"""A small CPGA-Net+ on the photographs in scikit-image: 40 seconds on two cores.

llie-jax train --config cpga_plus_demo --workdir runs/demo

Held-out scene: 9.0 dB before, 23.2 dB after (`make demo`).

It leaves no pattern: the only features at half size are enlarged bilinearly. A DarkIR
of 300 steps (darkir_demo) leaves a grid: its decoder shuffles channels into cells of
2 x 2 pixels (sub-pixel convolution), and their four kernels take long to agree.
"""

from llie_jax.configs import base


def get_config():
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("cpga_plus", "bdsf")
    config.data.train.name = "lowlight_demo"
    config.data.validation.fraction = 0.2
    config.stages.s0.steps = 250
    config.stages.s0.patch_size = 96
    config.stages.s0.batch_size = 8
    config.optimizer.learning_rate = 2e-3
    config.ema.decay = 0.99
    config.log.every_steps = 10
    config.evaluate.every_steps = 125
    config.checkpoint.every_steps = 125
    return config
