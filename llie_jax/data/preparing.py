"""Writes data sets in the TFDS format: by any number of processes, and resumable.

Each shard is a file of consecutive records. A shard that is complete has a note beside
it with its length and digest, so a run that was killed resumes with the next shard; the
plan of the shards depends on the files alone. The last step moves the whole folder to
its final name.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from llie_jax import files, messages
from llie_jax.data import catalogue, locating, opening, prepared
from llie_jax.data.dataset import Dataset

SHARD_BYTES = 64 * 2**20
"""Bytes of the image files of a shard, about."""

Progress = Callable[[int, int], None]
"""Called with the number of records written, and of all records."""


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One file to write.

    Attributes:
        file: its path.
        records: what it holds.
        keys: the images of a record.
        bits: of the schema.
    """

    file: pathlib.Path
    records: tuple[prepared.Record, ...]
    keys: tuple[str, ...]
    bits: int

    @property
    def note(self) -> pathlib.Path:
        """The file that says that the shard is complete."""
        return self.file.with_name(f"{self.file.name}.json")


def prepare(
    name_or_folder: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    data_dir: str | os.PathLike,
    processes: int = 1,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Writes a data set in the TFDS format; resumes what was begun.

    Args:
        name_or_folder: as in `open_source`; a user's own folder is prepared under its
            name.
        root: as in `open_source`.
        data_dir: the folder to write to; the set goes to `<name>/<version>` in it.
        processes: how many processes write.
        progress: is told how many records are written.

    Returns:
        The folder of the prepared set.

    Raises:
        ValueError: if the set needs no preparation, or files have no partner.
        FileExistsError: if it is already prepared.
        FileNotFoundError: if `root` does not contain it.
        OSError: if another process prepares it.
    """
    directory = destination(name_or_folder, root=root, data_dir=data_dir)
    facts, root = opening.resolve(name_or_folder, root=root)
    name, data_dir = directory.parent.name, directory.parent.parent
    root = files.local(root)
    plan = prepared.plan_splits(prepared.open_folders(facts, root.absolute()))
    deep = any(dtype != "uint8" for s in plan.values() for dtype in s.dtypes.values())
    bits = 16 if deep else 8
    for split in plan.values():
        prepared.check_depth(split, bits)
    # Opened only now: an error above leaves no folder behind.
    builder = prepared.builder(facts, name)(
        data_dir=str(data_dir), bits=bits, file_format="array_record"
    )
    staging = directory.with_name(f".{prepared.VERSION}.partial")
    files.writable_folder(staging)
    with _locked(staging):
        shards = _shards(name, plan, staging, bits)
        _resume(staging, shards)
        _write(shards, processes, progress or (lambda *_: None))
        notes = {
            split: [json.loads(shard.note.read_text()) for shard in part]
            for split, part in shards.items()
        }
        _finish(builder, staging, plan, notes)
        for part in shards.values():
            for shard in part:
                shard.note.unlink()
        (staging / "plan").unlink()
        (staging / "lock").unlink()
        staging.replace(directory)
    return directory


def destination(
    name_or_folder: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    data_dir: str | os.PathLike,
) -> pathlib.Path:
    """Returns the folder that `prepare` writes, without reading any image.

    Args:
        name_or_folder: as in `prepare`.
        root: as in `prepare`.
        data_dir: as in `prepare`.

    Raises:
        ValueError: if the set needs no preparation.
        FileExistsError: if it is already prepared.
        FileNotFoundError: if `root` has no known layout.
    """
    facts, root = opening.resolve(name_or_folder, root=root)
    if facts is None:
        raise FileNotFoundError(locating.missing(facts, root))
    name = _name(facts, root)
    if not facts.own and name not in prepared.BUILDERS:
        raise ValueError(
            f"{name} needs no preparation; sets that can be prepared: "
            f"{', '.join(prepared.BUILDERS)}, and your own folders."
        )
    directory = files.local(data_dir).absolute() / name / prepared.VERSION
    if directory.exists():
        raise FileExistsError(
            f"{directory} already exists and can be used; to rewrite it, remove it."
        )
    return directory


def digest(directory: str | os.PathLike) -> str:
    """Returns the digest of all records of a prepared set, as `prepare` stored it."""
    return tfds.builder_from_directory(directory).info.metadata["sha256"]


def _name(facts: Dataset, root: pathlib.Path) -> str:
    """Returns the name of the prepared set, for a user's folder made of its name."""
    if not facts.own:
        return facts.name
    name = re.sub(r"[^a-z0-9]+", "_", root.resolve().name.lower()).strip("_")
    if not re.match("[a-z]", name) or name in catalogue.DATASETS:
        name = f"my_{name}".rstrip("_")
    return name


def _shards(
    name: str, plan: Mapping[str, prepared.Split], folder: pathlib.Path, bits: int
) -> dict[str, list[_Shard]]:
    """Divides the records of each split by the sizes of their files."""
    found = {}
    for split, part in plan.items():
        which = np.cumsum([*map(_size, part.records)]) // SHARD_BYTES
        groups = [np.flatnonzero(which == number) for number in np.unique(which)]
        found[split] = [
            _Shard(
                folder / f"{name}-{split}.array_record-{i:05d}-of-{len(groups):05d}",
                tuple(part.records[place] for place in places),
                tuple(part.dtypes),
                bits,
            )
            for i, places in enumerate(groups)
        ]
    return found


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps others from writing a folder, where the system has file locks.

    The lock ends with the process, however that ends.

    Raises:
        OSError: if another process holds it.
    """
    with (folder / "lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"{folder.parent} is being prepared by another process; wait for it, "
                "or choose another --data-dir."
            ) from None
        except (ImportError, OSError):
            pass  # no locks here: two runs would write the same bytes twice
        yield


def _size(record: prepared.Record) -> int:
    """Returns the bytes of the files of a record."""
    return sum(os.path.getsize(file) for file in record.files.values())


def _resume(folder: pathlib.Path, shards: Mapping[str, list[_Shard]]) -> None:
    """Keeps the shards of an earlier run if it had the same files, else none."""
    sha256 = hashlib.sha256()
    for part in shards.values():
        for shard in part:
            sha256.update(f"{shard.file.name} {shard.bits}\n".encode())
            for record in shard.records:
                stats = [os.stat(file) for file in record.files.values()]
                facts = [(each.st_size, each.st_mtime_ns) for each in stats]
                line = f"{record.name} {record.scene} {record.files} {facts}\n"
                sha256.update(line.encode(errors="surrogateescape"))
    plan, wanted = folder / "plan", sha256.hexdigest()
    same = plan.is_file() and plan.read_text() == wanted
    kept = {"plan", "lock"}
    for part in shards.values():
        for shard in part:
            if same and shard.note.is_file():
                kept |= {shard.file.name, shard.note.name}
    for file in folder.iterdir():
        if file.name not in kept:
            file.unlink()
    if not same:
        with files.atomic(plan) as temporary:
            temporary.write_text(wanted)


def _write(
    shards: Mapping[str, list[_Shard]], processes: int, progress: Progress
) -> None:
    """Writes the shards that are missing."""
    every = [shard for part in shards.values() for shard in part]
    total = sum(len(shard.records) for shard in every)
    left = [shard for shard in every if not shard.note.is_file()]
    done = total - sum(len(shard.records) for shard in left)
    if done:
        messages.note(f"resuming: {done} of {total} records are already written.")
    progress(done, total)
    # Starting a process takes seconds, a small shard does not.
    size = sum(_size(record) for shard in left for record in shard.records)
    processes = min(processes, len(left), 1 + size // SHARD_BYTES)
    if processes <= 1:
        for shard in left:
            before = done
            done += write_shard(
                shard, lambda count, start=before: progress(start + count, total)
            )
        return
    # Spawned: forking a process with JAX's threads may deadlock.
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        running = [pool.submit(write_shard, shard) for shard in left]
        for each in concurrent.futures.as_completed(running):
            done += each.result()
            progress(done, total)


def write_shard(
    shard: _Shard, progress: Callable[[int], None] = lambda count: None
) -> int:
    """Writes one shard and its note; returns the number of its records."""
    schema = prepared.features(shard.keys, shard.bits)
    serializer = example_serializer.ExampleSerializer(schema.get_serialized_info())
    sha256, size = hashlib.sha256(), 0
    with files.atomic(shard.file) as temporary:
        # TFDS reads single records, so each is a group of its own.
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        for count, record in enumerate(shard.records, 1):
            values = schema.encode_example(prepared.example(record))
            # `schema.serialize_example` orders the images by the process's hash seed.
            data = serializer.get_tf_example(values).SerializeToString(
                deterministic=True
            )
            sha256.update(data)
            size += len(data)
            writer.write(data)
            progress(count)
        writer.close()
    facts = {"records": len(shard.records), "bytes": size, "sha256": sha256.hexdigest()}
    with files.atomic(shard.note) as temporary:
        temporary.write_text(json.dumps(facts))
    return len(shard.records)


def _finish(
    builder: prepared.FolderBuilder,
    folder: pathlib.Path,
    plan: Mapping[str, prepared.Split],
    notes: Mapping[str, list[dict]],
) -> None:
    """Writes what TFDS needs beside the shards."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=builder.name, filetype_suffix="array_record"
    )
    builder.info.set_splits(
        tfds.core.SplitDict(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[note["records"] for note in part],
                num_bytes=sum(note["bytes"] for note in part),
                filename_template=template.replace(split=split),
            )
            for split, part in notes.items()
        )
    )
    digests = [note["sha256"] for part in notes.values() for note in part]
    whole = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    builder.info.metadata.update(prepared.metadata(plan), sha256=whole)
    builder.info.write_to_directory(folder)
