"""Runs a model on all images of a source, shared between processes and threads."""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax import parallel
from llie_jax.image import levels
from llie_jax.inference.enhancer import Enhancer, check_finite
from llie_jax.inference.ensemble import SelfEnsemble

_AHEAD = 2  # batches of host work that may be pending while the model runs


Job = tuple[int, Mapping[str, Any], np.ndarray]
"""Index of a record, the record, and the model's output, float32 [H, W, 3]."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The work on each image, the same in every process.

    Attributes:
        inputs: record -> the further inputs of the model.
        finish: jobs of one size -> {index: result to keep}; runs in a thread of the
            process that enhanced the images.
        chunk: maximum number of jobs that `finish` gets at a time.
        levels: output -> the pixels to save; None saves nothing.
        save: (name, pixels) -> None, in the first process only.
        advance: called after each image.
    """

    inputs: Callable[[Mapping], dict[str, np.ndarray]]
    finish: Callable[[Sequence[Job]], dict[int, Any]]
    chunk: int
    levels: Callable[[np.ndarray], np.ndarray] | None
    save: Callable[[str, np.ndarray], None]
    advance: Callable[[], None]


def run_all(
    source,
    work: Work,
    enhancer: Enhancer | SelfEnsemble,
    *,
    batch_size: int,
    tiles: Enhancer | SelfEnsemble | None = None,
    tiled: Sequence[int] = (),
) -> dict[int, Any]:
    """Enhances every image of a source; returns {index: result to keep}.

    Each process runs its share and gets the results of all. An exception in one process
    is raised in all.

    Args:
        source: the records.
        work: the work on each.
        enhancer: for batches; the processes of its mesh take part.
        batch_size: images per batch over all devices, a multiple of their number.
        tiles: for single images, in tiles.
        tiled: indices of the images that `tiles` enhances.

    Raises:
        ValueError: if an image must not be padded, or a result is not finite.
    """
    mesh = enhancer.mesh
    number, count = parallel.share(mesh)
    groups = _group(source, enhancer, set(tiled))

    def rounds() -> Iterator[tuple[list[int], tuple[int, int] | None]]:
        for size, group in groups.items():
            for start in range(0, len(group), batch_size):
                yield group[start : start + batch_size], size
        for start in range(0, len(tiled), count):
            yield list(tiled[start : start + count]), None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = _Results(pool, work)
        for indices, size in rounds():
            mine = indices[number::count]
            with parallel.together(mesh):
                records = [source[index] for index in mine]
                inputs = [work.inputs(record) for record in records]
                results.wait(_AHEAD * batch_size)
            if size is None:
                with parallel.together(mesh):
                    outputs = [
                        tiles(record["image"], raw=True, number=index, **given)
                        for index, record, given in zip(
                            mine, records, inputs, strict=True
                        )
                    ]
            else:
                outputs = _batch(
                    enhancer, mine, records, inputs, size, batch_size // count
                )
            with parallel.together(mesh):
                for record, output in zip(records, outputs, strict=True):
                    check_finite(output, record["name"])
            for job in zip(mine, records, outputs, strict=True):
                results.finish(job)
            if work.levels is not None:
                pixels = [
                    (record["name"], work.levels(output))
                    for record, output in zip(records, outputs, strict=True)
                ]
                for part in parallel.gather_objects(pixels, mesh):
                    for item in part if number == 0 else ():
                        results.add(work.save, *item)
        results.flush()
        with parallel.together(mesh):
            results.wait(0)
    found = {}
    for part in parallel.gather_objects(results.found, mesh):
        found |= part
    return found


def _batch(enhancer, indices, records, inputs, size, share) -> list[np.ndarray]:
    """Returns the outputs of a process's share of a batch, which may be short or empty.

    A short share is filled up: one program serves all, and all processes must run it.
    """
    images, numbers = [record["image"] for record in records], list(indices)
    # One program has one dtype, on all processes.
    everywhere = parallel.gather_objects([x.dtype.name for x in images], enhancer.mesh)
    dtype = levels.deepest(name for part in everywhere for name in part)
    images = [levels.widen(image, dtype) for image in images]
    missing = share - len(images)
    images += (images[:1] or [np.zeros((*size, 3), dtype)]) * missing
    numbers += [0] * missing
    inputs = inputs + (inputs[:1] or [{}]) * missing
    given = {name: [row[name] for row in inputs] for name in inputs[0]}
    return enhancer.batch(images, raw=True, numbers=numbers, **given)[: len(records)]


def _group(source, enhancer: Enhancer | SelfEnsemble, left_out: set[int]) -> dict:
    """Returns {padded size: indices of the images}, the largest size last."""
    groups = collections.defaultdict(list)
    for index, size in enumerate(source.sizes().tolist()):
        if index not in left_out:
            try:
                groups[enhancer.padded_size(size)].append(index)
            except ValueError as error:
                raise ValueError(f"{source.names[index]}: {error}") from error
    return {size: groups[size] for size in sorted(groups)}


class _Results:
    """Work in threads, collected in the order of submission, and its results."""

    def __init__(self, pool: concurrent.futures.Executor, work: Work):
        self.found: dict[int, Any] = {}
        self._pool, self._work = pool, work
        self._chunk: list[Job] = []
        self._pending: collections.deque = collections.deque()

    def finish(self, job: Job) -> None:
        """Adds a job; a full chunk goes to `Work.finish`."""
        *_, output = job
        if self._chunk and self._chunk[0][2].shape != output.shape:
            self.flush()
        self._chunk.append(job)
        if len(self._chunk) == self._work.chunk:
            self.flush()

    def flush(self) -> None:
        """Submits the jobs of a chunk that is not full."""
        if self._chunk:
            self.add(self._work.finish, self._chunk)
        self._chunk = []

    def add(self, function: Callable[..., dict | None], *arguments: Any) -> None:
        """Submits `function(*arguments)`, which may return results by index."""
        self._pending.append(self._pool.submit(function, *arguments))

    def wait(self, ahead: int) -> None:
        """Waits until at most `ahead` are pending; re-raises their exceptions."""
        while len(self._pending) > ahead:
            found = self._pending.popleft().result() or {}
            self.found |= found
            for _ in found:
                self._work.advance()
