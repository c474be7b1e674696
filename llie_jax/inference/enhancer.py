"""`Enhancer`, which every path from an image to an enhanced image goes through."""

import copy
import dataclasses
import functools
import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax import parallel
from llie_jax.image import levels
from llie_jax.image import overview as overviews
from llie_jax.image.resize import resize_bilinear
from llie_jax.inference import gate as exposure_gate
from llie_jax.inference import padding, prepare, programs, tiling
from llie_jax.inference.adjustments import Adjustments
from llie_jax.models.base import Model
from llie_jax.parallel import Mesh

TILE = 1024
"""Side of a tile in pixels; DarkIR-m needs about 3 GB for one on a CPU."""

logger = logging.getLogger(__name__)


class Enhancer:
    """A model and its variables, ready for images of any size.

    Values that depend only on the parameters are computed once. An image is padded to
    the model's `multiple` in its `pad_mode`, and the output is cropped back. An image
    of more than `limit` pixels is enhanced in overlapping tiles, which changes the
    result of a model with global statistics; `plan` says in advance whether an image
    is tiled.

    Each padded size up to the limit compiles one program; all larger images that are
    at least a tile high and wide share one. The enhancers of a process share a cache of
    the `programs.LIMIT` most recently used programs. For a folder of many small sizes,
    a smaller tile means fewer compilations.

    Args:
        model: a model from `llie_jax.build` or `llie_jax.load`.
        variables: its variables; those of a running training may be replicated.
        options: values of the model's test options, such as CIDNet's `saturation`, or
            the number of steps of a model that samples.
        strength: share of the model's result in the mixture with the image, 0 to 1; see
            `llie_jax.inference.adjustments` for this and the next two.
        saturation: factor on the saturation of the result, 0 to 2.
        warmth: white balance of the result, -1 (cold) to 1 (warm).
        gate: whether the strength falls to 0 for images that the model finds well
            exposed; see `llie_jax.inference.gate`.
        tile: side of the tiles in pixels, rounded up to the model's `multiple`.
        overlap: minimum overlap of neighbouring tiles, in pixels; by default an eighth
            of the tile.
        limit: images with more pixels than this are tiled; by default the pixels of a
            tile, so that no image needs more memory than a tile. Infinity never tiles.
        shared_kernels: tiles of one image share the kernels that ADR generates from a
            downscaled copy of the whole image; False generates kernels per tile. Has
            no effect on other models.
        multiple: pads to multiples of this, itself a multiple of the model's; by
            default the model's.
        pad_mode: padding mode; by default the model's.
        size: (height, width) to resize images to instead of padding them; outputs are
            resized back. `native_inputs` are computed before resizing. Such images are
            never tiled.
        rng: a seed or a random key, for models that sample. Each image's key is derived
            from it and the image's number, so results do not depend on batching.
        mesh: the devices that share a batch; by default one device of this process.
        mapping: how batches are mapped over them, one of `parallel.MAPPINGS`.

    Raises:
        ValueError: if the model has no such option, an adjustment is out of range, or
            `multiple` or `size` is not a multiple of the model's.
    """

    def __init__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        *,
        options: Mapping[str, float] | None = None,
        strength: float = 1.0,
        saturation: float = 1.0,
        warmth: float = 0.0,
        gate: bool = False,
        tile: int = TILE,
        overlap: int | None = None,
        limit: float | None = None,
        shared_kernels: bool = True,
        multiple: int | None = None,
        pad_mode: str | None = None,
        size: tuple[int, int] | None = None,
        rng: int | jax.Array = 0,
        mesh: Mesh | None = None,
        mapping: str = "shard_map",
    ):
        self.model = model.with_options(options or {})
        self._adjustments = Adjustments(strength, saturation, warmth)
        self._gate = gate
        self.mesh = parallel.one_device() if mesh is None else mesh
        self._one, self._mapping = parallel.one_device(self.mesh), mapping
        self._tile, self._shared_kernels = tile, shared_kernels
        self._overlap = tile // 8 if overlap is None else overlap
        self._limit = tile * tile if limit is None else limit
        self._size = size and tuple(size)
        self._multiple, self._pad_mode = model.multiple, pad_mode or model.pad_mode
        if size:
            self._multiple, self._limit = 1, math.inf
        elif multiple:
            self._multiple = multiple
        for side in size or (self._multiple,):
            if side % model.multiple:
                raise ValueError(
                    f"{size or multiple} is invalid for {type(model).__name__}, "
                    f"which needs multiples of {model.multiple}."
                )
        self._rng = None
        if model.test_streams:
            key = jax.random.key(rng) if isinstance(rng, int) else rng
            if jax.random.key_impl(key) != jax.random.key_impl(jax.random.key(0)):
                raise ValueError(
                    f"rng is a key of {jax.random.key_impl(key)}; give a seed, or a "
                    "key of JAX's default implementation."
                )
            self._rng = jax.random.key_data(key)
        self._put(variables)

    def with_variables(self, variables: Mapping[str, Any]) -> "Enhancer":
        """Returns this enhancer with other variables, without recompiling.

        Raises:
            ValueError: if names, shapes or dtypes differ from the current ones.
        """
        if _learned(variables) != _learned(self._local):
            raise ValueError(
                "The variables differ from those of this enhancer in names, shapes or "
                "dtypes; make a new Enhancer for them."
            )
        other = copy.copy(self)
        # A cache belongs to the parameters that it was computed from.
        other._put({name: v for name, v in variables.items() if name != "cache"})
        return other

    @property
    def variables(self) -> dict[str, Any]:
        """The variables on the devices, with the cache computed from them."""
        return self._variables

    def plan(self, size: tuple[int, int]) -> "Plan":
        """Returns how an image of (height, width) pixels is enhanced.

        Raises:
            ValueError: if the overlap does not fit the tiles, or the image needs
                padding and the model's card forbids it.
        """
        height, width = padded = self.padded_size(size)
        grid = tiling.Grid(padded, (0,), (0,))
        if size[0] * size[1] > self._limit:
            grid = tiling.plan(
                (height, width),
                tile=self._tile,
                overlap=self._overlap,
                multiple=self._multiple,
            )
        return Plan(grid, self)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of an image after padding.

        Raises:
            ValueError: if the image needs padding and the model's card forbids it.
        """
        height, width = (side + -side % self._multiple for side in size)
        if (height, width) != tuple(size) and not self.model.card().padding:
            raise ValueError(
                f"The image is {size[0]} x {size[1]}; {type(self.model).__name__} "
                f"needs multiples of {self._multiple} and does not allow padding. Crop "
                "or resize it."
            )
        return height, width

    def __call__(
        self,
        image: np.ndarray,
        *,
        raw: bool = False,
        number: int = 0,
        progress: Callable[[], None] | None = None,
        measured: Callable[[exposure_gate.Exposure], None] | None = None,
        **inputs: np.ndarray,
    ) -> np.ndarray:
        """Enhances an image of any size, from 1 x 1 pixel up, on one device.

        Args:
            image: RGB [H, W, 3], uint8, uint16, or float in [0, 1].
            raw: returns float32, neither clipped to [0, 1] nor checked.
            number: the image's number, for the random key of a model that samples.
            progress: called after each tile.
            measured: called with what the gate measured, if the image went through it.
            **inputs: further inputs of the model, without the batch axis. Maps
                [H, W, C] are padded and tiled with the image.

        Returns:
            [H, W, 3]; uint8 or uint16, rounded to nearest, if the image is; otherwise
                float32.

        Raises:
            TypeError: if the image is neither uint8, uint16 nor float.
            ValueError: if the image's shape or range is invalid, it cannot be padded or
                tiled (see `plan`), or the model's output is not finite.
        """
        image = _as_image(image)
        grid = self.plan(image.shape[:2]).grid
        if self._adjustments.strength:
            result = self._in_tiles(image, grid, number, progress, inputs)
        else:
            result = levels.to_float(image)
            for _ in range(len(grid) if progress is not None else 0):
                progress()
        result = self._adjusted(image, result, measured)
        return np.array(result) if raw else _finished(result, image.dtype)

    def _adjusted(self, image, result, measured=None) -> np.ndarray:
        """Returns a model's output as gate and adjustments change it, float32."""
        share = 1.0
        if self._gate and self._adjustments.strength:
            exposure = exposure_gate.measure(image, result)
            share = exposure.share
            if measured is not None:
                measured(exposure)
        return self._adjustments.apply(image, result, share)

    def _in_tiles(self, image, grid, number, progress, inputs) -> np.ndarray:
        """Returns the model's output for a whole image, float32 [H, W, 3]."""
        size = image.shape[:2]
        if len(grid) > 1:
            logger.info("%d x %d pixels: enhanced in %d tiles", *size, len(grid))
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
        maps = {k: self._pad(v) for k, v in inputs.items() if padding.is_map(v, size)}
        padded, variables = self._pad(image), self._local
        if len(grid) > 1 and self._shared_kernels:
            variables = variables | prepare.shared_kernels(
                self.model,
                variables,
                levels.to_float(padded),
                pixels=self._tile**2,
                inputs=inputs | maps,
            )
        structure = programs.structure(variables)
        if len(grid) > 1 and self.model.overview:
            inputs["overview"] = overviews.overview(padded, self.model.overview)

        def run(tile, window):
            whole = inputs | {name: values[window] for name, values in maps.items()}
            if "overview" in inputs:
                whole["window"] = _place(window, padded.shape[:2])
            place = (number, *(axis.start or 0 for axis in window))
            batch = self._batch([tile], [whole], [place])
            return self._run(batch, variables, structure, self._one, "shard_map")[0]

        result = tiling.apply(run, padded, grid, progress=progress)
        return padding.crop(result, size)

    def batch(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        *,
        raw: bool = False,
        numbers: Sequence[int] | None = None,
        **inputs: Sequence[np.ndarray],
    ) -> np.ndarray | list[np.ndarray]:
        """Enhances images that share one padded size, without tiles.

        With several processes, all call this together; each passes the same number of
        its own images and gets their results.

        Args:
            images: [B, H, W, 3], or a sequence of [H, W, 3]; uint8, uint16, or float in
                [0, 1].
            raw: as for a single image.
            numbers: the images' numbers, for the random keys; by default 0, 1, ...
            **inputs: further inputs of the model: one value per image, as for a single
                image.

        Returns:
            [B, H, W, 3] for an array, otherwise a list; dtypes as for a single image.

        Raises:
            TypeError, ValueError: as for a single image; or if the padded sizes or the
                dtypes differ.
        """
        given = [_as_image(image) for image in images]
        sizes = {self.padded_size(image.shape[:2]) for image in given}
        if len(sizes) != 1 or len({image.dtype for image in given}) != 1:
            raise ValueError(
                f"A batch needs images of one dtype and one padded size; these have "
                f"the padded sizes {sorted(sizes)}."
            )
        if numbers is None:
            numbers = range(len(given))
        rows = [
            {name: np.asarray(values[i]) for name, values in inputs.items()}
            for i in range(len(given))
        ]
        for row, image in zip(rows, given, strict=True):
            for name, value in row.items():
                if padding.is_map(value, image.shape[:2]):
                    row[name] = self._pad(value)
        padded = [self._pad(image) for image in given]
        places = [(number, 0, 0) for number in numbers]
        # Copies of the first image fill the batch up to a multiple of the devices.
        missing = -len(given) % len(self.mesh.local_devices)
        padded, rows, places = (
            items + items[:1] * missing for items in (padded, rows, places)
        )
        result = self._run(
            self._batch(padded, rows, places),
            self._variables,
            self._structure,
            self.mesh,
            self._mapping,
        )
        outputs = [
            self._adjusted(image, padding.crop(output, image.shape[:2]))
            for output, image in zip(result, given, strict=False)
        ]
        if not raw:
            outputs = [_finished(output, given[0].dtype) for output in outputs]
        return np.stack(outputs) if isinstance(images, np.ndarray) else outputs

    def _put(self, variables: Mapping[str, Any]) -> None:
        """Puts variables on the devices, with the cache computed from them."""
        placed = parallel.replicate(dict(variables), self.mesh)
        local = prepare.prepare(self.model, parallel.replicate(placed, self._one))
        cache = {name: local[name] for name in local.keys() - placed.keys()}
        self._variables = placed | parallel.replicate(cache, self.mesh)
        self._local = parallel.replicate(local, self._one)
        self._structure = programs.structure(self._local)

    def _pad(self, values: np.ndarray) -> np.ndarray:
        return padding.pad_to_multiple(values, self._multiple, self._pad_mode)[0]

    def _batch(self, images, rows, places) -> dict[str, Any]:
        """Returns the batch of a program; `places` are (image number, row, column)."""
        batch = {
            "image": np.stack(images),
            "inputs": {name: np.stack([row[name] for row in rows]) for name in rows[0]},
        }
        if self._rng is not None:
            batch["number"] = np.asarray(places, np.uint32)
        return batch

    def _run(self, batch, variables, structure, mesh, mapping) -> np.ndarray:
        """Returns the model's output for a batch, float32 [B, H, W, 3]."""
        program = self._program(batch, variables, structure, mesh, mapping)
        return program((variables, self._rng), batch)

    def _program(self, batch, variables, structure, mesh, mapping) -> programs.Program:
        """Returns the program for batches of this shape, from the cache or compiled."""
        step = functools.partial(_forward, self.model, self._size)
        return programs.PROGRAMS.get(
            (
                self.model,
                self._size,
                structure,
                mesh,
                mapping,
                programs.structure(batch),
            ),
            lambda: programs.Program(
                step, mesh, mapping, (variables, self._rng), batch
            ),
        )

    def _memory(self, tile: tuple[int, int]) -> int:
        """Returns the bytes that one tile needs on a device."""
        batch = self._batch([np.zeros((*tile, 3), np.uint8)], [{}], [(0, 0, 0)])
        return self._program(
            batch, self._local, self._structure, self._one, "shard_map"
        ).memory


@dataclasses.dataclass(frozen=True)
class Plan:
    """How an image is enhanced.

    Attributes:
        grid: its tiles; a single one if it is not tiled.
        enhancer: the enhancer that made the plan.
    """

    grid: tiling.Grid
    enhancer: Enhancer = dataclasses.field(repr=False)

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return len(self.grid)

    @functools.cached_property
    def memory(self) -> int:
        """Device memory for one tile in bytes, with variables; compiles the program."""
        return self.enhancer._memory(self.grid.tile)


def check_finite(image: np.ndarray, name: str = "") -> None:
    """Raises ValueError if a model's output is not finite.

    Args:
        image: the output.
        name: the image's name, for the message.
    """
    if not np.isfinite(image).all():
        raise ValueError(
            f"{name + ': the' if name else 'The'} model's output is not finite; are "
            "the weights those of a run that diverged?"
        )


def _learned(variables: Mapping[str, Any]) -> programs.Structure:
    """Returns the structure of variables without the cache computed from them."""
    return programs.structure({k: v for k, v in variables.items() if k != "cache"})


def _forward(
    model: Model, size: tuple[int, int] | None, constants: Any, batch: Mapping[str, Any]
) -> jax.Array:
    """Returns the model's output, float32 [B, H, W, 3], on one device.

    Args:
        model: the model.
        size: (height, width) to resize images to; None keeps their own.
        constants: variables, and the random key's data or None.
        batch: `image` [B, H, W, 3], `inputs` and, with a key, `number` [B, 3]: the
            image's number, and the first row and column of its tile.
    """
    variables, rng = constants
    image, given = jax.tree.map(levels.to_float, (batch["image"], batch["inputs"]))
    own_size = image.shape[1:3]
    if size is not None:
        given = model.native_inputs(image) | given
        image, given = jax.tree.map(
            lambda x: resize_bilinear(x, size) if x.ndim == 4 else x, (image, given)
        )
    if rng is None:
        output = model.apply(variables, image, **given).image
    else:

        def sample(row):
            one, inputs, number = row
            key = jax.random.wrap_key_data(rng)
            for part in number:
                key = jax.random.fold_in(key, part)
            rngs = {
                stream: jax.random.fold_in(key, zlib.crc32(stream.encode()))
                for stream in model.test_streams
            }
            one, inputs = jax.tree.map(lambda x: x[None], (one, inputs))
            return model.apply(variables, one, rngs=rngs, **inputs).image[0]

        # One by one, so that an image's result does not depend on its batch.
        output = jax.lax.map(sample, (image, given, batch["number"]))
    output = output.astype(jnp.float32)
    return output if size is None else resize_bilinear(output, own_size)


def _place(window: tuple[slice, slice], size: tuple[int, int]) -> np.ndarray:
    """Returns where a tile lies in its photo, see `overviews.window`."""
    runs = (np.arange(axis.start, axis.stop)[None] for axis in window)
    return overviews.window(*runs, np.array([size]))[0]


def _finished(result: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns a model's output checked, clipped, and as integers if `dtype` is."""
    check_finite(result)
    if dtype in (np.uint8, np.uint16):
        return levels.quantize(result, 8 * dtype.itemsize)
    return np.clip(result, 0, 1)


def _as_image(image: np.ndarray) -> np.ndarray:
    """Returns an RGB image as uint8, uint16 or float32; raises if it is not one."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(
            f"`image` has shape {image.shape}; expected one RGB image [H, W, 3]."
        )
    if image.dtype in (np.uint8, np.uint16):
        return image
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"`image` is {image.dtype}; expected uint8, uint16, or float in [0, 1]."
        )
    highest = image.max()
    # Resampling may overshoot a little; 8-bit values in a float array never stay below.
    if not np.isfinite(highest) or highest > 2:
        raise ValueError(
            f"The highest value of `image` is {highest:g}; floats are in [0, 1] "
            "(divide 8-bit values by 255)."
        )
    return image.astype(np.float32, copy=False)
