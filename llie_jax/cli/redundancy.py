"""`llie-jax redundancy`: how much of a trained model matters."""

import argparse

from llie_jax.cli import study
from llie_jax.cli.arguments import positive

HELP = "Resets, prunes or quantises layers of a trained model and compares the images."

EXAMPLES = """
  llie-jax redundancy dmr --weights runs/demo --data lowlight_demo
  llie-jax redundancy poi --weights runs/adr --data lol_v1 --seeds 5 --out study
  llie-jax redundancy together --weights runs/adr --data lol_v1 --layers "latent/*"
  llie-jax redundancy reset --weights runs/adr --data lol_v1 --layers "*/reallocate"
  llie-jax redundancy kernels --weights runs/adr --data lol_v1 --out study
  llie-jax redundancy compress --weights runs/adr --data lol_v1 --method l1 --amount 0.1
  llie-jax redundancy compress --weights runs/adr --data lol_v1 --method zeroq --dmr

dmr: degeneration by resetting one layer at a time; the lower, the more layers matter.
poi: share of images that improve when one layer is reset, by layer. together: change of
PSNR when all layers of a kind are reset at once. reset: all of these. kernels: how much
the kernels that ADR generates differ between images. compress: PSNR after pruning or
quantisation, without retraining; --dmr also measures DMR then. --out writes a report
with charts.
"""

RESETS = ("reset", "dmr", "poi", "together")
STUDIES = (*RESETS, "kernels", "compress")
METHODS = (
    *("magnitude", "l1", "taylor", "fpgm"),
    *("weights", "activations", "zeroq"),
)
KINDS = ("attention", "feed_forward")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument("study", choices=STUDIES, help="what to measure")
    study.add_input(parser)
    parser.add_argument(
        "--kind",
        choices=(*KINDS, "both"),
        default="both",
        help="the layers to reset; a kind that the model lacks is skipped",
    )
    parser.add_argument(
        "--layers",
        metavar="GLOB",
        help='only layers whose path matches, such as "latent/*"; any module may be '
        'named, such as "*/reallocate"',
    )
    parser.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="number of draws"
    )
    parser.add_argument(
        "--backbone-only",
        action="store_true",
        help="keeps ADR's parameters in attention layers that are reset",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="magnitude", help="of compress"
    )
    parser.add_argument(
        "--amount", type=float, default=0.1, help="share that compress prunes"
    )
    parser.add_argument(
        "--gradient-split",
        default="train",
        metavar="SPLIT",
        help="split of the pairs whose gradients rank the filters, for --method taylor",
    )
    parser.add_argument(
        "--bits", type=int, default=8, help="of the values that compress quantises"
    )
    parser.add_argument(
        "--dmr",
        action="store_true",
        help="compress: also DMR of the compressed model, of --kind, --layers, --seeds",
    )
    study.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Runs one study."""
    from llie_jax import data
    from llie_jax.studies import compression, kernels, redundancy

    resets = redundancy.ResetStudy(
        measure=args.study if args.study in RESETS else "dmr",
        kinds=KINDS if args.kind == "both" else (args.kind,),
        pattern=args.layers,
        seeds=args.seeds,
        backbone_only=args.backbone_only,
    )
    if args.study in RESETS:
        chosen = resets
    elif args.study == "kernels":
        chosen = kernels.KernelStudy()
    else:
        pairs = None
        if args.method == "taylor":
            pairs = data.open_source(
                args.data, root=args.root, split=args.gradient_split
            )
        chosen = compression.CompressionStudy(
            args.method,
            amount=args.amount,
            bits=args.bits,
            pairs=pairs,
            resets=resets if args.dmr else None,
        )
    study.run(args, chosen)
