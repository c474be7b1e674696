"""`llie-jax redundancy`: how much of a trained model matters."""

import argparse
import pathlib

from llie_jax import files, parallel
from llie_jax.cli.arguments import positive

HELP = "Resets, prunes or quantises layers of a trained model and compares the images."

EXAMPLES = """
  llie-jax redundancy dmr --weights runs/demo --data lowlight_demo
  llie-jax redundancy poi --weights runs/adr --data lol_v1 --seeds 5 --out study
  llie-jax redundancy reset --weights runs/adr --data lol_v1 --layers "latent/*"
  llie-jax redundancy kernels --weights runs/adr --data lol_v1 --out study
  llie-jax redundancy compress --weights runs/adr --data lol_v1 --method l1 --amount 0.1

dmr: degeneration by resetting one layer at a time; the lower, the more layers matter.
poi: share of images that get better when all layers of a kind are reset. reset: change
of PSNR by both. kernels: how much the kernels that ADR generates differ between images.
compress: PSNR after pruning or quantisation, without further training. --out writes a
report with plots.
"""

STUDIES = ("reset", "dmr", "poi", "kernels", "compress")
METHODS = ("magnitude", "l1", "taylor", "fpgm", "weights", "activations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument("study", choices=STUDIES, help="what to measure")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="W",
        help="a run's workdir, a .safetensors file, or a name that `llie-jax models` "
        "lists",
    )
    parser.add_argument(
        "--data", required=True, metavar="D", help="a data set, or a folder of pairs"
    )
    parser.add_argument("--root", metavar="DIR", help="where a named data set lies")
    parser.add_argument("--split", default="test", help="its split")
    parser.add_argument(
        "--kind",
        choices=("attention", "feed_forward", "both"),
        default="both",
        help="the layers that are reset; one without layers in the model is left out",
    )
    parser.add_argument(
        "--layers", metavar="GLOB", help='only layers whose path fits, as "latent/*"'
    )
    parser.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="number of draws"
    )
    parser.add_argument(
        "--backbone-only",
        action="store_true",
        help="leave ADR's parameters in reset attention layers as they are",
    )
    parser.add_argument(
        "--max-images", type=positive, metavar="N", help="only the first N pairs"
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
        help="split of the pairs whose gradients --method taylor takes",
    )
    parser.add_argument(
        "--bits", type=int, default=8, help="to which compress quantises"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all numbers there")
    parser.add_argument(
        "--out", metavar="DIR", help="writes redundancy.json and report.html there"
    )


def run(args: argparse.Namespace) -> None:
    """Runs one study."""
    import jax
    from rich.console import Console

    import llie_jax
    from llie_jax import data
    from llie_jax import weights as weight_files
    from llie_jax.cli import output
    from llie_jax.evaluation import scores as results
    from llie_jax.evaluation.evaluator import progress_bar
    from llie_jax.studies import compression, redundancy, redundancy_report

    if args.json:
        files.writable_folder(pathlib.Path(args.json).parent, create=False)
    compression.check_amount(args.amount)
    compression.check_bits(args.bits)
    source = data.open_source(args.data, root=args.root, split=args.split)
    training = None
    if (args.study, args.method) == ("compress", "taylor"):
        training = data.open_source(
            args.data, root=args.root, split=args.gradient_split
        )
    model, variables = weight_files.load(args.weights)
    kinds = {}
    if args.study in ("reset", "dmr", "poi"):
        kinds = _layers(args, model)
    if args.study == "kernels":
        redundancy.check_generates(model)
    out = args.out and files.writable_folder(args.out)

    console = Console(stderr=True)
    count = min(args.max_images or len(source), len(source))
    with progress_bar(_passes(args, kinds) * count, True, args.study) as advance:
        study = redundancy.Study(
            model,
            variables,
            source,
            max_images=args.max_images,
            backbone_only=args.backbone_only,
            advance=advance,
        )
        if kinds:
            result = redundancy.run(
                study,
                kinds,
                seeds=range(args.seeds),
                one_by_one=args.study != "poi",
                together=args.study != "dmr",
            ).summary()
        elif args.study == "kernels":
            result = redundancy.compare_kernels(study)
        else:
            result = _compress(args, study, training)
    described = weight_files.describe(args.weights)
    result = {
        "study": args.study,
        "model": described["spec"],
        "weights_sha256": described["weights_sha256"],
        "data": {"name": source.name, "split": source.split, "images": count},
        "backbone_only": args.backbone_only,
        "device": parallel.device_kind(),
        "versions": {"llie_jax": llie_jax.__version__, "jax": jax.__version__},
        **result,
    }
    plain = results.plain({k: v for k, v in result.items() if k != "maps"})
    if args.json:
        output.write_json(args.json, plain)
    if out:
        output.write_json(out / "redundancy.json", plain)
        redundancy_report.write(out / "report.html", result)
        console.print(f"wrote {out / 'report.html'}", markup=False, soft_wrap=True)
    for line in redundancy_report.lines(result):
        print(line)


def _layers(args, model) -> dict[str, list[str]]:
    """Returns the layers to reset: kind -> paths."""
    from llie_jax.studies import redundancy

    asked = redundancy.KINDS if args.kind == "both" else (args.kind,)
    found, errors = {}, []
    for kind in asked:
        try:
            found[kind] = redundancy.layers(model, kind, args.layers)
        except ValueError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def _passes(args, kinds) -> int:
    """Returns how often the model runs over all images."""
    singles = sum(map(len, kinds.values())) * (args.study != "poi")
    groups = len(kinds) * (args.study != "dmr")
    return 1 + args.seeds * (singles + groups) + (not kinds)


def _compress(args, study, training):
    """Returns the PSNR before and after one of the methods.

    `training` holds the pairs whose gradients decide, for the method "taylor".
    """
    import jax
    import numpy as np

    from llie_jax.studies import compression

    settings = {"method": args.method}
    if args.method == "activations":
        settings["bits"] = args.bits
        ranges = compression.activation_ranges(
            study.model, study.variables, jax.random.key(0)
        )
        after = study.with_apply(
            compression.quantised_apply(study.model, ranges, bits=args.bits)
        )
    elif args.method == "weights":
        settings["bits"] = args.bits
        after = study.replaced(
            compression.quantise_weights(study.params, bits=args.bits)
        )
    else:
        settings["amount"] = args.amount
        if args.method == "magnitude":
            params, _ = compression.magnitude_pruning(study.params, amount=args.amount)
        else:
            gradients = study.gradients(training) if training else None
            params, _ = compression.filter_pruning(
                study.params,
                amount=args.amount,
                criterion=args.method,
                gradients=gradients,
            )
        after = study.replaced(params)
    return {
        "compression": settings,
        "psnr": float(np.mean(study.psnr)),
        "psnr_after": float(np.mean(after)),
        "images": {
            name: [before, value]
            for name, before, value in zip(study.names, study.psnr, after, strict=True)
        },
    }
