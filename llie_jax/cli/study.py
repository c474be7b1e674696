"""What the commands of studies share: their options, and the run from start to report.

Imports nothing slow until a study runs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llie_jax import files
from llie_jax.cli.arguments import positive

if TYPE_CHECKING:
    from llie_jax.studies.frame import Study


def add_input(
    parser: argparse.ArgumentParser, *, model: str = "", split: str = "its split"
) -> None:
    """Adds the options that say what is studied.

    Args:
        parser: of the subcommand.
        model: says which models have what is studied, such as "of an LFPV model: ".
        split: help of the option `--split`.
    """
    parser.add_argument(
        "--weights",
        required=True,
        metavar="W",
        help=f"{model}a run's workdir, a .safetensors file, or a name that "
        "`llie-jax models` lists",
    )
    parser.add_argument(
        "--data", required=True, metavar="D", help="a data set, or a folder of pairs"
    )
    parser.add_argument("--root", metavar="DIR", help="where a named data set lies")
    parser.add_argument("--split", default="test", help=split)
    parser.add_argument(
        "--max-images", type=positive, metavar="N", help="only the first N pairs"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the results go."""
    parser.add_argument("--json", metavar="FILE", help="also write all numbers there")
    name = parser.prog.split()[-1]
    parser.add_argument(
        "--out", metavar="DIR", help=f"writes {name}.json and report.html there"
    )


def run(args: argparse.Namespace, study: Study) -> None:
    """Runs a study, writes its files and prints its lines.

    Args:
        args: the options of `add_input` and `add_output`, and the `command`.
        study: the study.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if weights, data or the model do not suit the study, or a result is
            not finite.
    """
    from rich.console import Console

    from llie_jax import data, weights
    from llie_jax.cli import output
    from llie_jax.evaluation.evaluator import progress_bar
    from llie_jax.studies import frame

    if args.json:
        files.writable_folder(files.path(args.json).parent, create=False)
    source = data.open_source(args.data, root=args.root, split=args.split)
    model, variables = weights.load(args.weights)
    subject = study.subject(model, variables, source, max_images=args.max_images)
    out = args.out and files.writable_folder(args.out)

    with progress_bar(study.steps(subject), True, study.label) as advance:
        findings = study.run(subject, advance)
    report = frame.report(study, subject, findings, args.weights)
    if args.json:
        output.write_json(args.json, report.json())
    if out:
        output.write_json(out / f"{args.command}.json", report.json())
        page = out / "report.html"
        report.write_page(page)
        Console(stderr=True).print(f"wrote {page}", markup=False, soft_wrap=True)
    for line in report.lines():
        print(line)
