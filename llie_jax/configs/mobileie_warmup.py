"""The authors' warm-up of MobileIE, ten epochs before its recipe. Not yet trained.

llie-jax train --config mobileie_warmup --workdir runs/mobileie_warmup
    --config.data.train.root=data/lol_v1

A run of its own, since the recipe starts a new optimizer: it has another loss, another
rate, and another pass through the model (`warm_up`). At 1e-6 it moves no parameter by
more than about a thousandth.
"""

from llie_jax.configs import base, mobileie


def get_config(data: base.LOL = "lol_v1"):
    """Returns the config."""
    config = mobileie.get_config(data)
    config.model.warm_up = True
    config.stages.s0.steps = 10 * mobileie.epoch_steps(data)
    charbonnier = dict(name="charbonnier", eps=1e-16)  # 1e-8, squared
    config.loss.terms = dict(
        pixel=base.spec(**charbonnier),
        colour=base.spec("rgb_cosine"),
        reconstruction=base.spec(
            **charbonnier, on="aux.reconstruction", against="image"
        ),
    )
    config.optimizer.learning_rate = 1e-6
    config.schedule = base.spec("constant")
    # Only at the end: the recipe starts from the last weights, whatever they score.
    config.evaluate.every_steps = config.stages.s0.steps
    return config
