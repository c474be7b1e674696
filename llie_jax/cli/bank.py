"""`llie-jax bank`: what a trained LFPV bank does."""

import argparse
import pathlib

from llie_jax import files, parallel
from llie_jax.cli.arguments import positive

HELP = "Shows what a trained LFPV bank does: nodes, assignment, and the gain."

EXAMPLES = """
  llie-jax bank --weights runs/lfpv --data lol_v1 --out study
  llie-jax bank --weights lfpv.safetensors --data pairs/ --photo night.jpg --out study
  llie-jax bank --weights runs/lfpv --data lol_v1 --split train --fitted 25

Which nodes are used: their mean share of all places, and its entropy; a place is a
value of the backbone's features for vectors, and a patch of them for patches. How alike
nodes are: cosine similarity. What the bank adds: PSNR of backbone + LFPV less that of
the backbone alone, on images that the backbone fits fully and on others. The paper
makes this split of the training set (--split train). --out writes a report with charts
and the assignment of photos.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "--weights",
        required=True,
        metavar="W",
        help="of an LFPV model: a run's workdir, a .safetensors file, or a name that "
        "`llie-jax models` lists",
    )
    parser.add_argument(
        "--data", required=True, metavar="D", help="a data set, or a folder of pairs"
    )
    parser.add_argument("--root", metavar="DIR", help="where a named data set lies")
    parser.add_argument(
        "--split", default="test", help="its split; the paper's study is of train"
    )
    parser.add_argument(
        "--max-images", type=positive, metavar="N", help="only the first N pairs"
    )
    parser.add_argument(
        "--photo",
        action="append",
        metavar="IMAGE",
        help="draw the assignment of this one; may be repeated; left out, the first "
        "pair's input",
    )
    parser.add_argument(
        "--fitted",
        type=float,
        metavar="DB",
        help="PSNR of the backbone alone from which on an image counts as fully "
        "fitted; left out, the median of all",
    )
    parser.add_argument("--json", metavar="FILE", help="also write all numbers there")
    parser.add_argument(
        "--out", metavar="DIR", help="writes bank.json and report.html there"
    )


def run(args: argparse.Namespace) -> None:
    """Studies the bank."""
    import jax
    from rich.console import Console

    import llie_jax
    from llie_jax import data
    from llie_jax import weights as weight_files
    from llie_jax.cli import output
    from llie_jax.evaluation import scores as results
    from llie_jax.evaluation.evaluator import progress_bar
    from llie_jax.image import io
    from llie_jax.studies import bank, bank_report

    bank.check_fitted(args.fitted)
    if args.json:
        files.writable_folder(pathlib.Path(args.json).parent, create=False)
    photos = [
        (pathlib.Path(photo).name, io.read_rgb(photo, upright=True))
        for photo in args.photo or ()
    ]
    source = data.open_source(args.data, root=args.root, split=args.split)
    model, variables = weight_files.load(args.weights)
    bank.check_model(model)
    out = args.out and files.writable_folder(args.out)

    count = min(args.max_images or len(source), len(source))
    with progress_bar(count + max(len(photos), 1), True, "bank") as advance:
        result = bank.run(
            model,
            variables,
            source,
            photos=photos,
            max_images=args.max_images,
            fitted=args.fitted,
            advance=advance,
        )
    described = weight_files.describe(args.weights)
    result = {
        "model": described["spec"],
        "weights_sha256": described["weights_sha256"],
        "data": {"name": source.name, "split": source.split, "images": count},
        "device": parallel.device_kind(),
        "versions": {"llie_jax": llie_jax.__version__, "jax": jax.__version__},
        **result,
    }
    plain = results.plain({k: v for k, v in result.items() if k != "pictures"})
    if args.json:
        output.write_json(args.json, plain)
    if out:
        output.write_json(out / "bank.json", plain)
        bank_report.write(out / "report.html", result)
        console = Console(stderr=True)
        console.print(f"wrote {out / 'report.html'}", markup=False, soft_wrap=True)
    for line in bank_report.lines(result):
        print(line)
