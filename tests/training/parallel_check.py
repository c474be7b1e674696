"""Steps on many devices against one, run in separate processes by test_parallel.

The arguments are the model and the number of steps. The model is "toy", or "lfpv" with
one of its rules and one of its kinds of positions, "lfpv:paper:per_sample". The
optimizer is SGD: Adam would hide gradients that are too large by a factor.
"""

import json
import sys

import jax
import numpy as np
import optax

import llie_jax
from llie_jax import cluster, parallel
from llie_jax.training.state import create_train_state
from llie_jax.training.step import make_gradient, make_train_step, make_update
from tests.training import toys

BATCH, SIDE = 8, 8


def loss(outputs, batch, constants, step):
    images = [
        outputs.image,
        *(outputs.aux[k] for k in ("backbone_image",) if k in outputs.aux),
    ]
    value = sum(((image - batch["target"]) ** 2).mean() for image in images)
    return value, {"mse": value}


def make(name):
    """Returns the model and SGD's rate."""
    kind, *rest = name.split(":")
    if kind == "toy":
        return toys.Toy(), 0.5
    rule, positions = rest
    model = llie_jax.build(
        {
            "name": "lfpv",
            "backbone": "toy_backbone",
            "num_nodes": 5,
            "patch_size": 2,
            "update_rule": rule,
            "positions": positions,
        }
    )
    return model, 0.01


def run(mesh, mapping, name, steps):
    """Returns the flat state and terms after the first steps, and checks after all."""
    model, rate = make(name)
    tx = optax.sgd(rate)
    init = jax.jit(
        lambda: create_train_state(model, tx, jax.random.key(0), average=True),
        out_shardings=parallel.replicated(mesh),
    )
    step = parallel.map_step(
        lambda axis: make_train_step(
            make_gradient(model, loss, axis_name=axis), make_update(tx, ema_decay=0.9)
        ),
        mesh,
        mapping=mapping,
    )
    state = init()
    constants = parallel.replicate({"data": {}, "loss": {}}, mesh)
    rng = parallel.replicate_key(jax.random.key(1), mesh)
    kept = 5 if name == "toy" else 1  # rounding grows from step to step
    before = init().params
    for i in range(steps):
        draw = np.random.default_rng(i)
        whole = {
            key: draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
            for key in ("image", "target")
        }
        part = {key: parallel.own_part(value) for key, value in whole.items()}
        state, terms = step(state, constants, parallel.shard_batch(part, mesh), rng)
        if i + 1 == kept:
            result = summary(state, terms)
            moved = jax.tree.map(lambda a, b: (a - b) / rate, before, state.params)
            result["gradients"] = flat(moved)
    replicas = [
        np.array_equal(shard.data, leaf.addressable_shards[0].data)
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
    ]
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    return {**result, "replicas_equal": all(replicas), "finite": finite}


def flat(tree):
    """Returns all values of a tree as one list."""
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate([*leaves, np.zeros(0)]).tolist()


def summary(state, terms):
    """Returns the state as one list, the bank as another, and two terms."""
    return {
        "state": flat(state),
        "bank": flat(state.collections.get("lfpv", {})),
        "loss": float(terms["loss"]),
        "gradient_norm": float(terms["gradient_norm"]),
    }


def main():
    """Prints one JSON line: results by mapping and number of devices."""
    name, steps = sys.argv[1], int(sys.argv[2])
    everything = parallel.make_mesh()
    results = {"shard_map": run(everything, "shard_map", name, steps)}
    if jax.process_count() == 1:
        one, two = (parallel.make_mesh(jax.devices()[:n]) for n in (1, 2))
        results["one"] = run(one, "shard_map", name, steps)
        if name == "toy":
            results["pmap"] = run(everything, "pmap", name, steps)
        elif steps > 1:
            results["two"] = run(two, "shard_map", name, steps)
    results["devices"] = everything.size
    if jax.process_index() == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    with cluster.joined():
        main()
