"""`llie-jax eval`: scores a model on a data set."""

import argparse
import sys

from llie_jax.cli.arguments import PROTOCOLS, add_processes, positive, processes

HELP = "Score a model on a data set."
EXAMPLES = """
  llie-jax eval --weights runs/demo --data lowlight_demo --out runs/demo/eval
  llie-jax eval --weights runs/lol --data lol_v1 --root /disk/LOLdataset --report-all
  llie-jax eval --weights runs/cidnet --data lol_v1 --option saturation=1.3
  llie-jax eval --weights runs/lol --data my_photos --protocol niqe
  llie-jax eval --weights darkir.safetensors --data my_pairs --save-images --out scores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        metavar="W",
        help="a run's workdir, a checkpoint folder, a .safetensors file, or a name "
        "that `llie-jax models` lists",
    )
    add(
        "--data",
        required=True,
        metavar="NAME_OR_FOLDER",
        help="a data set (see `llie-jax data list`), or a folder with low/ and high/",
    )
    add("--root", metavar="DIR", help="the folder of a named data set")
    add("--split", metavar="S", default="test", help="the split to score")
    add(
        "--protocol",
        metavar="P",
        default="default",
        help=f"padding or resizing, rounding and metrics: {', '.join(PROTOCOLS)}",
    )
    add(
        "--out",
        metavar="DIR",
        help="write scores.json, scores.csv and report.html there",
    )
    add(
        "--gt-mean",
        action="store_true",
        help="also score images scaled to the mean brightness of the reference, as "
        "some papers do; these columns are marked",
    )
    add(
        "--self-ensemble",
        action="store_true",
        help="score the mean of the outputs for the eight flips and rotations of each "
        "image, which takes eight times as long; the result is marked",
    )
    add("--save-images", action="store_true", help="also write outputs to DIR/images")
    add("--json", metavar="FILE", help="write the scores to this file")
    add(
        "--report-all",
        action="store_true",
        help="also show the same outputs under every protocol and metric",
    )
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images of one size at a time; default: one for each device",
    )
    add(
        "--tile",
        type=positive,
        metavar="N",
        help="enhance images of more than N x N pixels in tiles (needs less memory, "
        "may change the scores)",
    )
    add(
        "--parallel",
        choices=("shard_map", "pmap"),
        default="shard_map",
        help="what maps batches over the devices; pmap is for a single process",
    )
    add(
        "--allow-overlap",
        action="store_true",
        help="score weights on images that they were trained on; the result is marked",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a test option of the model, recorded with the scores; `llie-jax models` "
        "lists them. CIDNet has saturation, alpha (brightness of the output) and gamma "
        "(of the input)",
    )
    add(
        "--use-reference",
        action="store_true",
        help="give the model what it can take from the reference (URetinex-Net's "
        "ratio); recorded with the scores, which flatter the model",
    )
    add(
        "--show-shipped",
        action="store_true",
        help="the report also shows the weights that come with llie_jax, on "
        "photographs of scikit-image",
    )
    add(
        "--measure",
        action="store_true",
        help="also record the time and the memory that the model takes for the first "
        "image; on an otherwise idle machine",
    )
    add_processes(parser)


def run(args: argparse.Namespace) -> None:
    """Scores and prints the table."""
    from llie_jax import cluster

    with cluster.joined(**processes(args)):
        _score(args)


def _score(args: argparse.Namespace) -> None:
    """Scores in all processes; the first one prints the table."""
    from llie_jax import evaluation, parallel
    from llie_jax.cli import output
    from llie_jax.evaluation import scores as results
    from llie_jax.models import base

    scores = evaluation.run(
        args.weights,
        args.data,
        root=args.root,
        split=args.split,
        protocol=args.protocol,
        gt_mean=args.gt_mean,
        self_ensemble=args.self_ensemble,
        out=args.out,
        save_images=args.save_images,
        json=args.json,
        all_protocols=args.report_all,
        batch_size=args.batch_size,
        tile=args.tile,
        mapping=args.parallel,
        allow_overlap=args.allow_overlap,
        test_options=base.parse_options(args.option),
        use_reference=args.use_reference,
        show_shipped=args.show_shipped,
        measure=args.measure,
    )
    if not parallel.is_first():
        return
    results.show(scores, output.console())
    if args.out:
        print(f"wrote {args.out}/report.html", file=sys.stderr)
