"""DarkIR with LFPV on LOL-v1. Not yet trained.

python train.py --config llie_jax/configs/darkir_lfpv_lol_v1.py
    --workdir runs/darkir_lfpv_lol_v1 --config.data.train.root=data/lol_v1

The recipe is that of darkir_lol_v1.py and a second pixel term, on what the
bank adds; --config.loss.terms.lfpv_pixel.weight is the paper's lambda. To begin with a
trained backbone: --config.init_from=W. To leave it as it is:
"--config.optimizer.frozen=('backbone/*',)".
"""

from llie_jax.configs import base, darkir_lol_v1


def get_config():
    """Returns the config."""
    return base.add_lfpv(darkir_lol_v1.get_config())
