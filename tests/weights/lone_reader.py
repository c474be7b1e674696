"""Two processes, of which only the first loads a run; started by test_load.

Afterwards they work together again: one sends a number to the other, and both save. An
Orbax counter that only one of them had advanced would break this.
"""

import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from llie_jax import cluster, parallel, weights


def main(workdir: str, out: str) -> None:
    """Loads, sends and saves; prints the sum of the loaded parameters."""
    total = np.float32(0)
    if jax.process_index() == 0:
        assert weights.describe(workdir)["step"] == 1
        _, variables = weights.load(workdir)
        total = np.float32(sum(leaf.sum() for leaf in jax.tree.leaves(variables)))
    total = multihost_utils.broadcast_one_to_all(total)
    state = parallel.replicate({"total": total}, parallel.make_mesh())
    pathlib.Path(out).mkdir(exist_ok=True)
    with ocp.CheckpointManager(out) as manager:
        manager.save(1, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
        state = manager.restore(1, args=ocp.args.StandardRestore(state))
    print(f"total {float(state['total'])}")


if __name__ == "__main__":
    with cluster.joined():
        main(*sys.argv[1:])
