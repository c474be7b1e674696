"""Time of each backbone with ADR and POG, compared with the backbone alone.

python -m bench.adr
python -m bench.adr --only cidnet --dtype bfloat16 --clock cpu --out cidnet.json

Full-size models with the paper's settings, on crops of the backbone's training size.
Forward is inference, with everything that depends only on parameters precomputed; step
is the gradient of the loss and an Adam update. The variants alternate, and the median
of each is reported. Prints a table and writes bench/results/adr.json.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import llie_jax
from llie_jax.files import atomic
from llie_jax.inference.prepare import prepare
from llie_jax.models.base import variable_shapes

RESULTS = pathlib.Path(__file__).parent / "results" / "adr.json"

BACKBONES = {"restormer": (4, 128), "retinexformer": (32, 128), "cidnet": (32, 256)}
"""Name -> ADR's width and the crop size."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parameters(model):
    """Returns random parameters, since `init` of a large network compiles slowly."""
    rng = np.random.default_rng(0)
    return {
        "params": jax.tree.map(
            lambda leaf: jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype),
            variable_shapes(model)["params"],
        )
    }


def dark_images(size, batch):
    """Returns noise [batch, size, size, 3] in [0, 0.2]."""
    return 0.2 * jax.random.uniform(jax.random.key(0), (batch, size, size, 3))


def forward(model, size, batch):
    """Returns a compiled function without arguments."""
    variables = prepare(model, parameters(model))
    image = dark_images(size, batch)
    run = jax.jit(lambda v, x: model.apply(v, x).image)
    return lambda: run(variables, image)


def step(model, size, batch):
    """Returns a compiled function without arguments."""
    tx = optax.adam(1e-4)
    params = parameters(model)["params"]
    state = [params, tx.init(params)]
    image = dark_images(size, batch)

    # As in training, the old state is donated.
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(params, opt_state, image):
        def loss(params):
            output = model.apply({"params": params}, image, train=True).image
            return jnp.mean(jnp.abs(output - 0.5))

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def once():
        state[:] = run(*state, image)
        return state

    return once


def measure(functions, repeats, clock):
    """Returns the median time of each function in ms, running them alternately."""
    times = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = clock()
            jax.block_until_ready(function())
            if turn:  # the first call compiles
                times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    """Runs the benchmark and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=BACKBONES)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu on a shared machine"
    )
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    rows = {}
    for name, (width, size) in BACKBONES.items():
        if args.only not in (None, name):
            continue
        slot = {"name": "adr", "width": width}
        models = {
            "backbone": llie_jax.build({"name": name, "dtype": args.dtype}),
            "adr": llie_jax.build(
                {"name": name, "dtype": args.dtype, "reallocate": slot}
            ),
        }
        for what, make in (("forward", forward), ("step", step)):
            found = measure(
                {key: make(model, size, args.batch) for key, model in models.items()},
                args.repeats,
                CLOCKS[args.clock],
            )
            ratio = found["adr"] / found["backbone"]
            rows[f"{name} {what}"] = {**found, "ratio": ratio}
            print(
                f"{name:14}{what:8}{size}x{size} backbone "
                f"{found['backbone']:9.1f} ms   with ADR {found['adr']:9.1f} ms   "
                f"ratio {ratio:.3f}",
                flush=True,
            )
    result = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "cores": os.cpu_count(),
        "clock": args.clock,
        "dtype": args.dtype,
        "batch": args.batch,
        "milliseconds": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(args.out) as path:
        path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
