"""What rematerialisation costs and saves: training steps with and without, in turns.

python -m bench.remat --model restormer --size 128

Temporary memory is that of the compiled program. For a TPU, compare `llie-jax plan`
with and without --config.remat.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

from bench import timing, workloads
from llie_jax.cli import arguments
from llie_jax.registry import build
from llie_jax.training.step import make_gradient, make_train_step, make_update


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="darkir", help="a name or a spec")
    parser.add_argument("--remat", default="*/block_*", help="patterns of modules")
    parser.add_argument("--size", type=int, default=128, help="side of the crops")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    timing.add_clock(parser)
    args = parser.parse_args()

    model = build(arguments.model(args.model))
    image = workloads.dark_images(args.batch, args.size, args.size)
    target = jnp.full_like(image, workloads.TARGET)
    steps, memory = {}, {}
    for name, patterns in (("kept", ""), ("again", args.remat)):
        tx = optax.adamw(1e-4)
        _, state, _ = workloads.step_program(model, image, workloads.l1, tx)
        gradient = make_gradient(
            model, lambda outputs, *_: (workloads.l1(outputs), {}), remat=patterns
        )
        step = make_train_step(gradient, make_update(tx))
        rest = ({"data": None, "loss": {}}, {"image": image, "target": target})
        compiled = jax.jit(step).lower(state, *rest, jax.random.key(1)).compile()
        memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        steps[name] = lambda run=compiled, state=state, rest=rest: run(
            state, *rest, jax.random.key(1)
        )
    times = timing.in_turns(steps, args.repeats, clock=args.clock)
    ratio = timing.Ratio.of(times["again"], times["kept"])
    print(f"{args.model}, {args.batch} x {args.size} x {args.size}, {args.remat}")
    print(f"temporary memory: {memory['kept']:.0f} MiB, {memory['again']:.0f} MiB")
    print(f"time over time without: {ratio}")
    result = {"arguments": vars(args), "memory_mib": memory, "times_ms": times}
    path = timing.RESULTS / f"remat_{model.__class__.__name__.lower()}.json"
    timing.write(path, {**timing.machine(), **result})


if __name__ == "__main__":
    main()
