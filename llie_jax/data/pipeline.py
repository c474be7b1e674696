"""Batches for training, from one of two loaders that yield the same batches.

On device, for sets up to a size limit: all images stay in device memory as deep as
their files, a batch is a few numbers per record, and the compiled step cuts the crops.
On the host: grain's threads decode and crop images ahead of the step that needs them.

    pipeline = make_pipeline(source, stages, seed=0)
    for batch in pipeline.batches(first_step=100):
        ...  # in the compiled step: pipeline.expand(pipeline.resident, batch) -> Batch

There is no state to save: the step number determines the position in the data.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from llie_jax import messages, types
from llie_jax.data import loading, sources, transforms
from llie_jax.image import levels, resize
from llie_jax.image import overview as windows

RESIDENCES = ("auto", "device", "host")

NUMBERS = (
    *("index", "share", "gamma", "window"),
    *("relit", "light", "sensor", "noise", "colours"),
)
"""What a batch from the host loader contains besides pixels."""

OVERVIEWS = {"image": "overview", "target": "overview_target"}
"""The image of a record -> the name of its overview."""


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The batches of one process.

    Attributes:
        residence: "device" or "host", where the decoded images are.
        plan: which crops make up each batch.
        resident: arrays that `expand` needs on every device; {} for the host loader.
        expand: `(resident, batch) -> Batch` with the images of the source's keys
            [b, P, Q, 3], in the dtype of the deepest file, or float32 if they are
            mixed, and `index` [b]. Pure, for use inside `jit`.
    """

    residence: str
    plan: transforms.Plan
    resident: dict[str, np.ndarray]
    expand: Callable[[Any, Any], types.Batch]
    _source: "_Cached"
    _overviews: dict[str, np.ndarray]
    _process: tuple[int, int]
    _workers: int

    @property
    def steps(self) -> int:
        """The number of steps of all stages."""
        return self.plan.steps

    def batches(
        self, first_step: int = 0, last_step: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's part of the batches from `first_step` on.

        Args:
            first_step: the first step, counted over all stages from 0.
            last_step: where to stop, exclusive; by default after the last stage.

        Raises:
            ValueError: while iterating, if an image file is damaged; names the file.
            OSError: if threads of the host loader die again and again.
        """
        steps = range(first_step, self.steps if last_step is None else last_step)
        if self.residence == "device":
            for step in steps:
                yield self._part(step)
            return
        yield from loading.load_ahead(self._load, steps, threads=self._workers)

    def _part(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's part of the plan."""
        index, count = self._process
        size = self.plan.locate(step)[0].batch_size // count
        part = self.plan.batch(step, slice(index * size, (index + 1) * size))
        if self._overviews:
            sizes = self.plan.sizes[part["index"]]
            part["window"] = windows.window(part["rows"], part["columns"], sizes)
        return part

    def _load(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's part of a batch with its pixels."""
        part = self._part(step)
        batch = self._crop(part)
        if "partner_index" in part:
            partners = {key: part[f"partner_{key}"] for key in transforms.CROP_KEYS}
            for key, images in self._crop(partners).items():
                batch[f"partner_{key}"] = images
        index = part["index"]
        batch |= {key: views[index] for key, views in self._overviews.items()}
        return batch | {key: part[key] for key in NUMBERS if key in part}

    def _crop(self, crops: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the pixels of crops, source key -> [B, P, Q, 3]."""
        shape = (*crops["rows"].shape, crops["columns"].shape[1], 3)
        images = {
            key: np.empty(shape, dtype) for key, dtype in self._source.dtypes.items()
        }
        for place, index in enumerate(crops["index"]):
            record = self._source[int(index)]
            where = [crops[key][place] for key in ("rows", "columns", "transpose")]
            for key in images:
                cut = transforms.crop(record[key], *where)
                images[key][place] = levels.widen(cut, images[key].dtype)
        return images


def make_pipeline(
    source: sources.Source,
    stages: Sequence[transforms.Stage | Mapping[str, int]],
    *,
    size: tuple[int, int] = (0, 0),
    seed: int = 0,
    augment: transforms.Augment | Mapping[str, Any] | None = None,
    residence: str = "auto",
    device_limit_bytes: int = 2**30,
    host_cache_bytes: int = 2**30,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 4,
    overview: int = 0,
) -> Pipeline:
    """Makes the pipeline of one training run.

    Args:
        source: the training data.
        stages: `Stage`s, or dicts of their fields.
        size: height and width to which all images are resized when they are read, see
            `image.resize.resize`; (0, 0) keeps their size.
        seed: seeds all random choices.
        augment: an `Augment`, a dict of its fields, or None for the defaults.
        residence: "device", "host", or "auto": on the device if the decoded images take
            at most `device_limit_bytes`.
        device_limit_bytes: see `residence`.
        host_cache_bytes: the host loader caches decoded records up to this size.
        process_index: which part of each batch this process loads.
        process_count: number of processes.
        workers: threads of the host loader.
        overview: side of the overviews, see `llie_jax.models.base.Model`; 0 for none.

    Raises:
        ValueError: if an option is out of range, a crop is larger than an image, a
            batch size is not divisible by the number of processes, relit records have
            no target, or overviews are asked for with mixtures or rotations.
    """
    stages = tuple(_fields(transforms.Stage, stage) for stage in stages)
    augment = _fields(transforms.Augment, augment or {})
    if residence not in RESIDENCES:
        raise ValueError(
            f"Unknown residence {residence!r}. Accepted: {', '.join(RESIDENCES)}."
            f"{messages.suggest(residence, RESIDENCES)}"
        )
    if not stages:
        raise ValueError("There are no stages; give at least one.")
    for stage in stages:
        if min(stage[:3]) < 1 or stage.patch_width < 0:
            raise ValueError(f"{stage} has a value below 1.")
        if stage.batch_size % process_count:
            raise ValueError(
                f"batch_size={stage.batch_size} is not divisible by {process_count} "
                "processes; make it a multiple."
            )
    if workers < 1:
        raise ValueError(f"workers={workers}; the host loader needs at least 1.")

    if augment.relight and "target" not in source.keys:
        raise ValueError(
            f"augment.relight={augment.relight} makes images of targets, which "
            f"{source.name} does not have; set it to 0.0."
        )
    if overview and (augment.mixup or augment.rotate):
        raise ValueError(
            "The model takes the overview of a photo, which cannot be mixed or "
            "rotated; "
            "set augment.mixup to 0.0 and augment.rotate to False."
        )
    groups = source.groups
    if any(size):
        source = ResizedSource(source, size)
    sizes = source.sizes()
    transforms.check_patches(sizes, source.names, stages)
    dtypes = source.dtypes()
    shape = (len(source), *sizes.max(axis=0).tolist(), 3)
    if residence == "auto":
        depth = sum(dtype.itemsize for dtype in dtypes.values())
        needed = depth * np.prod(shape, dtype=np.int64)
        residence = "device" if needed <= device_limit_bytes else "host"
    on_device = residence == "device"
    whole, overviews = _load(source, shape, dtypes, overview, on_device=on_device)
    return Pipeline(
        residence=residence,
        plan=transforms.Plan(sizes, stages, augment, seed, groups),
        resident=whole | overviews if on_device else {},
        expand=expand_crops if on_device else expand_images,
        _source=_Cached(source, dtypes, host_cache_bytes),
        _overviews=overviews,
        _process=(process_index, process_count),
        _workers=workers,
    )


def expand_crops(resident: dict[str, jax.Array], batch: dict) -> types.Batch:
    """Cuts the crops out of the resident images, and mixes them."""
    # In a fixed order: a set's differs from one process to the next, and with it the
    # program, which then misses the compilation cache.
    views = [key for key in OVERVIEWS.values() if key in resident]
    photos = {key: whole for key, whole in resident.items() if key not in views}
    images = {key: resident[key][batch["index"]] for key in views}
    for key, whole in photos.items():
        images[key] = transforms.crop_batch(whole, batch)
    if "partner_index" in batch:
        partners = {key: batch[f"partner_{key}"] for key in transforms.CROP_KEYS}
        for key, whole in photos.items():
            images[f"partner_{key}"] = transforms.crop_batch(whole, partners)
    return transforms.mix(batch | images)


def expand_images(resident: dict, batch: dict) -> types.Batch:
    """Mixes the images of a batch that the host has already cropped."""
    del resident
    return transforms.mix(batch)


def _load(
    source: "sources.Source | ResizedSource",
    shape: tuple[int, ...],
    dtypes: Mapping[str, np.dtype],
    side: int,
    *,
    on_device: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Decodes all images once, if anything is needed of them.

    Args:
        source: the records.
        shape: [N, H, W, 3] of the whole images; smaller ones are zero-padded.
        dtypes: those of the whole images.
        side: side of the overviews, or 0.
        on_device: whether whole images are kept.

    Returns:
        The whole images by their keys, and the overviews, float32 [N, side,
        side, 3]: `overview` of the image, and `overview_target` of the target, for
        relit records, if there is one.
    """
    whole = {key: np.zeros(shape, dtype) for key, dtype in dtypes.items() if on_device}
    names = {k: name for k, name in OVERVIEWS.items() if side and k in source.keys}
    views = {
        name: np.zeros((len(source), side, side, 3), np.float32)
        for name in names.values()
    }

    def load(index: int) -> None:
        record = source[index]
        height, width = record["image"].shape[:2]
        for key, images in whole.items():
            images[index, :height, :width] = levels.widen(record[key], images.dtype)
        for key, name in names.items():
            views[name][index] = windows.overview(record[key], side)

    if whole or views:
        sources.parallel_map(load, range(len(source)))
    return whole, views


class ResizedSource:
    """Resizes the images of a source when they are read, see `image.resize`.

    Differs: SNR-Net's authors keep the resized pixels as floats; here they are rounded
    to the depth of the file, like all loaded pixels.

    Args:
        source: the source.
        size: height and width of all images.
    """

    def __init__(self, source: sources.Source, size: tuple[int, int]):
        self._source = source
        self._size = tuple(size)
        self.keys = source.keys
        self.names = source.names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> types.Record:
        """Returns a record with its images resized."""
        record = self._source[index]
        resized = {key: resize.resize(record[key], self._size) for key in self.keys}
        return record | resized

    def sizes(self) -> np.ndarray:
        """Returns height and width of every record, int32 [N, 2]."""
        return np.tile(np.array(self._size, np.int32), (len(self), 1))

    def dtypes(self) -> dict[str, np.dtype]:
        """Returns the dtype that holds the images of all records, by key."""
        return self._source.dtypes()


class CroppedSource:
    """Crops the images of a source at the bottom and right when they are read.

    Args:
        source: the source.
        multiple: height and width become multiples of it.

    Raises:
        ValueError: if an image is smaller than that.
    """

    def __init__(self, source: sources.Source, multiple: int):
        self._source = source
        self._sizes = source.sizes() // multiple * multiple
        self.keys = source.keys
        self.names = source.names
        for name, size in zip(self.names, self._sizes.tolist(), strict=True):
            if 0 in size:
                raise ValueError(
                    f"{name} is smaller than {multiple} x {multiple}, so nothing is "
                    f"left of it cropped to a multiple of {multiple}."
                )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> types.Record:
        """Returns a record with its images cropped."""
        record = self._source[index]
        height, width = self._sizes[index]
        return record | {key: record[key][:height, :width] for key in self.keys}

    def sizes(self) -> np.ndarray:
        """Returns height and width of every record, int32 [N, 2]."""
        return self._sizes


class _Cached:
    """Caches the decoded records of a source in memory, up to a limit."""

    def __init__(
        self,
        source: sources.Source | ResizedSource,
        dtypes: Mapping[str, np.dtype],
        limit_bytes: int,
    ):
        self.dtypes = dtypes
        self._source = source
        self._room = limit_bytes
        self._kept: dict[int, types.Record] = {}

    def __getitem__(self, index: int) -> types.Record:
        record = self._kept.get(index)
        if record is None:
            record = self._source[index]
            size = sum(record[key].nbytes for key in self.dtypes)
            if size <= self._room:
                self._room -= size
                self._kept[index] = record
        return record


def _fields(cls, value):
    """Returns `value` as an instance of `cls`; a dict gives the fields.

    Raises:
        ValueError: if the dict has an unknown or missing field.
    """
    if isinstance(value, cls):
        return value
    known = getattr(cls, "_fields", None) or tuple(cls.__dataclass_fields__)
    for key in value:
        if key not in known:
            raise ValueError(
                f"{cls.__name__} has no field {key!r}.{messages.suggest(key, known)} "
                f"Fields: {', '.join(known)}."
            )
    return cls(**value)
