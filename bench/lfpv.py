"""Time of SNR-Net with LFPV, compared with SNR-Net alone.

python -m bench.lfpv
python -m bench.lfpv --rules released paper --batch 4 --repeats 5

Full-size models. Forward is inference on one image, with the keys of the bank
precomputed; step is the gradient of the loss (of both images with LFPV) and an Adam
update. The variants alternate, and the median of each is reported. Prints a table and
writes bench/results/lfpv.json.
"""

import argparse
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import llie_jax
from bench.adr import CLOCKS, dark_images, measure
from llie_jax import registry
from llie_jax.files import atomic
from llie_jax.inference.prepare import prepare
from llie_jax.models.base import variable_shapes

RESULTS = pathlib.Path(__file__).parent / "results" / "lfpv.json"


def random_variables(model):
    """Returns random variables, since `init` of a large network compiles slowly."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype),
        variable_shapes(model),
    )


def forward(model, size):
    """Returns a compiled function without arguments."""
    variables = prepare(model, random_variables(model))
    image = dark_images(size, 1)
    run = jax.jit(lambda v, x: model.apply(v, x).image)
    return lambda: run(variables, image)


def step(model, size, batch):
    """Returns a compiled function without arguments."""
    tx = optax.adam(1e-4)
    variables = random_variables(model)
    params = variables.pop("params")
    state = [params, variables, tx.init(params)]
    image = dark_images(size, batch)

    # As in training, the old state is donated.
    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def run(params, collections, opt_state, image):
        def loss(params):
            outputs, updated = model.apply(
                {"params": params, **collections},
                image,
                train=True,
                rngs={"lfpv": jax.random.key(0)},
                mutable=list(collections),
            )
            images = [outputs.image, *outputs.aux.values()]
            return sum(jnp.mean(jnp.abs(x - 0.5)) for x in images), dict(updated)

        grads, updated = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), updated, opt_state

    def once():
        state[:] = run(*state, image)
        return state

    return once


def main():
    """Runs the benchmark and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=registry.names("update_rule"),
        default=["released"],
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4, help="of the training step")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu on a shared machine"
    )
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    models = {"backbone": llie_jax.build("snr_net")} | {
        rule: llie_jax.build({"name": "lfpv", "update_rule": rule})
        for rule in args.rules
    }
    rows = {}
    for what, make in (
        ("forward", functools.partial(forward, size=args.size)),
        ("step", functools.partial(step, size=args.size, batch=args.batch)),
    ):
        kept = models if what == "step" else dict(list(models.items())[:2])
        found = measure(
            {name: make(model) for name, model in kept.items()},
            args.repeats,
            CLOCKS[args.clock],
        )
        for name in list(found)[1:]:
            ratio = found[name] / found["backbone"]
            label = "with LFPV" if what == "forward" else f"rule {name}"
            rows[f"{what}, {label}"] = {
                "backbone": found["backbone"],
                "lfpv": found[name],
                "ratio": ratio,
            }
            print(
                f"{what:8}{label:16} backbone {found['backbone']:9.1f} ms   with LFPV "
                f"{found[name]:9.1f} ms   ratio {ratio:.3f}",
                flush=True,
            )
    result = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "cores": os.cpu_count(),
        "clock": args.clock,
        "size": args.size,
        "batch": args.batch,
        "milliseconds": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(args.out) as path:
        path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
