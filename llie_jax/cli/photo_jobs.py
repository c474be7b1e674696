"""Which photos `llie-jax enhance` enhances, and where the results go.

Imports nothing slow.
"""

import argparse
import collections
import dataclasses
import glob
import os
import pathlib
import shutil
from collections.abc import Iterable

from llie_jax import files, messages

RECORD = ".llie_jax.json"
"""Name of the file in --out of --tree that says what made the results."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One photo to enhance.

    Attributes:
        source: the photo.
        target: the file of the result.
        compare: the file of the photo beside the result, if wanted.
    """

    source: pathlib.Path
    target: pathlib.Path
    compare: pathlib.Path | None = None

    @property
    def targets(self) -> list[pathlib.Path]:
        """All files to write."""
        return [self.target] + ([self.compare] if self.compare else [])


@dataclasses.dataclass(frozen=True)
class Record:
    """What makes the results of --tree, in a hidden file beside them.

    Attributes:
        file: the file.
        text: its content.
    """

    file: pathlib.Path
    text: str

    def write(self) -> None:
        """Writes the file, completely or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(self.file) as temporary:
            temporary.write_text(self.text)

    def check(self) -> None:
        """Raises if the results that are there were made otherwise, or nobody knows."""
        if not self.file.is_file() or self.file.read_text() != self.text:
            raise FileExistsError(
                f"{self.file.parent} has results of other weights or options, or of an "
                f"interrupted --overwrite ({self.file.name} tells); choose another "
                "--out, or replace them with --overwrite."
            )


def find(args: argparse.Namespace) -> list[Job]:
    """Returns the jobs, with each photo once."""
    from llie_jax.image import formats

    out = files.local(args.out).expanduser()
    sources, skipped = {}, collections.Counter()
    for text in args.input:
        for path, relative in _named_by(text, args.recursive, out, skipped):
            # Not resolved: a link is a photo of its own.
            sources.setdefault(os.path.abspath(path), (path, relative))
    messages.note(formats.describe_skipped(skipped))
    named = not out.is_dir() and not args.out.endswith(("/", os.sep))
    named = named and formats.is_media(out)
    if named:
        formats.written_as(out)
    if named and len(sources) > 1:
        raise ValueError(
            f"--out {out} names one file, but there are {len(sources)} photos; "
            "give a folder."
        )
    if named and (args.format or args.suffix):
        raise ValueError(
            f"--out {out} names the file; --format and --suffix are for folders."
        )
    jobs, only_read = [], []
    for path, relative in sources.values():
        ending = f".{args.format}" if args.format else path.suffix
        if not named and ending.lower() not in formats.WRITTEN:
            only_read.append(ending.lower())
            ending = ".png"
        target = (
            out if named else out / relative.parent / (path.stem + args.suffix + ending)
        )
        compare = None
        if args.compare:
            compare = target.with_name(f"{target.stem}_compare{target.suffix}")
        jobs.append(Job(path, target, compare))
    if only_read:
        many = (
            f"{len(only_read)} photos become"
            if len(only_read) > 1
            else "1 photo becomes"
        )
        kinds = messages.listed(sorted(set(only_read)))
        messages.note(f"{many} a .png: {kinds} files are read, not written")
    return jobs


def _named_by(
    text: str, recursive: bool, out: pathlib.Path, skipped: collections.Counter
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Returns the photos that an argument names, and their relative paths.

    An output folder inside the input folder holds earlier results and is left out.
    What else is not read is counted in `skipped`.

    Raises:
        FileNotFoundError: if there are none.
    """
    from llie_jax.image import formats

    path = files.local(text).expanduser()
    if path.is_dir():
        folder, inner = path.resolve(), out.resolve()
        listing = formats.list_files(
            file
            for file in (path.rglob("*") if recursive else path.iterdir())
            if not (inner != folder and file.resolve().is_relative_to(inner))
            and not (recursive and file.is_dir())
        )
        skipped.update(listing.skipped)
        if not listing.images:
            others = formats.describe_skipped(listing.skipped)
            deeper = "" if recursive else " (--recursive includes subfolders)"
            raise FileNotFoundError(
                f"The folder {path} holds no photo{deeper}; "
                f"{others and f'{others}; '}supported suffixes: {formats.listed()}."
            )
        return [(file, file.relative_to(path)) for file in listing.images]
    if path.exists():
        return [(path, pathlib.Path(path.name))]
    if glob.has_magic(text):
        matches = map(pathlib.Path, sorted(glob.glob(str(path), recursive=True)))
        listing = formats.list_files(matches)
        skipped.update(listing.skipped)
        if not listing.images:
            others = formats.describe_skipped(listing.skipped)
            raise FileNotFoundError(
                f"No photo matches {text!r}{others and f' ({others})'}."
            )
        return [(file, pathlib.Path(file.name)) for file in listing.images]
    raise FileNotFoundError(f"There is no file or folder {text}.")


def check_targets(jobs: list[Job], *, overwrite: bool) -> None:
    """Raises if a result would replace a photo, another result, or an existing file."""
    # A broken link is reported when it is read.
    sources = {_identity(job.source) for job in jobs if job.source.exists()}
    origins, existing = {}, []
    for job in jobs:
        for target in job.targets:
            other = origins.setdefault(target, job.source)
            if other != job.source:
                raise ValueError(
                    f"{other} and {job.source} would both become {target}; enhance "
                    "them into separate folders."
                )
            if target.exists():
                existing.append(target)
                if _identity(target) in sources:
                    raise ValueError(
                        f"{target} is one of the photos and would be replaced; choose "
                        "another --out, or a --suffix."
                    )
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{existing[0]}{more} already exist; --overwrite replaces them."
        )


def _identity(path: pathlib.Path) -> tuple[int, int]:
    """Returns a key that is the same for all names of one file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def find_in_tree(
    args: argparse.Namespace, record: Record
) -> tuple[list[Job], list[tuple[pathlib.Path, pathlib.Path]]]:
    """Returns what is left to enhance and to copy, (file, copy), of a labelled set."""
    from llie_jax.data import labelled

    known, out = labelled.get(args.tree), files.local(args.out).expanduser()
    root = files.local(args.input[0]).expanduser()
    if len(args.input) > 1 or not root.is_dir():
        raise ValueError(
            f"--tree {args.tree} needs one folder, that of the set; got "
            f"{messages.listed(args.input, limit=3)}."
        )
    if changed := [
        option
        for option in ("format", "suffix", "compare", "recursive")
        if getattr(args, option)
    ]:
        raise ValueError(
            f"--tree keeps all names and folders; leave out --{changed[0]}."
        )
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"--out {out} is inside the set; choose another folder.")
    tree = labelled.scan(known, root)
    for folders, published in known.counts.items():
        if found := tree.count(folders):
            where = f"{folders}: " if folders else ""
            messages.note(f"{where}{found} of {published} published photos")
    jobs = [Job(root / relative, out / relative) for relative in tree.photos]
    left = [job for job in jobs if args.overwrite or not job.target.exists()]
    if len(left) < len(jobs):
        record.check()
        messages.note(f"resuming: {len(jobs) - len(left)} results are already there")
    if kept := [path for path in tree.others if known.is_copied_photo(path)]:
        endings = messages.listed(sorted({path.suffix.lower() for path in kept}))
        messages.note(
            f"photos that are copied as they are: {len(kept)} ({endings} files are not "
            "written)"
        )
    copies = [(root / relative, out / relative) for relative in tree.others]
    return left, [pair for pair in copies if args.overwrite or not pair[1].exists()]


def copy(pairs: Iterable[tuple[pathlib.Path, pathlib.Path]]) -> None:
    """Copies files, each completely or not at all."""
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(target) as temporary:
            shutil.copyfile(source, temporary)
