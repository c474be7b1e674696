"""`llie-jax compare`: scores of several models side by side."""

import argparse

HELP = "Compare scores of models, data sets and metrics: a page, Markdown and LaTeX."
EXAMPLES = """
  llie-jax compare scores/iat scores/dawn --out compared
  llie-jax compare runs/seed0 runs/seed1 runs/seed2 IAT=scores/iat.json --out compared
  llie-jax compare scores/* --published all --out compared
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="RUN_OR_SCORES",
        help="a run or another folder with scores.json in it or below, or a file that "
        "`llie-jax eval` or `llie-jax score --json` wrote. LABEL=PATH names the model; "
        "results of one label are runs of one model",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="write the three files there"
    )
    parser.add_argument(
        "--published",
        choices=("ours", "all", "none"),
        default="ours",
        help="printed numbers beside ours: those of the models compared, of all models "
        "on their data, or none",
    )


def run(args: argparse.Namespace) -> None:
    """Writes the files and prints their names."""
    from llie_jax.cli import output
    from llie_jax.evaluation import comparison

    for path in comparison.compare(args.inputs, args.out, published=args.published):
        print(output.shown(path))
