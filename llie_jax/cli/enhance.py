"""`llie-jax enhance`: photos in, brightened photos out."""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
import warnings

from llie_jax import files, messages
from llie_jax.cli import photo_jobs
from llie_jax.cli.arguments import (
    above_zero,
    add_processes,
    name_part,
    positive,
    processes,
)
from llie_jax.cli.photo_jobs import Job

HELP = "Brightens photos: files, folders or patterns."

EXAMPLES = """
  llie-jax enhance night.jpg
  llie-jax enhance night.jpg --out bright.png --strength 0.7 --warmth 0.3
  llie-jax enhance photos/ --out bright/ --weights darkir.safetensors --compare
  llie-jax enhance "photos/*.JPG" old/ --out bright/ --format png --overwrite
  llie-jax enhance Dark_Zurich/ --out bright/ --tree dark_zurich

--out is a file if it has an image suffix, otherwise a folder. Greyscale, transparency,
EXIF data and colour profile are kept where the output format holds them; photos are
turned upright; 16-bit files are read in full and written with 8 bits. Paths of the
results go to standard output. Several processes share the photos. Exit status: 0 done,
1 some photos failed, 2 none done.
"""

FORMATS = ("png", "jpg", "webp", "bmp", "tif")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the subcommand."""
    parser.add_argument(
        "input", nargs="+", help="photos, folders of photos, or quoted patterns"
    )
    parser.add_argument(
        "--out",
        default="enhanced",
        metavar="DIR_OR_FILE",
        help="where the results go",
    )
    parser.add_argument(
        "--weights",
        metavar="W",
        help="a name that `llie-jax models` lists, a run's workdir, or a .safetensors "
        "file; default: the weights that come with llie_jax",
    )
    look = parser.add_argument_group("look of the results, for every model")
    look.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="0..1",
        help="share of the result in the mixture with the photo",
    )
    look.add_argument(
        "--saturation",
        type=float,
        default=1.0,
        metavar="0..2",
        help="factor on the saturation; 0 is greyscale",
    )
    look.add_argument(
        "--warmth",
        type=float,
        default=0.0,
        metavar="-1..1",
        help="white balance, from cold to warm",
    )
    look.add_argument(
        "--gate",
        action=argparse.BooleanOptionalAction,
        help="leave well-exposed photos as they are; default: only with weights that "
        "come with llie_jax",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the results; default: the photo's"
    )
    parser.add_argument(
        "--suffix",
        type=name_part,
        default="",
        help="appended to each name, such as _bright",
    )
    parser.add_argument("--recursive", action="store_true", help="include subfolders")
    parser.add_argument(
        "--tree",
        metavar="SET",
        help="INPUT is a whole labelled set: enhance its photos, copy everything else, "
        "keep all names; rerun to resume. codan, dark_zurich, nighttime_driving, "
        "exdark, or any, where all images are photos",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing results"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also write NAME_compare, the photo beside the result",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write what was done to this file: weights, options, and for each "
        "photo its results, share of the effect and time",
    )
    parser.add_argument(
        "--tile",
        type=positive,
        default=1024,
        metavar="PIXELS",
        help="side of the overlapping tiles of large photos; smaller needs less memory",
    )
    parser.add_argument(
        "--limit",
        type=above_zero,
        metavar="MEGAPIXELS",
        help="enhance larger photos in tiles; default: the size of one tile",
    )
    parser.add_argument(
        "--kernels-per-tile",
        action="store_true",
        help="models with ADR: generate kernels for each tile, not once for the whole "
        "photo",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a test option of the model itself, such as CIDNet's alpha=0.9 "
        "(brightness of the output) or gamma=0.8 (exponent of the input)",
    )
    add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Enhances the photos; returns the exit status."""
    from llie_jax import cluster

    with cluster.joined(**processes(args)):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Enhances this process's share of the photos; returns the exit status of all."""
    from rich.console import Console

    import llie_jax.weights
    from llie_jax import parallel
    from llie_jax.inference.adjustments import Adjustments
    from llie_jax.models import base

    console = Console(stderr=True)
    mesh = parallel.make_mesh()
    number, count = parallel.share(mesh)
    look = dataclasses.asdict(Adjustments(args.strength, args.saturation, args.warmth))
    record = None
    with parallel.together(mesh):  # before anyone writes what others would find
        if args.gate is None:
            # Others may be meant for well-exposed photos too, or be compared with a
            # paper.
            args.gate = llie_jax.weights.ships(args.weights)
        options = base.parse_options(args.option)
        with warnings.catch_warnings():
            if number:  # the first process says what there is to say about all photos
                warnings.simplefilter("ignore", messages.Note)
            if args.tree:
                record = _record(args, look, options)
                jobs, copies = photo_jobs.find_in_tree(args, record)
            else:
                jobs, copies = photo_jobs.find(args), []
        photo_jobs.check_targets(jobs, overwrite=args.overwrite)
        sizes = _sizes(console, jobs[number::count])
        for folder in {job.target.parent for job in sizes}:
            # Made with the first result, so that later mistakes leave no empty folder.
            files.writable_folder(folder, hint="choose another --out", create=False)
        # With --overwrite: until all are replaced, a rerun must not take them for done.
        replaces = any(job.target.exists() for job in jobs)
    if record and replaces and parallel.is_first():
        record.file.unlink(missing_ok=True)
    before = record.write if record and not replaces else lambda: None
    done = _enhance_share(args, console, sizes, look, options, before) if sizes else []
    done = [facts for part in parallel.gather_objects(done, mesh) for facts in part]
    if jobs and not done and not any(parallel.gather_objects(bool(sizes), mesh)):
        return 2
    if parallel.is_first():
        photo_jobs.copy(copies)
        if record and replaces and len(done) == len(jobs):
            record.write()
        if len(done) < len(jobs):
            _say(console, f"{len(jobs) - len(done)} of {len(jobs)} photos failed.")
        if args.json:
            order = [str(job.source) for job in jobs]
            _write_json(
                args, look, options, sorted(done, key=lambda x: order.index(x["photo"]))
            )
    return 0 if len(done) == len(jobs) else 1 if done else 2


def _sizes(console, jobs: list[Job]) -> dict[Job, tuple[int, int]]:
    """Returns the height and width of each photo that can be read and written."""
    from llie_jax.image import formats
    from llie_jax.inference import photo

    sizes = {}
    for job in jobs:
        try:
            height, width = sizes[job] = photo.peek_size(job.source)
            formats.check_holds(job.target, height, width)
            if job.compare:
                formats.check_holds(job.compare, height, 2 * width)
        except (ValueError, OSError) as error:
            sizes.pop(job, None)
            _say(console, f"error: {error}")
    return sizes


def _enhance_share(args, console, sizes, look, options, before) -> list[dict]:
    """Loads the weights, calls `before`, enhances `sizes`; returns what was done."""
    import llie_jax.weights
    from llie_jax.inference.enhancer import Enhancer

    enhancer = Enhancer(
        *llie_jax.weights.load(args.weights),
        options=options,
        **look,
        gate=args.gate,
        tile=args.tile,
        limit=None if args.limit is None else args.limit * 1e6,
        shared_kernels=not args.kernels_per_tile,
    )
    before()
    return _enhance_all(args, console, enhancer, sizes)


def _write_json(args, look, options, done: list[dict]) -> None:
    """Writes what was done."""
    import llie_jax.weights
    from llie_jax.cli import output

    facts = llie_jax.weights.describe(args.weights)
    output.write_json(
        args.json,
        {
            "weights": facts["weights"],
            "weights_sha256": facts["weights_sha256"],
            "options": {**look, "gate": args.gate, "model": options},
            "photos": done,
        },
    )


def _enhance_all(args, console, enhancer, sizes) -> list[dict]:
    """Enhances the photos of `sizes`, {job: (height, width)}.

    Returns:
        What was done to each photo, without those that failed.
    """
    import jax
    from rich import progress

    from llie_jax.cli import output

    tiles = {}
    for job, size in sizes.items():
        try:
            tiles[job] = enhancer.plan(size).tiles
        except ValueError as error:
            _say(console, f"error: {_named(error, job.source)}")
    if tiled := [job for job in tiles if tiles[job] > 1]:
        which = tiled[0].source if len(tiled) == 1 else f"{len(tiled)} photos"
        _say(
            console,
            f"Too large for one piece, so in tiles of {args.tile} pixels: {which} "
            f"({sum(tiles[job] for job in tiled)} tiles; see --limit).",
        )
    done, finished = [], 0
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        # Redirected, `print` would write to standard error, where rich draws.
        redirect_stdout=sys.stdout.isatty(),
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=sum(tiles.values()))
        for number, job in enumerate(tiles, 1):
            name = messages.printable(job.source.name)
            bar.update(task, description=f"{number}/{len(tiles)} {name}")
            try:
                facts = _enhance_one(job, enhancer, lambda: bar.advance(task))
            except (ValueError, OSError) as error:
                _say(console, f"error: {_named(error, job.source)}")
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                reason = str(error).partition("\n")[0] or "out of memory"
                _say(console, f"error: {job.source}: {reason} (try a smaller --tile)")
            else:
                done.append(facts | {"tiles": tiles[job]})
                print(*map(output.shown, job.targets), sep="\n", flush=True)
                if "share" in facts:
                    _say(console, f"{job.source}: {_exposure(facts)}.")
                if facts["lost"]:
                    lost = " and ".join(facts["lost"])
                    _say(console, f"{job.target}: without {lost}.")
            finished += tiles[job]
            bar.update(task, completed=finished)
    return done


def _enhance_one(job, enhancer, advance) -> dict:
    """Enhances one photo; returns what was done."""
    import numpy as np

    from llie_jax.inference import photo

    start, exposures = time.perf_counter(), []
    source = photo.read(job.source)
    result = enhancer(source.image, progress=advance, measured=exposures.append)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    lost = photo.write(job.target, result, source)
    if job.compare:
        both = np.concatenate([source.image, result], axis=1)
        photo.write(job.compare, both, dataclasses.replace(source, alpha=None))
    facts = {
        "photo": str(job.source),
        "results": [str(target) for target in job.targets],
        "lost": lost,
        "seconds": time.perf_counter() - start,
    }
    for exposure in exposures:  # one, if it went through the gate
        facts |= {"gain": exposure.gain, "share": exposure.share}
    return facts


def _exposure(facts: dict) -> str:
    """Returns what the gate did, in words."""
    if facts["share"] == 0:
        return "well exposed, left as it is (--no-gate enhances it)"
    gain = f"{facts['gain']:.1f} times brighter"
    if facts["share"] == 1:
        return f"dark, full effect ({gain})"
    return f"{facts['share']:.0%} of the effect (in full, {gain})"


def _record(args: argparse.Namespace, look, options) -> photo_jobs.Record:
    """Returns what makes the results; tiles change them too little to count."""
    import llie_jax.weights

    facts = {
        "weights_sha256": llie_jax.weights.describe(args.weights)["weights_sha256"],
        "options": {**look, "gate": args.gate, "model": options},
        "kernels_per_tile": args.kernels_per_tile,
    }
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    file = files.local(args.out).expanduser() / photo_jobs.RECORD
    return photo_jobs.Record(file, text)


def _named(error: Exception, source: pathlib.Path) -> str:
    """Returns the message, with the photo's path in front unless it is in it."""
    message = str(error)
    return message if str(source) in message else f"{source}: {message}"


def _say(console, text: str) -> None:
    """Prints a note as one line, without wrapping or markup."""
    text = messages.printable(text)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
