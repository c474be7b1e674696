"""`llie-jax verify`: scores published checkpoints as the official code does."""

import argparse

HELP = "Score published checkpoints, and compare with what the official code scores."
EXAMPLES = """
  llie-jax verify --weights-dir downloads --root data/lol_v1
  llie-jax verify iat sci.medium --weights-dir downloads --root data/lol_v1
  llie-jax verify --weights-dir downloads --root data/lol_v1 --out docs/verified.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    add = parser.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="models or published weights, see `llie-jax models`; all by default",
    )
    add(
        "--weights-dir",
        required=True,
        metavar="DIR",
        help="the official files, under any name; they are recognised by their hash",
    )
    add("--root", metavar="DIR", help="the folder of LOL-v1")
    add("--out", metavar="FILE", help="also write the table to this Markdown file")
    add("--json", metavar="FILE", help="also write the results to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each checkpoint; returns 1 if one differs."""
    from llie_jax import files
    from llie_jax.cli import output
    from llie_jax.evaluation import verify

    records = verify.known(args.names)
    found = []
    for each in verify.verify(records, args.weights_dir, root=args.root):
        print(_line(each), flush=True)
        found.append(each)
    if all(each.verdict == "not found" for each in found):
        raise ValueError(
            f"{args.weights_dir} holds none of the official files: "
            f"{', '.join(record.file for record in records.values())}."
        )
    if args.out:
        with files.atomic(args.out) as path:
            path.write_text(_page(found))
    if args.json:
        output.write_json(args.json, [each.to_dict() for each in found])
    return int(any(each.verdict == "differs" for each in found))


def _line(found) -> str:
    score = "; ".join([_scores(found.score) or "-", *found.marks])
    return f"{found.name}: {score}: {found.verdict}"


def _scores(score) -> str:
    digits = {"psnr": 3}
    return " / ".join(f"{value:.{digits.get(key, 4)}f}" for key, value in score.items())


_HEAD = """# Published checkpoints, scored here

The output of `llie-jax verify --weights-dir DIR --root data/lol_v1 --out FILE`: PSNR in
dB and SSIM on the 15 test images of LOL-v1, with the protocol `default` for all.
"Official code" is what the authors' own code gives under that protocol; verified means
within 0.01 dB and 0.0002 of it. Published numbers often follow another protocol.

| checkpoint | published (protocol) | official code | here | dB apart | verdict |
|---|---|---|---|---|---|
"""


def _page(found) -> str:
    """Returns the table of those that were found, and the names of the others."""
    rows, missing = [], []
    for each in found:
        if not each.score:
            missing.append(each.name)
            continue
        record = each.record
        published = (
            f"{_scores(record.score)} ({record.protocol})" if record.score else "none"
        )
        cells = (
            f"`{each.name}`",
            published,
            _scores(record.reference),
            "; ".join([_scores(each.score), *each.marks]),
            f"{each.differences['psnr']:+.3f}",
            each.verdict,
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    page = _HEAD + "".join(rows)
    if missing:
        page += f"\nNot at hand when this was written: {', '.join(missing)}.\n"
    return page
