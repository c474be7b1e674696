"""Steps on many devices against one, run in processes of their own by test_parallel.

The optimizer is SGD: Adam would hide gradients that are too large by a factor.
"""

import json
import sys

import jax
import numpy as np
import optax

from llie_jax.training import parallel
from llie_jax.training.state import create_train_state
from llie_jax.training.step import make_train_step
from tests.training import toys

STEPS, BATCH = 5, 8


def loss(outputs, batch, frozen, step):
    value = ((outputs.image - batch["target"]) ** 2).mean()
    return value, {"mse": value}


def run(mesh, mapping):
    """Returns the flat state and the last terms after a few steps."""
    model, tx = toys.Toy(), optax.sgd(0.5)
    init = jax.jit(
        lambda: create_train_state(model, tx, jax.random.key(0), average=True),
        out_shardings=parallel.replicated(mesh),
    )
    step = parallel.map_step(
        lambda axis: make_train_step(model, loss, tx, ema_decay=0.9, axis_name=axis),
        mesh,
        mapping=mapping,
    )
    state = init()
    frozen = parallel.replicate({"data": {}, "loss": {}}, mesh)
    rng = parallel.replicate_key(jax.random.key(1), mesh)
    for i in range(STEPS):
        draw = np.random.default_rng(i)
        whole = {
            name: draw.integers(0, 256, (BATCH, 8, 8, 3), np.uint8)
            for name in ("image", "target")
        }
        part = {name: parallel.own_part(value) for name, value in whole.items()}
        state, terms = step(state, frozen, parallel.shard_batch(part, mesh), rng)
    replicas = [
        np.array_equal(shard.data, leaf.addressable_shards[0].data)
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
    ]
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state)]
    return {
        "state": np.concatenate(leaves).tolist(),
        "loss": float(terms["loss"]),
        "gradient_norm": float(terms["gradient_norm"]),
        "replicas_equal": all(replicas),
    }


def main():
    """Prints one JSON line: results by mapping and number of devices."""
    parallel.start()
    everything = parallel.make_mesh()
    results = {"shard_map": run(everything, "shard_map")}
    if jax.process_count() == 1:
        results["pmap"] = run(everything, "pmap")
        results["one"] = run(parallel.make_mesh(jax.devices()[:1]), "shard_map")
    results["devices"] = everything.size
    if jax.process_index() == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(main())
