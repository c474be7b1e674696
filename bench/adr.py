"""Time of each backbone with ADR and POG, compared with the backbone alone.

python -m bench.adr
python -m bench.adr --only cidnet --dtype bfloat16 --clock cpu --out cidnet.json

Full-size models with the paper's settings, on crops of the backbone's training size.
Forward is inference, with everything that depends only on parameters precomputed; step
is the gradient of the loss and an AdamW update, as `llie-jax train` runs it. The
variants alternate, and the median of each and of the ratios of neighbouring runs is
reported, with quartiles. Prints a table and writes bench/results/adr.json.
"""

import argparse
import pathlib
import statistics

import llie_jax
from bench import timing, workloads

RESULTS = timing.RESULTS / "adr.json"

BACKBONES = {"restormer": (4, 128), "retinexformer": (32, 128), "cidnet": (32, 256)}
"""Name -> ADR's width and the crop size."""


def main():
    """Runs the benchmark and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=BACKBONES)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    timing.add_clock(parser)
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
        image = workloads.dark_images(args.batch, size, size)
        for what, make in (("forward", workloads.forward), ("step", workloads.step)):
            times = timing.in_turns(
                {key: make(model, image) for key, model in models.items()},
                args.repeats,
                clock=args.clock,
            )
            found = {key: statistics.median(values) for key, values in times.items()}
            ratio = timing.Ratio.of(times["adr"], times["backbone"])
            rows[f"{name} {what}"] = {
                **found,
                "ratio": ratio.median,
                "quartiles": (ratio.low, ratio.high),
            }
            print(
                f"{name:14}{what:8}{size}x{size} backbone "
                f"{found['backbone']:9.1f} ms   with ADR {found['adr']:9.1f} ms   "
                f"ratio {ratio}",
                flush=True,
            )
    result = {
        **timing.machine(),
        "clock": args.clock,
        "dtype": args.dtype,
        "batch": args.batch,
        "milliseconds": rows,
    }
    timing.write(args.out, result)


if __name__ == "__main__":
    main()
