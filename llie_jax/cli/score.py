"""`llie-jax score`: scores saved images from any tool."""

import argparse

from llie_jax.cli.arguments import PROTOCOLS

HELP = "Score saved images, against references of the same names if there are any."
EXAMPLES = """
  llie-jax score --pred results --gt data/lol_v1/eval15/high
  llie-jax score --pred results --gt references --protocol cidnet --json scores.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "--pred", required=True, metavar="DIR", help="the folder of results"
    )
    parser.add_argument(
        "--gt",
        metavar="DIR",
        help="the folder of references; suffixes (.png, .jpg) may differ. Optional for "
        "protocols whose metrics need none",
    )
    parser.add_argument(
        "--protocol",
        default="default",
        metavar="P",
        help=f"rounding and metrics: {', '.join(PROTOCOLS)}",
    )
    parser.add_argument(
        "--gt-mean",
        action="store_true",
        help="also score images scaled to the mean brightness of the reference, as "
        "some papers do; these columns are marked",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the scores to FILE")


def run(args: argparse.Namespace) -> None:
    """Prints the table of scores."""
    from llie_jax import evaluation
    from llie_jax.cli import output
    from llie_jax.evaluation import scores as results

    scores = evaluation.compare_folders(
        args.pred, args.gt, protocol=args.protocol, gt_mean=args.gt_mean, json=args.json
    )
    results.show(scores, output.console())
