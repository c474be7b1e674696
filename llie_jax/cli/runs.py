"""`llie-jax runs`: looks at the folders of training runs."""

import argparse
import dataclasses

from llie_jax import messages

HELP = "Check that the files of a training run are whole."
EXAMPLES = """
  llie-jax runs check runs/lol
  llie-jax runs check runs/lol --json check.json

Needs no data set and no config, and changes nothing. Exit status: 1 if anything is
damaged. Rerunning the training resumes from the newest whole checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand and its arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "verify all arrays of all checkpoints, and the other files of a run"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("folder", metavar="DIR", help="the --workdir of the run")
    check.add_argument("--json", metavar="FILE", help="also write the result to FILE")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each part of the run; returns 1 if one is damaged."""
    from llie_jax.cli import output
    from llie_jax.training import check

    found = []
    for part in check.check(args.folder):
        print(messages.printable(f"{part.name}: {part.state}"), flush=True)
        found.append(part)
    if args.json:
        output.write_json(args.json, [dataclasses.asdict(part) for part in found])
    return int(not all(part.whole for part in found))
