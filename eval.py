"""Scores a model on a paired data set; `python eval.py --help` shows how."""

import argparse
import sys

EXAMPLES = """examples:
  python eval.py --weights runs/demo --data lowlight_demo --out runs/demo/eval
  python eval.py --weights runs/lol --data lol_v1 --root /disk/LOLdataset --report-all
  python eval.py --weights runs/cidnet --data lol_v1 --option saturation=1.3
  python eval.py --weights darkir.safetensors --data my_pairs --save-images --out scores
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="eval.py",
        description="Score a model on a paired data set.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    add("--root", metavar="DIR", help="where a named data set lies")
    add("--split", metavar="S", default="test", help="default: test")
    add(
        "--protocol",
        metavar="P",
        default="default",
        help="padding or resizing, rounding and metrics: default, retinexformer, "
        "cidnet, darkir, snr, snr_syn, snr_video",
    )
    add(
        "--out",
        metavar="DIR",
        help="writes scores.json, scores.csv and report.html there",
    )
    add("--save-images", action="store_true", help="also write outputs to DIR/images")
    add("--json", metavar="FILE", help="writes the scores there")
    add(
        "--report-all",
        action="store_true",
        help="also show the same outputs under every protocol and metric",
    )
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="images of one size at a time; default: one for each device",
    )
    add(
        "--tile",
        type=int,
        metavar="N",
        help="enhance images of more than N x N pixels in tiles (needs less memory, "
        "may change the scores)",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a test option of the model, written into the scores; CIDNet has "
        "saturation, alpha (brightness of the output) and gamma (of the input)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Scores and prints the table."""
    from llie_jax import evaluation
    from llie_jax.cli import output
    from llie_jax.evaluation import scores as results
    from llie_jax.models import base

    scores = evaluation.run(
        args.weights,
        args.data,
        root=args.root,
        split=args.split,
        protocol=args.protocol,
        out=args.out,
        save_images=args.save_images,
        json=args.json,
        all_protocols=args.report_all,
        batch_size=args.batch_size,
        tile=args.tile,
        test_options=base.parse_options(args.option),
    )
    results.show(scores, output.console())
    if args.out:
        print(f"wrote {args.out}/report.html", file=sys.stderr)


if __name__ == "__main__":
    arguments = parser().parse_args()  # --help and mistakes need not wait for imports

    from llie_jax.cli.main import guarded

    sys.exit(guarded(run, arguments))
