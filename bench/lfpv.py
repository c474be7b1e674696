"""Time of SNR-Net with LFPV, compared with SNR-Net alone.

python -m bench.lfpv
python -m bench.lfpv --rules released paper --batch 4 --repeats 5

Full-size models. Forward is inference on one image, with the keys of the bank
precomputed; step is the gradient of the loss (of both images with LFPV) and an AdamW
update, as `llie-jax train` runs it. The variants alternate, and the median of each and
of the ratios of neighbouring runs is reported, with quartiles. Prints a table and
writes bench/results/lfpv.json.
"""

import argparse
import functools
import pathlib
import statistics

import jax.numpy as jnp

import llie_jax
from bench import timing, workloads
from llie_jax import registry

RESULTS = timing.RESULTS / "lfpv.json"


def l1_of_all_images(outputs):
    """Returns the sum of the L1 losses of both images, of one without LFPV."""
    images = [outputs.image, *outputs.aux.values()]
    return sum(jnp.mean(jnp.abs(image - workloads.TARGET)) for image in images)


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
    timing.add_clock(parser)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    models = {"backbone": llie_jax.build("snr_net")} | {
        rule: llie_jax.build({"name": "lfpv", "update_rule": rule})
        for rule in args.rules
    }
    rows = {}
    step = functools.partial(workloads.step, loss=l1_of_all_images)
    for what, make, batch in (
        ("forward", workloads.forward, 1),
        ("step", step, args.batch),
    ):
        kept = models if what == "step" else dict(list(models.items())[:2])
        image = workloads.dark_images(batch, args.size, args.size)
        times = timing.in_turns(
            {name: make(model, image) for name, model in kept.items()},
            args.repeats,
            clock=args.clock,
        )
        found = {name: statistics.median(values) for name, values in times.items()}
        for name in list(found)[1:]:
            ratio = timing.Ratio.of(times[name], times["backbone"])
            label = "with LFPV" if what == "forward" else f"rule {name}"
            rows[f"{what}, {label}"] = {
                "backbone": found["backbone"],
                "lfpv": found[name],
                "ratio": ratio.median,
                "quartiles": (ratio.low, ratio.high),
            }
            print(
                f"{what:8}{label:16} backbone {found['backbone']:9.1f} ms   with LFPV "
                f"{found[name]:9.1f} ms   ratio {ratio}",
                flush=True,
            )
    result = {
        **timing.machine(),
        "clock": args.clock,
        "size": args.size,
        "batch": args.batch,
        "milliseconds": rows,
    }
    timing.write(args.out, result)


if __name__ == "__main__":
    main()
