"""`llie-jax data`: lists, checks and prepares data sets."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping

from llie_jax import files, messages
from llie_jax.cli.arguments import positive

HELP = "List, check and prepare data sets; make pairs from your own photos."

EXAMPLES = """
  llie-jax data list
  llie-jax data check lol_v1 /disk/LOLdataset
  llie-jax data check my_pairs            # my_pairs/low and my_pairs/high
  llie-jax data check my_photos           # photos without references
  llie-jax data prepare lowlight_demo
  llie-jax data prepare lol_v1 /disk/LOLdataset --data-dir data
  llie-jax data prepare my_pairs          # to data/my_pairs
  llie-jax data darken my_photos my_pairs --exposure 0.03 0.08
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands and their arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name, text):
        return commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    add("list", "list known data sets: size, licence, page, and where they are here")

    check = add("check", "check a data set: counts, partners, sizes, damaged files")
    check.add_argument("name", metavar="NAME", help="a data set, or a folder")
    check.add_argument(
        "root",
        metavar="ROOT",
        nargs="?",
        help="its folder; default: NAME in $LLIE_JAX_DATA, or in data/",
    )
    check.add_argument(
        "--complete", action="store_true", help="fail if a published pair is missing"
    )
    check.add_argument("--json", metavar="FILE", help="also write the result to FILE")

    prepare = add("prepare", "write a data set in the TFDS format (array_record)")
    prepare.add_argument("name", metavar="NAME", help="a data set, or your own folder")
    prepare.add_argument(
        "root",
        metavar="ROOT",
        nargs="?",
        help="its folder; default: NAME in $LLIE_JAX_DATA, or in data/. "
        "lowlight_demo is generated there if it is missing",
    )
    prepare.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder to write NAME/VERSION to; default: $LLIE_JAX_DATA, or data",
    )
    prepare.add_argument(
        "--processes",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="how many processes write",
    )
    prepare.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="decode every file before, as `data check` does, and refuse faulty sets",
    )

    darken = add("darken", "make low/ and high/ from photos, with a sensor model")
    darken.add_argument("photos", metavar="PHOTO_FOLDER", help="well-lit photos")
    darken.add_argument(
        "out", metavar="OUT_FOLDER", help="folder to write low/ and high/ to"
    )
    darken.add_argument(
        "--exposure",
        type=float,
        nargs="+",
        default=[0.05],
        metavar="E",
        help="factors on linear light; each makes one pair per photo",
    )
    darken.add_argument(
        "--full-well", type=float, default=5000.0, help="electrons at white"
    )
    darken.add_argument(
        "--read-noise", type=float, default=3.0, help="electrons, standard deviation"
    )
    darken.add_argument("--bits", type=int, default=12, help="of the A/D converter")
    darken.add_argument("--seed", type=int, default=0, help="of the noise")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action; returns the exit status."""
    actions = {"list": _list, "check": _check, "prepare": _prepare, "darken": _darken}
    return actions[args.action](args)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _list(args: argparse.Namespace) -> int:
    from llie_jax.data import catalogue, labelled, locating
    from llie_jax.data.dataset import unit

    for dataset in catalogue.DATASETS.values():
        print(f"{dataset.name}: {dataset.title}")
        print(f"  {unit(dataset.keys):8} {_counts(dataset.counts) or 'any number'}")
        if dataset.image_size:
            print("  size     {} x {} (height x width)".format(*dataset.image_size))
        if dataset.remarks:
            print(f"  note     {dataset.remarks}")
        print(f"  licence  {dataset.licence}")
        if dataset.page:
            print(f"  page     {dataset.page}")
        print(f"  layout   {dataset.layout()}")
        print(f"  to get   {dataset.get}")
        if not dataset.own:
            root = catalogue.default_root(dataset.name)
            there = locating.locate(dataset, root) or locating.prepared(root)
            print(f"  here     {root if there else f'no ({root})'}")
    for known in labelled.SETS.values():
        print(f"{known.name}: {known.title}")
        print(f"  labels   enhance it with: llie-jax enhance --tree {known.name}")
        if known.page:
            print(f"  licence  {known.licence}")
            print(f"  page     {known.page}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from llie_jax.cli import output
    from llie_jax.data import checking, labelled

    if args.name in labelled.SETS and args.name != "any":
        return _check_labelled(args)
    checks = checking.check(args.name, root=args.root)
    for each in checks:
        print(f"{args.name} {each.split}: {each.state}")
        of = f" of {each.expected} published" if each.expected else ""
        print(f"  {each.unit:8} {each.count}{of}")
        if each.count:
            sizes = ", ".join(f"{size} ({n})" for size, n in each.sizes.items())
            print(f"  sizes    {sizes}, height x width")
            print(f"  names    {each.fingerprint}")
        for label, texts in (
            ("note", each.notes),
            ("problem", each.problems),
            ("fix", each.fixes),
        ):
            for text in texts:
                print(f"  {label:8} {messages.printable(text)}")
    if args.json:
        report = [{**dataclasses.asdict(each), "state": each.state} for each in checks]
        output.write_json(args.json, report)

    problems = sum(len(each.problems) for each in checks)
    if problems:
        raise ValueError(f"{args.name} has {problems} problems, listed above.")
    if args.complete and not all(each.complete for each in checks):
        states = "; ".join(
            f"{each.split}: {each.state}" for each in checks if not each.complete
        )
        raise ValueError(f"{args.name} is not complete ({states}).")
    return 0


def _check_labelled(args: argparse.Namespace) -> int:
    """Shows how many photos of a labelled set there are."""
    from llie_jax.cli import output
    from llie_jax.data import catalogue, labelled

    known = labelled.get(args.name)
    root = pathlib.Path(args.root or catalogue.default_root(known.name)).expanduser()
    tree = labelled.scan(known, root)
    print(f"{known.name}: {len(tree.photos)} photos, {len(tree.others)} other files")
    checks = [
        {"split": folders or "all", "count": tree.count(folders), "expected": published}
        for folders, published in known.counts.items()
    ]
    for each in checks:
        print("  {split:14} {count} of {expected} published".format(**each))
    if args.json:
        output.write_json(args.json, checks)
    missing = [each for each in checks if each["count"] < each["expected"]]
    if args.complete and missing:
        states = ("{split}: {count} of {expected}".format(**each) for each in missing)
        raise ValueError(f"{args.name} is not complete ({'; '.join(states)}).")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from llie_jax.data import catalogue, checking, locating, preparing, synthetic

    root, published = args.root, args.name in catalogue.DATASETS
    data_dir = args.data_dir or catalogue.default_folder()
    try:
        preparing.destination(args.name, root=root, data_dir=data_dir)
    except FileExistsError as error:
        _note(str(error))
        return 0
    if args.name == "lowlight_demo":
        root = files.local(root or catalogue.default_root(args.name))
        if not locating.locate(catalogue.get(args.name), root):
            counts = synthetic.write_demo(root)
            _note(f"Made {_counts(counts)} pairs in {root}.")
    if args.check:
        for each in checking.check(args.name, root=root):
            if each.problems:
                raise ValueError(
                    f"{args.name} {each.split}: {each.problems[0]} "
                    f"(`llie-jax data check {args.name}` says how to repair it)."
                )
            if published and not each.complete:
                _note(f"{args.name} {each.split}: {each.state}.")
    with _bar() as advance:
        directory = preparing.prepare(
            args.name,
            root=root,
            data_dir=data_dir,
            processes=args.processes,
            progress=advance,
        )
    print(directory)
    _note(f"sha256 of the records: {preparing.digest(directory)}")
    return 0


@contextlib.contextmanager
def _bar():
    """Yields a function that shows how many records of how many are written."""
    from rich import console, progress

    stderr = console.Console(stderr=True)
    bar = progress.Progress(
        progress.TextColumn("{task.completed}/{task.total} records"),
        progress.BarColumn(),
        progress.TimeRemainingColumn(),
        console=stderr,
        redirect_stdout=False,
        disable=not stderr.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _darken(args: argparse.Namespace) -> int:
    from llie_jax.data import synthetic

    count = synthetic.darken_folder(
        args.photos,
        args.out,
        exposures=args.exposure,
        full_well=args.full_well,
        read_noise=args.read_noise,
        bits=args.bits,
        seed=args.seed,
        progress=_note,
    )
    print(f"{count} pairs in {args.out}")
    return 0
