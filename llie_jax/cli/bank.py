"""`llie-jax bank`: what a trained LFPV bank does."""

import argparse
import pathlib

from llie_jax.cli import study

HELP = "Shows what a trained LFPV bank does: nodes, assignment, and the gain."

EXAMPLES = """
  llie-jax bank --weights runs/lfpv --data lol_v1 --out study
  llie-jax bank --weights lfpv.safetensors --data pairs/ --photo night.jpg --out study
  llie-jax bank --weights runs/lfpv --data lol_v1 --split train --fitted 25

Use of nodes: their mean share of all places, and its entropy; a place is a value of the
backbone's features for vectors, and a patch of them for patches. Similarity of nodes:
cosine similarity. Gain: PSNR of backbone + LFPV minus that of the backbone alone, on
images that the backbone fits fully and on others. The paper splits the training set
(--split train). --out writes a report with charts and the assignment of photos.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    study.add_input(
        parser, model="of an LFPV model: ", split="its split; the paper studies train"
    )
    parser.add_argument(
        "--photo",
        action="append",
        metavar="IMAGE",
        help="draws the assignment of this image; may be repeated; by default the "
        "first pair's input",
    )
    parser.add_argument(
        "--fitted",
        type=float,
        metavar="DB",
        help="PSNR of the backbone alone from which an image counts as fully fitted; "
        "by default the median of all",
    )
    study.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Studies the bank."""
    from llie_jax.image import io
    from llie_jax.studies import bank

    photos = [
        (pathlib.Path(photo).name, io.read_rgb(photo)) for photo in args.photo or ()
    ]
    study.run(args, bank.BankStudy(photos, args.fitted))
