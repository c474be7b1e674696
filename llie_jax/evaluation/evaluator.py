"""Scores a model on a source, with references or without."""

import collections
import concurrent.futures
import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from llie_jax import data, files, metrics, registry, types
from llie_jax.evaluation import scores as results
from llie_jax.evaluation.scores import Picture, Scores
from llie_jax.image import io
from llie_jax.image.resize import resize_bilinear
from llie_jax.inference import freeze, padding
from llie_jax.inference.enhance import enhance
from llie_jax.metrics import protocol as protocols

PICTURE_SIDE = 600
"""Longest side of the pictures that are kept for the report, in pixels."""

_AHEAD = 2  # batches whose host work may be under way while the model runs on


def evaluate(
    model: nn.Module,
    variables: Mapping[str, Any],
    source,
    *,
    protocol: str | protocols.Protocol = "default",
    batch_size: int | None = None,
    tile: int | None = None,
    all_protocols: bool = False,
    save_images: str | os.PathLike | None = None,
    max_report_images: int = 12,
    weights: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Scores:
    """Scores a model on every record of a source.

    Images are padded, or resized where the protocol says so, grouped by their size (one
    compilation each), and mapped over this process's devices. Metrics run on the host
    in float64, on the full image.

    Args:
        model: the model.
        variables: its variables, also replicated ones of a running training.
        source: the records, see `llie_jax.data.open_source`.
        protocol: how to score, by name or as it is.
        batch_size: images at a time, rounded up to fill the devices; by default one on
            each.
        tile: images of more than tile * tile pixels are enhanced in tiles of this side,
            which needs less memory and may change the scores; None never does.
        all_protocols: also score the same outputs under every metric, and under every
            protocol that gives the model images of the same size; without references,
            under those that need none.
        save_images: a folder that gets the outputs as PNG files.
        max_report_images: number of pictures kept for the report, evenly spread.
        weights: what is known about the weights, see `llie_jax.weights.describe`.
        progress: shows a bar on standard error.

    Raises:
        ValueError: if the source is empty or lacks the references that the protocol
            needs, the protocol is unknown or resizes to what the model does not take,
            a name leads out of `save_images`, or an image cannot be scored (too small,
            not finite, too large for the device's memory).
        FileNotFoundError, ImportError: if a metric's constants cannot be loaded.
    """
    protocol = protocols.get(protocol)
    protocol.check_keys(source.keys, f"{source.name} {source.split}")
    if not len(source):
        raise ValueError(f"{source.name} {source.split} holds no images to score.")
    for name, value in (("batch_size", batch_size), ("tile", tile)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1.")
    if tile and protocol.size:
        raise ValueError(
            f"Protocol {protocol.name!r} resizes whole images; leave out tile={tile}."
        )
    saved = save_images and [
        files.inside(save_images, name, suffix=".png") for name in source.names
    ]
    device_count = jax.local_device_count()
    batch_size = -(-(batch_size or 1) // device_count) * device_count
    multiple, pad_mode = protocol.padding(model.multiple, model.pad_mode)
    shown = _spread(len(source), max_report_images)
    pairs = source
    if protocol.pair_size:
        pairs = data.ResizedSource(source, protocol.pair_size)
    whole, tiled = {}, []
    for index, (height, width) in enumerate(pairs.sizes().tolist()):
        if tile and height * width > tile**2:
            tiled.append(index)
        else:
            whole[index] = (height, width)
    groups = _group(whole, multiple)
    run = _compiled(model, protocol.size)
    variables = jax.tree.map(np.asarray, freeze.freeze(model, variables))
    variables = jax.device_put(variables, NamedSharding(_mesh(), P()))

    paired = "target" in source.keys
    constants: dict[metrics.Metric, dict] = {}
    scorer = protocol.scorer(constants)
    other = _OtherScores(protocol, paired, constants) if all_protocols else None

    def outputs() -> Iterator[tuple[int, types.Record, np.ndarray]]:
        """Yields (index, record, output float32 [H, W, 3]) of every record."""
        for group in groups:
            for start in range(0, len(group), batch_size):
                indices = group[start : start + batch_size]
                records = [pairs[index] for index in indices]
                batch = _pad_batch(records, multiple, pad_mode, batch_size)
                images = np.asarray(run(variables, batch))
                for index, record, image in zip(indices, records, images, strict=False):
                    yield index, record, padding.crop(image, record["image"].shape[:2])
        for index in tiled:
            record = pairs[index]
            image = record["image"].astype(np.float32) / 255
            yield index, record, enhance(model, variables, image, tile=tile, clip=False)

    def finish(chunk: list[tuple[int, types.Record, np.ndarray]]) -> dict[int, dict]:
        """Does all host work for a few images of one size."""
        _, records, made = zip(*chunk, strict=True)
        for record, output in zip(records, made, strict=True):
            if not np.isfinite(output).all():
                raise ValueError(
                    f"{record['name']}: the model's output is not finite; are the "
                    "weights those of a run that diverged?"
                )
        names = [record["name"] for record in records]
        targets = [record["target"] for record in records] if paired else None
        inputs = [record["image"] for record in records]
        found = {
            "output": scorer(made, targets, names=names),
            "input": scorer(inputs, targets, names=names),
        }
        if other:
            found |= other(made, targets, names)
        return {
            index: show(index, record, output)
            | {key: values[k] for key, values in found.items()}
            for k, (index, record, output) in enumerate(chunk)
        }

    def show(index: int, record: types.Record, output: np.ndarray) -> dict[str, Any]:
        """Writes an output where it is wanted, and makes its picture."""
        found = {"name": record["name"]}
        if saved:
            path = saved[index]
            path.parent.mkdir(parents=True, exist_ok=True)
            io.write_image(path, protocol.to_levels(output))
        if index in shown:
            found["picture"] = Picture(
                record["name"],
                image=_thumbnail(record["image"]),
                output=_thumbnail(protocol.to_levels(output)),
                target=_thumbnail(record["target"]) if paired else None,
            )
        return found

    with _memory_errors_explained(), progress_bar(len(source), progress) as advance:
        chunks = _chunks(outputs(), scorer.batch)
        ahead = max(1, _AHEAD * batch_size // scorer.batch)
        rows = _in_threads(finish, chunks, ahead, advance)
    rows = [rows[index] for index in range(len(source))]
    return Scores(
        protocol=protocol,
        images={row["name"]: row["output"] for row in rows},
        inputs={row["name"]: row["input"] for row in rows},
        facts=_facts(
            model,
            source,
            weights,
            options={
                "pad_multiple": multiple,
                "pad_mode": pad_mode,
                "batch_size": batch_size,
                "tile": tile,
                "tiled": [source.names[index] for index in tiled],
                "self_ensemble": False,
                "gt_mean": False,
                **model.options,
            },
        ),
        pictures=[row["picture"] for row in rows if "picture" in row],
        other=_mean_of_all(rows) if all_protocols else {},
    )


def _mesh() -> Mesh:
    # Only this process's devices: each process of a pod can evaluate by itself.
    return Mesh(np.asarray(jax.local_devices()), ("data",))


@functools.lru_cache(maxsize=4)
def _compiled(model: nn.Module, size: tuple[int, int] | None) -> Callable:
    """Returns the jitted `(variables, uint8 [B, H, W, 3]) -> float32` of a model.

    Cached, so that a training which evaluates every so often compiles once.

    Args:
        model: the model.
        size: (height, width) that it gets the images at; None is their own.
    """

    def apply(variables, image):
        image = image.astype(jnp.float32) / 255
        if size is None:
            return model.apply(variables, image).image.astype(jnp.float32)
        own_size = image.shape[1:3]
        inputs = model.native_inputs(image)
        image, inputs = jax.tree.map(
            lambda x: resize_bilinear(x, size), (image, inputs)
        )
        output = model.apply(variables, image, **inputs).image
        return resize_bilinear(output.astype(jnp.float32), own_size)

    mapped = jax.shard_map(
        apply,
        mesh=_mesh(),
        in_specs=(P(), P("data")),
        out_specs=P("data"),
        check_vma=False,
    )
    return jax.jit(mapped)


def _group(sizes: Mapping[int, tuple[int, int]], multiple: int) -> list[list[int]]:
    """Returns the indices of images that have one size after padding, largest last."""
    groups = collections.defaultdict(list)
    for index, size in sizes.items():
        groups[tuple(side + -side % multiple for side in size)].append(index)
    return [groups[size] for size in sorted(groups)]


def _pad_batch(
    records: Sequence[dict], multiple: int, pad_mode: str, batch_size: int
) -> np.ndarray:
    """Returns uint8 [B, H, W, 3]; a short batch is filled up with its first image."""
    images = [
        padding.pad_to_multiple(record["image"], multiple, pad_mode)[0]
        for record in records
    ]
    return np.stack(images + images[:1] * (batch_size - len(images)))


def _chunks(items: Iterator[tuple], size: int) -> Iterator[list[tuple]]:
    """Yields the items in lists of at most `size`, whose images have one size."""
    chunk: list[tuple] = []
    for item in items:
        if chunk and (len(chunk) == size or chunk[0][2].shape != item[2].shape):
            yield chunk
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk


def _in_threads(
    function: Callable[[list], dict[int, Any]],
    chunks: Iterator[list],
    ahead: int,
    advance: Callable,
) -> dict[int, Any]:
    """Returns all results together; at most `ahead` calls are outstanding."""
    found, pending = {}, collections.deque()

    def collect():
        results = pending.popleft().result()
        found.update(results)
        for _ in results:
            advance()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in chunks:
            pending.append(pool.submit(function, chunk))
            if len(pending) > ahead:
                collect()
        while pending:
            collect()
    return found


class _OtherScores:
    """Scores outputs under every metric, and under the protocols comparable to one.

    Args:
        protocol: the one by whose rules the outputs are made.
        paired: whether there are references.
        constants: of the metrics, see `metrics.Scorer`.
    """

    def __init__(self, protocol: protocols.Protocol, paired: bool, constants: dict):
        self._protocols = {
            name: other.scorer(constants)
            for name, other in protocols.PROTOCOLS.items()
            # Others would have given the model the images at another size.
            if (other.size, other.pair_size) == (protocol.size, protocol.pair_size)
            and (paired or not other.needs_target)
        }
        known = [
            name
            for name in registry.names("metric")
            if paired or not metrics.card(name).needs_target
        ]
        self._metrics = metrics.Scorer(
            dict(zip(known, known, strict=True)),
            prepare=lambda output: np.clip(output, 0, 1),
            constants=constants,
        )

    def __call__(self, outputs, targets, names) -> dict[str, list[dict]]:
        """Returns "protocols" and "metrics" -> the scores of each output."""
        found = {
            name: scorer(outputs, targets, names=names)
            for name, scorer in self._protocols.items()
        }
        return {
            "protocols": [
                {name: rows[k] for name, rows in found.items()}
                for k in range(len(outputs))
            ],
            "metrics": self._metrics(outputs, targets, names=names),
        }


def _mean_of_all(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict]:
    return {
        "protocols": {
            name: results.mean_columns(row["protocols"][name] for row in rows)
            for name in rows[0]["protocols"]
        },
        "metrics": results.mean_columns(row["metrics"] for row in rows),
    }


def _spread(total: int, count: int) -> set[int]:
    """Returns `count` numbers below `total`, evenly spread."""
    chosen = np.linspace(0, total - 1, min(total, count)).round().astype(int)
    return set(chosen.tolist())


def _thumbnail(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _facts(model, source, weights, *, options) -> dict[str, Any]:
    """Returns what a result file records beside the scores."""
    from llie_jax import __version__

    devices = jax.local_devices()
    weights = dict(weights or {})
    return {
        "model": weights.pop("spec", None) or {"name": type(model).__name__},
        "weights_sha256": weights.pop("weights_sha256", None),
        "weights": weights,
        "data": {
            "name": source.name,
            "split": source.split,
            "fingerprint": source.fingerprint(),
            "note": source.note(),
        },
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {
            "llie_jax": __version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
        },
        "options": options,
    }


@contextlib.contextmanager
def progress_bar(
    total: int, shown: bool, label: str = "scoring"
) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each image."""
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


@contextlib.contextmanager
def _memory_errors_explained() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            "The device has too little memory for images of this size; enhance large "
            "ones in tiles (--tile 1024), or use a smaller --batch-size."
        ) from error
