"""Scores a model on a source, with references or without."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from llie_jax import data, files, metrics, parallel, registry, types
from llie_jax.evaluation import scores as results
from llie_jax.evaluation import sharing
from llie_jax.evaluation.scores import Picture, Scores
from llie_jax.image import io, levels
from llie_jax.inference.enhancer import Enhancer
from llie_jax.inference.ensemble import SelfEnsemble
from llie_jax.metrics import protocol as protocols
from llie_jax.models.base import Model
from llie_jax.parallel import Mesh

PICTURE_SIDE = 600
"""Longest side of the pictures that are kept for the report, in pixels."""


def evaluate(
    model: Model,
    variables: Mapping[str, Any],
    source,
    *,
    protocol: str | protocols.Protocol = "default",
    gt_mean: bool = False,
    self_ensemble: bool = False,
    batch_size: int | None = None,
    tile: int | None = None,
    crop_multiple: int = 1,
    all_protocols: bool = False,
    save_images: str | os.PathLike | None = None,
    max_report_images: int = 12,
    weights: Mapping[str, Any] | None = None,
    overlap: str = "",
    selected_on_test: bool = False,
    inputs: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    reference_inputs: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]
    | None = None,
    rng: int | jax.Array = 0,
    mesh: Mesh | None = None,
    mapping: str = "shard_map",
    progress: bool = True,
) -> Scores:
    """Scores a model on every record of a source.

    Images are padded, or resized where the protocol says so, grouped by their size (one
    compilation each), and mapped over the devices of all processes. Metrics run on the
    host in float64, on the full image. All processes call this together and get the
    same scores; the first one writes the files.

    Args:
        model: the model.
        variables: its variables; those of a running training may be replicated.
        source: the records, see `llie_jax.data.open_source`.
        protocol: how to score, a name or a `Protocol`. Its optional columns are left
            out where they cannot be computed.
        gt_mean: also computes the protocol's columns with GT mean, which use the
            reference to change the image.
        self_ensemble: scores the mean of the outputs for the eight flips and rotations
            of each image; the scores are marked.
        batch_size: images per batch, rounded up to a multiple of the devices; by
            default one per device.
        tile: images of more than tile * tile pixels are enhanced in tiles of this side,
            which needs less memory and may change the scores; None never tiles.
        crop_multiple: images and references are cropped at the bottom and right to
            multiples of this, as some authors do; above 1, scores are marked, since
            they are not those of whole images.
        all_protocols: also score the same outputs under every metric, and under every
            protocol that gives the model images of the same size.
        save_images: a folder for the outputs, as PNG files.
        max_report_images: number of pictures to keep for the report, evenly spread.
        weights: facts about the weights, from `llie_jax.weights.describe`.
        overlap: which of the images the weights were trained on, as text; "" for none.
        selected_on_test: whether the weights were chosen by their scores on these
            images; the scores are marked.
        inputs: further inputs of the model: name -> function of the image
            [H, W, 3], as deep as its file, that returns a value without the batch axis.
        reference_inputs: likewise, functions of the image and the target. The scores
            then record these names as `uses_reference`: they are not comparable with
            those of models that see only the image.
        rng: a seed or a random key, for models that sample.
        mesh: the devices; by default those of all processes. A process whose mesh has
            only its own devices evaluates alone.
        mapping: how batches are mapped over them, "shard_map" or "pmap".
        progress: shows a bar on standard error.

    Raises:
        ValueError: if the source is empty or lacks the references that the protocol or
            an input needs, the protocol is unknown or resizes to a size that the model
            does not accept, a name escapes from `save_images`, or an image cannot be
            scored (too small, not finite, too large for the device's memory).
        FileNotFoundError, ImportError: if a metric's constants cannot be loaded.
    """
    protocol = protocols.get(protocol)
    protocol = protocol.with_gt_mean() if gt_mean else protocol
    protocol.check_keys(source.keys, f"{source.name} {source.split}")
    paired = "target" in source.keys
    inputs, reference_inputs = inputs or {}, reference_inputs or {}
    if reference_inputs and not paired:
        raise ValueError(
            f"{source.name} {source.split} has no references to compute "
            f"{', '.join(reference_inputs)} from."
        )
    if not len(source):
        raise ValueError(f"{source.name} {source.split} holds no images to score.")
    counts = {"batch_size": batch_size, "tile": tile, "crop_multiple": crop_multiple}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1.")
    if tile and protocol.size:
        raise ValueError(
            f"Protocol {protocol.name!r} resizes whole images; leave out tile={tile}."
        )
    if self_ensemble and protocol.size:
        raise ValueError(
            f"Protocol {protocol.name!r} resizes images to one size, which does not "
            "suit turned images; leave out the self-ensemble."
        )
    saved = save_images and {
        name: files.inside(save_images, name, suffix=".png") for name in source.names
    }
    mesh = parallel.make_mesh() if mesh is None else mesh
    batch_size = -(-(batch_size or 1) // mesh.size) * mesh.size
    multiple, pad_mode = protocol.padding(model.multiple, model.pad_mode)
    shown = _spread(len(source), max_report_images)
    pairs = source
    if crop_multiple > 1:
        pairs = data.CroppedSource(source, crop_multiple)
    if protocol.pair_size:
        pairs = data.ResizedSource(pairs, protocol.pair_size)
    enhancer = Enhancer(
        model,
        variables,
        multiple=multiple,
        pad_mode=pad_mode,
        size=protocol.size,
        limit=float("inf"),
        rng=rng,
        mesh=mesh,
        mapping=mapping,
    )
    tiles, tiled = None, []
    if tile:
        # Tiles are padded as in photos, whatever the protocol says.
        tiles = Enhancer(
            model,
            enhancer.variables,
            tile=tile,
            rng=rng,
            mesh=parallel.one_device(mesh),
        )
        tiled = [
            index
            for index, (height, width) in enumerate(pairs.sizes().tolist())
            if height * width > tile**2
        ]
    if self_ensemble:
        enhancer, tiles = SelfEnsemble(enhancer), tiles and SelfEnsemble(tiles)
    # Cropped or resized references have other hashes.
    hashed = paired and pairs is source
    constants: dict[metrics.Metric, dict] = {}
    smallest = tuple(pairs.sizes().min(axis=0).tolist())
    protocol = protocol.available(constants, size=smallest)
    scorer = protocol.scorer(constants)
    other = None
    if all_protocols:
        other = _OtherScores(protocol, paired, smallest, constants)

    def more(record: types.Record) -> dict[str, np.ndarray]:
        """Returns the further inputs of the model."""
        image = record["image"]
        given = {name: make(image) for name, make in inputs.items()}
        return given | {
            name: make(image, record["target"])
            for name, make in reference_inputs.items()
        }

    def save(name: str, levels: np.ndarray) -> None:
        saved[name].parent.mkdir(parents=True, exist_ok=True)
        io.write_image(saved[name], levels)

    def finish(chunk: Sequence[sharing.Job]) -> dict[int, dict]:
        """Does all host work for a few images of the same size."""
        _, records, made = zip(*chunk, strict=True)
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
            | ({"reference": results.pixels_hash(targets[k])} if hashed else {})
            for k, (index, record, output) in enumerate(chunk)
        }

    def show(index: int, record: types.Record, output: np.ndarray) -> dict[str, Any]:
        """Returns the name of a record, and its picture where one is wanted."""
        found = {"name": record["name"]}
        if index in shown:
            found["picture"] = Picture(
                record["name"],
                image=thumbnail(record["image"]),
                output=thumbnail(protocol.to_levels(output)),
                target=thumbnail(record["target"]) if paired else None,
            )
        return found

    number, count = parallel.share(mesh)
    mine = -(-len(source) // count)
    with (
        _memory_errors_explained(),
        progress_bar(mine, progress and number == 0) as advance,
    ):
        rows = sharing.run_all(
            pairs,
            sharing.Work(
                inputs=more,
                finish=finish,
                chunk=scorer.batch,
                levels=protocol.to_levels if saved else None,
                save=save,
                advance=advance,
            ),
            enhancer,
            batch_size=batch_size,
            tiles=tiles,
            tiled=tiled,
        )
    rows = [rows[index] for index in range(len(source))]
    return Scores(
        protocol=protocol,
        images={row["name"]: row["output"] for row in rows},
        inputs={row["name"]: row["input"] for row in rows},
        facts=_facts(
            model,
            source,
            weights,
            mesh,
            options={
                "pad_multiple": multiple,
                "pad_mode": pad_mode,
                "batch_size": batch_size,
                "tile": tile,
                "crop_multiple": crop_multiple,
                "tiled": [source.names[index] for index in tiled],
                "self_ensemble": self_ensemble,
                "gt_mean": protocol.uses_reference,
                "constants": scorer.origins,
                "inputs": sorted(inputs),
                "uses_reference": sorted(reference_inputs),
                "overlap": overlap,
                "selected_on_test": selected_on_test,
                **model.options,
            },
            references={r["name"]: r["reference"] for r in rows} if hashed else {},
        ),
        pictures=[row["picture"] for row in rows if "picture" in row],
        other=_mean_of_all(rows) if all_protocols else {},
    )


def references(model: Model) -> dict[str, Callable]:
    """Returns `reference_inputs` that give a model the reference itself."""
    return dict.fromkeys(model.reference_inputs, lambda image, target: target)


class _OtherScores:
    """Scores outputs under every metric and every comparable protocol.

    Args:
        protocol: the protocol that the outputs were made under.
        paired: whether there are references.
        size: (height, width) that the smallest images have; metrics that need larger
            ones are left out, as are those whose network is not installed.
        constants: constants of the metrics, see `metrics.Scorer`.
    """

    def __init__(
        self,
        protocol: protocols.Protocol,
        paired: bool,
        size: tuple[int, int],
        constants: dict,
    ):
        def computable(metric: registry.Spec) -> bool:
            card = metrics.card(metric)
            return (
                (paired or not card.needs_target)
                and min(size) >= card.minimum_size
                and metrics.loads(metric, constants)
            )

        self._protocols = {}
        for name, other in protocols.PROTOCOLS.items():
            # Other protocols give the model images of another size.
            if (other.size, other.pair_size) == (protocol.size, protocol.pair_size):
                other = other.available(constants, size=size)
                if all(computable(metric) for metric in other.metrics.values()):
                    self._protocols[name] = other.scorer(constants)
        known = [name for name in registry.names("metric") if computable(name)]
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


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Returns an image scaled down for a page, uint8 [H, W, 3]."""
    picture = Image.fromarray(levels.to_uint8(image))
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _facts(model, source, weights, mesh, *, options, references) -> dict[str, Any]:
    """Returns what a result file records besides the scores."""
    from llie_jax import __version__

    devices = mesh.devices.flat
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
            **({"references": references} if references else {}),
        },
        "device": f"{mesh.size} x {devices[0].device_kind}",
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
    """Yields a function to call after each image."""
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
