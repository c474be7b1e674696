"""`llie-jax score`: scores saved images, or predictions made from them."""

import argparse

from llie_jax.cli.arguments import PROTOCOLS

HELP = "Score saved images, or what a classifier or segmentation makes of them."
EXAMPLES = """
  llie-jax score --pred results --gt data/lol_v1/eval15/high
  llie-jax score --pred results --gt references --protocol cidnet --json scores.json
  llie-jax score --task classification --pred predictions.csv --gt labels.csv
  llie-jax score --task segmentation --pred class_numbers --gt dark_zurich/gt/val
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "--pred",
        required=True,
        metavar="DIR",
        help="the folder of results; with --task, predictions: a CSV file with the "
        "columns name and label, or a folder of PNG files with the Cityscapes train id "
        "of each pixel",
    )
    parser.add_argument(
        "--gt",
        metavar="DIR",
        help="the folder of references; suffixes (.png, .jpg) may differ. Optional for "
        "protocols whose metrics need none. With --task, the labels in the same form "
        "as the predictions, or a folder of classes (cat/001.png)",
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
    parser.add_argument(
        "--task",
        choices=("classification", "segmentation"),
        help="score predictions: top-1, or mIoU over the 19 classes of Cityscapes",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the scores to FILE")


def run(args: argparse.Namespace) -> None:
    """Prints the table of scores."""
    if args.task:
        _score_task(args)
        return
    from llie_jax import evaluation
    from llie_jax.cli import output
    from llie_jax.evaluation import scores as results

    scores = evaluation.compare_folders(
        args.pred, args.gt, protocol=args.protocol, gt_mean=args.gt_mean, json=args.json
    )
    results.show(scores, output.console())


def _score_task(args: argparse.Namespace) -> None:
    """Prints the scores of predictions.

    Raises:
        ValueError: if there are no labels, or a protocol is given.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from llie_jax import messages
    from llie_jax.cli import output
    from llie_jax.evaluation import downstream

    if args.gt is None:
        raise ValueError(f"--task {args.task} needs the true labels: --gt.")
    if args.protocol != "default" or args.gt_mean:
        raise ValueError(
            "--protocol and --gt-mean are for images; leave them out with --task."
        )
    scores = downstream.score(args.task, args.pred, args.gt)
    if args.json:
        output.write_json(args.json, scores.to_dict())
    table = Table("class", box=box.SIMPLE_HEAD)
    table.add_column(
        "top-1" if args.task == "classification" else "IoU", justify="right"
    )
    for name, value in scores.classes.items():
        table.add_row(Text(messages.printable(name)), f"{value:.4f}")
    console = output.console()
    console.print(table)
    for column, text in scores.columns.items():
        value = f"{scores.mean[column]:.4f}"
        console.print(f"{column} of {len(scores.images)} images: {value} ({text})")
