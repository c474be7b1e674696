"""How much of a model matters: layers are reset, and the images compared.

A layer is a module that the model's card names, by patterns over paths:
`attention_layers`, `feed_forward_layers`, and `unused_layers` whose results nobody
reads. To reset a layer is to draw its parameters again as they were drawn before
training.

Source: Li et al., Rethinking Model Redundancy for Low-light Image Enhancement,
arXiv 2412.16459, Sections 3 and 5.2.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from llie_jax import messages, metrics
from llie_jax.inference import padding
from llie_jax.metrics import dmr
from llie_jax.models.base import variable_shapes

KINDS = ("attention", "feed_forward")

REALLOCATE = "reallocate"
"""The submodule that belongs to an attention but not to the backbone."""

_PSNR = "rgb_uint8"  # that of the default protocol
_SIDE = 64  # of the crops whose gradients are taken, in pixels


def layers(
    model: nn.Module, kind: str = "attention", pattern: str | None = None
) -> list[str]:
    """Returns the paths of a model's layers of one kind, in the order they are run.

    Args:
        model: the model.
        kind: one of `KINDS`.
        pattern: keeps the layers whose path fits, such as `latent/*`; for a model that
            is not registered with layers, all modules whose path fits.

    Raises:
        ValueError: if no layer is left.
    """
    if kind not in KINDS:
        raise ValueError(
            f"Unknown kind {kind!r}.{messages.suggest(kind, KINDS)} Use one of {KINDS}."
        )
    card, paths = model.card(), _run_modules(model)
    known = {
        "attention": card.attention_layers,
        "feed_forward": card.feed_forward_layers,
    }
    known = known[kind] or (() if pattern is None else ("*",))
    unused = card.unused_layers
    found = [path for path in paths if _fits(path, known) and not _fits(path, unused)]
    chosen = [path for path in found if pattern is None or _fits(path, (pattern,))]
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no {kind} layer"
            + (f" that fits {pattern!r}" if pattern else "")
            + f". Layers: {messages.listed(found, limit=8)}."
        )
    return chosen


def _run_modules(model: nn.Module) -> list[str]:
    """Returns the paths of all modules with parameters, in the order they are run."""
    found = {}  # a dict keeps the order

    def record(call, args, kwargs, context):
        module = context.module
        if module.path and module.variables.get("params"):
            found["/".join(module.path)] = None
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, model.multiple, model.multiple, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(model.apply, variable_shapes(model), image)
    return list(found)


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def reset(
    model: nn.Module,
    params: Mapping[str, Any],
    chosen: Sequence[str],
    *,
    seed: int,
    backbone_only: bool = False,
) -> dict[str, Any]:
    """Returns parameters in which some layers are drawn again.

    Each layer has a key of its own, made of the seed and the layer's place in the
    model, so that a layer gets the same values whichever others are reset.

    Args:
        model: the model.
        params: its parameters.
        chosen: paths of the layers.
        seed: of the draws.
        backbone_only: leaves the parameters of ADR in an attention as they are.
    """
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    places = {path: place for place, path in enumerate(_all_layers(model))}
    for path in chosen:
        key = jax.random.fold_in(jax.random.key(seed), places.get(path, len(places)))
        fresh = traverse_util.flatten_dict(_initial(model, key), sep="/")
        for name, value in fresh.items():
            inside = name.startswith(f"{path}/")
            if inside and not (backbone_only and REALLOCATE in name.split("/")):
                flat[name] = value
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.lru_cache(maxsize=4)
def _all_layers(model: nn.Module) -> tuple[str, ...]:
    found = []
    for kind in KINDS:
        try:
            found += layers(model, kind)
        except ValueError:  # a model without layers of that kind
            continue
    return tuple(found)


@functools.partial(jax.jit, static_argnums=0)
def _initial(model: nn.Module, rng: jax.Array) -> dict[str, Any]:
    side = model.multiple
    return model.init(rng, jnp.zeros((1, side, side, 3)))["params"]


@dataclasses.dataclass(frozen=True)
class Change:
    """What resetting layers did, image by image.

    Attributes:
        layers: the layers that were reset.
        seed: of the draws.
        psnr: PSNR of each image after the reset, in dB.
        degeneration: `metrics.dmr.degeneration` of each image, in dB.
    """

    layers: tuple[str, ...]
    seed: int
    psnr: tuple[float, ...]
    degeneration: tuple[float, ...]


class Study:
    """A model, the images it is studied on, and what it makes of them.

    Attributes:
        names: of the images.
        psnr: PSNR of each image by the model as trained, in dB.

    Args:
        model: the model.
        variables: its variables.
        source: the pairs, see `llie_jax.data.open_source`.
        max_images: the first so many pairs only.
        backbone_only: see `reset`.
        advance: called after each image.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        source,
        *,
        max_images: int | None = None,
        backbone_only: bool = False,
        advance: Callable[[], None] = lambda: None,
    ):
        self.model, self.backbone_only, self._advance = model, backbone_only, advance
        self._rest = {
            k: v for k, v in variables.items() if k not in ("params", "cache")
        }
        self.params = variables["params"]
        count = len(source) if max_images is None else min(max_images, len(source))
        if count < 1:
            raise ValueError(f"{source.name} {source.split} holds no images to study.")
        self._records = [source[index] for index in range(count)]
        self.names = [record["name"] for record in self._records]
        self._outputs = list(self._run(self.params))
        self.psnr = self._scores(self._outputs)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables as trained."""
        return {"params": self.params, **self._rest}

    def _run(self, params, apply=None) -> Iterable[np.ndarray]:
        """Yields the image [H, W, 3] of each record, clipped."""
        enhance = _enhancer(apply or self.model.apply)
        for record in self._records:
            image = record["image"]
            padded, _ = padding.pad_to_multiple(
                image, self.model.multiple, self.model.pad_mode
            )
            variables = {"params": params, **self._rest}
            output = np.asarray(enhance(variables, padded[None])[0])
            if not np.isfinite(output).all():
                raise ValueError(f"{record['name']}: the model's output is not finite.")
            yield padding.crop(output, image.shape[:2])
            self._advance()

    def _scores(self, outputs) -> list[float]:
        return [
            metrics.compute(_PSNR, output, record["target"])
            for output, record in zip(outputs, self._records, strict=True)
        ]

    def reset(self, chosen: Sequence[str], *, seed: int) -> Change:
        """Returns what resetting layers does."""
        params = reset(
            self.model, self.params, chosen, seed=seed, backbone_only=self.backbone_only
        )
        outputs = list(self._run(params))
        return Change(
            tuple(chosen),
            seed,
            tuple(self._scores(outputs)),
            tuple(map(dmr.degeneration, self._outputs, outputs)),
        )

    def replaced(self, params: Mapping[str, Any]) -> list[float]:
        """Returns the PSNR of each image with other parameters, in dB."""
        return self._scores(list(self._run(params)))

    def with_apply(self, apply: Callable[..., Any]) -> list[float]:
        """Returns the PSNR of each image with another `model.apply`, in dB."""
        return self._scores(list(self._run(self.params, apply)))

    def gradients(self, source, count: int = 4) -> list[dict[str, Any]]:
        """Returns gradients of the L1 loss, one for the middle of each of some pairs.

        Args:
            source: training pairs; evenly spread ones are taken.
            count: how many pairs.

        Raises:
            ValueError: if an image is smaller than the model's `multiple`.
        """
        gradient, multiple, found = _gradient(self.model), self.model.multiple, []
        for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)):
            record = source[int(index)]
            window = []
            for length in record["image"].shape[:2]:
                side = min(max(_SIDE, multiple), length) // multiple * multiple
                if not side:
                    raise ValueError(
                        f"{record['name']} has a side of {length} pixels; gradients "
                        f"need {multiple}."
                    )
                window.append(slice((length - side) // 2, (length + side) // 2))
            pair = (record[key][tuple(window)][None] for key in ("image", "target"))
            grads = gradient(self.params, self._rest, *pair)
            found.append(jax.tree.map(np.asarray, grads))
        return found

    def kernels(self) -> dict[str, np.ndarray]:
        """Returns each generated kernel of all images: path -> [images, values].

        Raises:
            ValueError: if the model generates none.
        """
        check_generates(self.model)
        found: dict[str, list[np.ndarray]] = {}
        for record in self._records:
            padded, _ = padding.pad_to_multiple(
                record["image"], self.model.multiple, self.model.pad_mode
            )
            written = _generated(self.model, self.variables, padded[None])
            flat = traverse_util.flatten_dict(written, sep="/")
            for path, kernel in flat.items():
                found.setdefault(path, []).append(np.ravel(kernel))
            self._advance()
        return {path: np.stack(kernels) for path, kernels in found.items()}


def check_generates(model: nn.Module) -> None:
    """Raises ValueError if a model generates no kernels."""
    image = jax.ShapeDtypeStruct((1, model.multiple, model.multiple, 3), np.uint8)
    run = functools.partial(_generated, model)
    if not jax.eval_shape(run, variable_shapes(model), image):
        raise ValueError(
            f"{type(model).__name__} generates no kernels; that takes a model with ADR "
            "in its slot `reallocate`."
        )


@functools.lru_cache(maxsize=4)
def _enhancer(apply: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Returns the jitted `(variables, uint8 [1, H, W, 3]) -> image`, clipped."""

    @jax.jit
    def run(variables, image):
        image = image.astype(jnp.float32) / 255
        return jnp.clip(apply(variables, image).image, 0, 1)

    return run


@functools.lru_cache(maxsize=4)
def _gradient(model: nn.Module) -> Callable[..., Any]:
    """Returns the jitted gradient of the L1 loss on an 8-bit pair."""

    def loss(params, rest, image, target):
        image, target = (x.astype(jnp.float32) / 255 for x in (image, target))
        output = model.apply({"params": params, **rest}, image).image
        return jnp.mean(jnp.abs(output - target))

    return jax.jit(jax.grad(loss))


@functools.partial(jax.jit, static_argnums=0)
def _generated(model, variables, image):
    image = image.astype(jnp.float32) / 255
    return model.apply(variables, image, mutable=["kernels"])[1].get("kernels", {})


def kernel_variation(kernels: np.ndarray) -> float:
    """Returns how much the kernels of different images differ, relatively.

    The mean over ordered pairs of images of |P(x) - P(y)| / |P(x)|; 0 is a kernel that
    has degenerated to a static one.

    Args:
        kernels: one kernel of all images, [images, values].

    Raises:
        ValueError: if there are fewer than two images.
    """
    count = len(kernels)
    if count < 2:
        raise ValueError(f"Kernels are compared between images; there is {count}.")
    kernels = kernels.astype(np.float64)
    length = np.linalg.norm(kernels, axis=1)
    # From inner products of deviations: little memory, and nothing large cancels.
    kernels = kernels - kernels.mean(0)
    products = kernels @ kernels.T
    squares = np.diag(products)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    ratio = distance / np.maximum(length, 1e-30)[:, None]
    return float(ratio.sum() / (count * (count - 1)))


def compare_kernels(study: Study) -> dict[str, Any]:
    """Returns how generated kernels differ between images, and maps of them.

    Returns:
        `kernels`, path -> `kernel_variation`; `kernel_variation`, their mean; `maps`,
        path -> [images, values], in the order of `names`.
    """
    maps = study.kernels()
    variation = {path: kernel_variation(kernels) for path, kernels in maps.items()}
    return {
        "kernels": variation,
        "kernel_variation": float(np.mean(list(variation.values()))),
        "names": study.names,
        "maps": maps,
    }


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of the reset studies.

    Attributes:
        names: of the images.
        psnr: of each image, model as trained, in dB.
        layers: changes by one layer at a time, all seeds: kind -> changes.
        groups: changes by all layers of a kind at once, all seeds: kind -> changes.
    """

    names: Sequence[str]
    psnr: Sequence[float]
    layers: Mapping[str, Sequence[Change]]
    groups: Mapping[str, Sequence[Change]]

    def summary(self) -> dict[str, Any]:
        """Returns all numbers, as a JSON file holds them."""
        return {
            "definitions": {"dmr": dmr.DMR, "poi": dmr.POI, "psnr": _PSNR},
            "images": dict(zip(self.names, self.psnr, strict=True)),
            "psnr": float(np.mean(self.psnr)),
            "dmr": {kind: _dmr(changes) for kind, changes in self.layers.items()},
            "layers": {
                kind: {
                    layer: self._effect([c for c in changes if c.layers == (layer,)])
                    for layer in dict.fromkeys(c.layers[0] for c in changes)
                }
                for kind, changes in self.layers.items()
            },
            "reset": {
                kind: {
                    **self._effect(changes),
                    "poi": [dmr.poi(self.psnr, change.psnr) for change in changes],
                    "layers": len(changes[0].layers),
                    "images": {
                        name: values
                        for name, *values in zip(
                            self.names, *(c.psnr for c in changes), strict=True
                        )
                    },
                }
                for kind, changes in self.groups.items()
            },
        }

    def _effect(self, changes: Sequence[Change]) -> dict[str, Any]:
        """Returns the change of the mean PSNR and the degeneration, by seed."""
        return {
            "psnr_change": [
                float(np.mean(c.psnr) - np.mean(self.psnr)) for c in changes
            ],
            "degeneration": [float(np.mean(c.degeneration)) for c in changes],
            "seeds": [c.seed for c in changes],
        }


def _dmr(changes: Sequence[Change]) -> dict[str, Any]:
    """Returns DMR, and its values by seed."""
    seeds = sorted({change.seed for change in changes})
    by_seed = [
        float(np.mean([c.degeneration for c in changes if c.seed == seed]))
        for seed in seeds
    ]
    return {
        "value": float(np.mean(by_seed)),
        "by_seed": by_seed,
        "deviation": float(np.std(by_seed, ddof=1)) if len(seeds) > 1 else None,
        "layers": len({change.layers for change in changes}),
    }


def run(
    study: Study,
    kinds: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int],
    one_by_one: bool = True,
    together: bool = True,
) -> Result:
    """Resets layers one at a time, and all of a kind together.

    Args:
        study: model and images.
        kinds: kind -> layers.
        seeds: of the draws.
        one_by_one: resets single layers, for DMR.
        together: resets all layers of a kind, for POI.
    """
    return Result(
        study.names,
        study.psnr,
        layers={
            kind: [study.reset([layer], seed=s) for s in seeds for layer in chosen]
            for kind, chosen in kinds.items()
            if one_by_one
        },
        groups={
            kind: [study.reset(chosen, seed=seed) for seed in seeds]
            for kind, chosen in kinds.items()
            if together
        },
    )
