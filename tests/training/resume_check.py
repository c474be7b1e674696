"""Trains a toy on the devices there are, run by test_watch in its own processes.

The arguments are the folder of the pairs, the run's folder, and the step to stop at, 0
to go to the end.
"""

import json
import sys

import jax
import numpy as np

from llie_jax.training import loop
from tests.training import toys


def main():
    pairs, workdir, stop_at = sys.argv[1:]
    changes = {"model": "toy_backbone", "shard_optimizer": True, "optimizer": "sgd"}
    config = toys.config(pairs, **changes)
    config.model.width = 8
    config.optimizer.momentum = 0.9
    config.data.validation.fraction = 0.0
    result = loop.train(config, workdir, stop_at=int(stop_at) or None)
    leaves = jax.tree.leaves(result.state.params)
    params = np.concatenate([np.ravel(leaf) for leaf in leaves])
    print(json.dumps({"params": params.tolist(), "step": result.step}))


if __name__ == "__main__":
    sys.exit(main())
