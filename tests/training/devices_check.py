"""One run on 1, 2, 4 and 8 devices, printed as JSON; run by test_numbers.

The arguments are the model, "toy" or "darkir", and the number of steps. The optimizer
is SGD: Adam would hide gradients that are too large by a factor.
"""

import json
import sys

import jax
import numpy as np

from llie_jax import parallel
from llie_jax.configs import base
from llie_jax.data import pipeline
from llie_jax.training.experiment import Experiment
from tests.training import toys  # noqa: F401  registers the toys

BATCH, SIDE = 8, 16
MODELS = {
    "toy": {"name": "toy_backbone", "width": 8},
    "darkir": {
        "name": "darkir",
        "width": 4,
        "encoder_blocks": (1, 1),
        "middle_encoder_blocks": 1,
        "middle_decoder_blocks": 1,
        "decoder_blocks": (1, 1),
    },
}


def config(model, **changes):
    found = base.get_config()
    found.model = base.spec(**MODELS[model])
    found.stages.s0.update(dict(steps=50, patch_size=SIDE, batch_size=BATCH))
    found.ema.decay = 0.9
    base.override(found, {"optimizer": "sgd", **changes})
    found.optimizer.update(dict(learning_rate=0.02, momentum=0.9))
    return found


def run(model, devices, steps, **changes):
    """Returns the losses, the parameters at the end, and the split arrays."""
    mesh = parallel.make_mesh(jax.devices()[:devices])
    experiment = Experiment.from_config(config(model, **changes))
    everywhere = parallel.replicated(mesh)
    state = jax.jit(experiment.init, out_shardings=everywhere)()
    state = experiment.spread(state, mesh)
    step = experiment.mapped_step(pipeline.expand_images, mesh)
    constants = parallel.replicate({"data": {}, "loss": {}}, mesh)
    rng = parallel.replicate_key(jax.random.key(1), mesh)
    losses = []
    for i in range(steps):
        draw = np.random.default_rng(i)
        target = draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
        batch = {"image": target // 4, "target": target, "index": np.arange(BATCH)}
        state, terms = step(state, constants, parallel.shard_batch(batch, mesh), rng)
        losses.append(float(terms["loss"]))
    split = [
        not leaf.sharding.is_fully_replicated
        for leaf in jax.tree.leaves(state.opt_state)
    ]
    state = experiment.gathered(state, mesh)
    leaves = jax.tree.leaves((state.params, state.opt_state, state.ema_params))
    return {
        "losses": losses,
        "state": np.concatenate([np.ravel(leaf) for leaf in leaves]).tolist(),
        "split": sum(split),
        "of": len(split),
    }


def main():
    model, steps = sys.argv[1], int(sys.argv[2])
    found = {str(devices): run(model, devices, steps) for devices in (1, 2, 4, 8)}
    found["sharded"] = run(model, 8, steps, shard_optimizer=True)
    found["accumulated"] = run(model, 2, steps, accumulate=4)
    if model != "toy":  # which has no modules inside
        found["rematerialised"] = run(model, 2, steps, remat="*/block_*")
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
