"""The schema of all experiments, with defaults that train on a laptop or a pod.

A recipe is a file whose `get_config(**arguments)` starts from `get_config()` here,
changes what it needs and returns the config. The config is locked, so a misspelt key
fails in the file. A recipe does not check its config: the caller changes values with
`override`, then calls `check`, which completes all specs and freezes the config.
"""

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict, FrozenConfigDict

import llie_jax.models  # noqa: F401  registers what specs name
from llie_jax import messages, optimizers, registry, schedules
from llie_jax.data import catalogue, mixture, pipeline
from llie_jax.losses import weighted
from llie_jax.models.base import card

RANGES = {
    "seed": (0, 2**32),
    "data.validation.fraction": (0.0, 1.0),
    "data.validation.seed": (0, 2**63),
    "data.device_limit_mb": (0, 10**9),
    "data.workers": (1, 1024),
    "ema.decay": (0.0, 1.0),
    "max_skipped": (0, 10**9),
    "accumulate": (1, 10**6),
    "spike.factor": (0.0, 1e9),
    "spike.window": (2, 10**6),
    "spike.max_rollbacks": (1, 10**6),
    "log.every_steps": (1, 10**9),
    "log.watchdog_seconds": (0.0, 1e7),
    "evaluate.every_steps": (1, 10**9),
    "evaluate.strip_images": (0, 1000),
    "checkpoint.every_steps": (1, 10**9),
}
"""Key -> its lowest value, and what it must be below. Parts check their own fields."""

STAGE_RANGES = {
    "steps": (1, 10**9),
    "patch_size": (1, 2**16),
    "patch_width": (0, 2**16),
    "batch_size": (1, 10**6),
}
"""The same for the keys of each stage."""

MAPPINGS = ("shard_map", "pmap")
NONFINITE = ("stop", "skip")
SELECT_ON = ("held_out", "test")

LOL = Literal["lol_v1", "lol_v2_real", "lol_v2_syn"]
"""The data sets of most recipes."""

LOL_OR_PHOTOS = Literal["lol_v1", "lol_v2_real", "lol_v2_syn", "image_folder"]
"""The data sets of recipes that need no references; they ignore those of LOL."""

NOT_IN_CONFIGS = ("metric",)
"""Kinds of parts that configs do not name."""

SHARED = {
    "optimizer": tuple(f.name for f in dataclasses.fields(optimizers.Optimizer)),
    "schedule": tuple(f.name for f in dataclasses.fields(schedules.Schedule)),
}
"""Fields that all parts of a kind share; `override` keeps their values."""

OPEN_TABLES = (
    "config.model",
    "config.data.mixture",
    "config.stages",
    "config.loss.terms",
    "config.optimizer",
    "config.schedule",
)
"""Tables whose keys a user or a part defines; their entries are checked separately."""


def spec(name: str, kind: str | None = None, **fields: Any) -> ConfigDict:
    """Returns the complete spec of a part, locked.

    Args:
        name: the registered name of a model, loss term, optimizer, schedule, or part
            of a slot.
        kind: only needed if parts of several kinds have that name.
        **fields: values that differ from the part's defaults. A loss term also takes
            `on`, `weight` and more, see `llie_jax.losses.weighted`.

    Raises:
        ValueError: for an unknown name or field, naming the nearest known one, or an
            ambiguous name without `kind`.
    """
    if kind is None:
        known = [each for each in registry.kinds() if each not in NOT_IN_CONFIGS]
        found = [each for each in known if name in registry.names(each)]
        if len(found) > 1:
            raise ValueError(
                f"{name!r} names parts of the kinds {' and '.join(found)}; choose one, "
                f"for example spec({name!r}, kind={found[0]!r})."
            )
        if not found:
            names = [each for kind in known for each in registry.names(kind)]
            raise ValueError(
                f"There is no part {name!r}.{messages.suggest(name, names)} "
                f"Registered: {', '.join(names)}."
            )
        kind = found[0]
    return _table(_complete({"name": name, **fields}, kind))


def sized(name: str, size: str) -> ConfigDict:
    """Returns the complete spec of a model at one of its registered sizes.

    Raises:
        ValueError: for an unknown model or size, listing the sizes.
    """
    sizes = card(name).sizes
    if size not in sizes:
        raise ValueError(
            f"{name!r} has no size {size!r}.{messages.suggest(size, sizes)} "
            f"Sizes: {messages.listed(sizes)}."
        )
    return spec(name, kind="model", **sizes[size])


def training_pairs(data: str) -> int:
    """Returns the published number of training pairs, for recipes that count epochs.

    Raises:
        ValueError: for an unknown set, or one without a published number.
    """
    counts = catalogue.get(data).counts
    if "train" not in counts:
        known = [name for name, each in catalogue.DATASETS.items() if each.counts]
        raise ValueError(
            f"The recipe counts epochs, but {data!r} has no published number of "
            f"training pairs. Sets with one: {', '.join(known)}."
        )
    return counts["train"]


def _complete(values: registry.Spec, kind: str) -> dict[str, Any]:
    """Returns a spec with every plain field filled in."""
    if kind == "loss":
        return weighted.complete_term(values)
    return registry.complete_spec(values, kind=kind)


def _table(values: Mapping[str, Any]) -> ConfigDict:
    """Returns values as a locked ConfigDict, with lists from JSON as tuples.

    Assignment does not lock, so lock a table before assigning it to a locked config.
    """

    def convert(value):
        if isinstance(value, ConfigDict):
            value = value.to_dict()
        if isinstance(value, Mapping):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return tuple(convert(item) for item in value)
        return value

    table = ConfigDict(convert(values))
    table.lock()
    return table


def get_config() -> ConfigDict:
    """Returns the schema with its defaults, locked."""
    config = ConfigDict(
        dict(
            seed=0,
            model=spec("darkir"),
            # Initial weights, anything that `llie_jax.load` reads; "": random.
            init_from="",
            # Parameters that they may lack, such as "*/reallocate/*"; "": none.
            init_missing="",
            data=dict(
                # `size`: height and width to which training images are resized; (0, 0)
                # keeps their size. Held-out images always keep theirs.
                train=dict(name="lowlight_demo", root="", split="train", size=(0, 0)),
                # With train.name="mixture": a table for each of its sets, see
                # `llie_jax.data.mixture.Part`, under a label that logs show.
                mixture=dict(),
                # What chooses the best checkpoint. `select_on`: "held_out", a part of
                # the training split, held out by whole scenes; or "test", the test
                # split, as in many papers, whose scores are then marked.
                validation=dict(select_on="held_out", fraction=0.1, seed=0),
                augment=dict(
                    flip_horizontal=True,
                    flip_vertical=True,
                    rotate=False,
                    # Parameter of the Beta distribution; 0.0 turns mixtures off.
                    mixup=0.0,
                    # Lowest and highest exponent of the image.
                    gamma=(1.0, 1.0),
                    # Share of the records whose image is made of their target by a
                    # sensor model, and the range of its exposures.
                    relight=0.0,
                    exposures=(0.02, 1.0),
                ),
                # Where decoded images live: "device", "host", or "auto": on the device
                # if they take at most `device_limit_mb`.
                residence="auto",
                device_limit_mb=1024,
                workers=2,
            ),
            # Run in order; each compiles once. batch_size is the global batch size.
            # Crops are square, of patch_size; a patch_width above 0 sets another width.
            stages=dict(
                s0=dict(steps=1000, patch_size=128, batch_size=8, patch_width=0)
            ),
            loss=dict(terms=dict(pixel=spec("l1"))),
            # See `llie_jax.optimizers` and `llie_jax.schedules` for the parts and their
            # fields.
            optimizer=spec("adamw", learning_rate=5e-4, b2=0.9, weight_decay=1e-3),
            schedule=spec("cosine", kind="schedule"),
            # Decay of the averaged weights, which are evaluated and released; 0.0: off.
            ema=dict(decay=0.0),
            parallel="shard_map",
            # Parts of a device's batch that are computed one after the other. Batch
            # norms see one part at a time.
            accumulate=1,
            # Patterns of modules whose activations are computed again for the gradient
            # instead of kept: "*/block_*", "encoder_0,decoder_2"; "": none. See
            # `llie_jax.training.remat`.
            remat="",
            # Splits the optimizer's state over the devices (ZeRO-1).
            shard_optimizer=False,
            # If the loss is not finite: "stop" the run, or "skip" the step, at most
            # `max_skipped` times.
            nonfinite="stop",
            max_skipped=20,
            # A loss of more than `factor` times the median of the last `window` goes
            # back to the newest checkpoint and leaves out the steps since then, at most
            # `max_rollbacks` times; 0.0: off.
            spike=dict(factor=0.0, window=100, max_rollbacks=3),
            # `wandb`: project of Weights & Biases, "" for none. `watchdog_seconds`:
            # prints the stacks of all threads if no step ends for that long; 0.0: off.
            log=dict(every_steps=20, wandb="", watchdog_seconds=1800.0),
            evaluate=dict(every_steps=500, strip_images=3),
            checkpoint=dict(every_steps=500),
        )
    )
    config.lock()
    return config


def add_lfpv(
    config: ConfigDict,
    *,
    weight: float = 1.0,
    shared: Sequence[str] = ("pixel",),
    **fields: Any,
) -> ConfigDict:
    """Wraps the model of a recipe in LFPV, and returns the config.

    The recipe's loss terms, renamed to `backbone_TERM`, apply to the backbone's output
    without the bank. A new term `lfpv_TERM` is a `shared` term on the output with the
    bank.

    Source: the paper's loss has two terms; the authors' code shows which of them has
    perceptual parts.

    Args:
        config: the recipe; it has all `shared` terms.
        weight: lambda, a factor on the weight of the new terms; the authors' code uses
            1.
        shared: terms that apply to both outputs. Models that learn without references
            need more than one.
        **fields: fields of the model `lfpv`.

    Raises:
        ValueError: if a shared term does not exist.
    """
    terms = config.loss.terms.to_dict()
    for name in shared:
        if name not in terms:
            raise ValueError(
                f"LFPV applies the loss term {name!r} to its output; the terms are "
                f"{', '.join(terms)}."
            )
    found = {}
    for name, term in terms.items():
        root, _, leaf = term["on"].partition(".")
        paths = {"image": "aux.backbone_image", "aux": f"aux.backbone_{leaf}"}
        moved = {"on": paths.get(root, term["on"])}
        if term["against"].startswith("aux."):
            moved["against"] = term["against"].replace("aux.", "aux.backbone_", 1)
        found[f"backbone_{name}"] = {**term, **moved}
    for name in shared:
        term = terms[name]
        found[f"lfpv_{name}"] = {**term, "weight": weight * term["weight"]}
    config.loss.terms = _table(found)
    config.model = spec("lfpv", backbone=config.model.to_dict(), **fields)
    return config


def override(
    config: ConfigDict,
    changes: Mapping[str, Any],
    read: Callable[[str, Any, Any], Any] = lambda key, value, like: value,
) -> None:
    """Changes values by their dotted keys, in any order.

    A name replaces a part: "sgd" for the key `optimizer` or `optimizer.name`. Fields
    that all parts of a kind share (an optimizer's learning rate, a loss term's `on`)
    keep their values; other fields of the new part have their defaults unless `changes`
    sets them.

    Args:
        config: an experiment that is not checked yet; changed in place.
        changes: key -> value.
        read: converts an entry of `changes`, `(key, value, like) -> value`; `like` is
            the present value.

    Raises:
        ValueError: for an unknown key or part, naming the nearest known one.
        TypeError: for a value of another type.
    """
    _complete_stages(config)
    _complete_mixture(config)
    changes = dict(changes)
    paths = {key: key.removesuffix(".name") for key in changes}
    for key in sorted(changes, key=lambda key: paths[key].count(".")):
        named = isinstance(changes.get(key), str)  # absent if an outer part took it
        if named and (kind := kind_at(config, paths[key])):
            _replace_part(config, paths[key], kind, changes.pop(key), changes, read)
    known = flatten(config)
    for key, value in changes.items():
        path, _, last = key.rpartition(".")
        if key not in known:
            inside = [each for each in known if each.startswith(f"{key}.")]
            if inside:
                raise ValueError(
                    f"config.{key} is a table; set one of {', '.join(inside)}."
                )
            if kind_at(config, path):
                table = _at(config, path)
                fields = [each for each in table if each != "name"]
                raise ValueError(
                    f"config.{path} is {table.name!r}, which has no field {last!r}."
                    f"{messages.suggest(last, fields)} Fields: {', '.join(fields)}."
                )
            raise ValueError(
                f"Unknown key config.{key}.{messages.suggest(key, known)} "
                "llie_jax/configs/base.py explains the keys."
            )
        table = _at(config, path)
        table[last] = read(key, value, table[last])


def kind_at(config: ConfigDict, path: str) -> str:
    """Returns the kind of the part at a dotted key, "" if there is no part."""
    try:
        table = _at(config, path)
    except (KeyError, AttributeError, TypeError):
        return ""
    if not isinstance(table, ConfigDict):
        return ""
    match path.split("."):
        case ["model"] | ["optimizer"] | ["schedule"]:
            return path
        case ["model", *above, field]:
            above = ".".join(["model", *above])
            part = registry.get(_at(config, above).name, kind=kind_at(config, above))
            return registry.slot_kind(part.fields()[field])
        case ["loss", "terms", _]:
            return "loss"
        case ["loss", "terms", _, "weight"]:
            return "weight_schedule"
    return ""


def _replace_part(
    config: ConfigDict,
    path: str,
    kind: str,
    name: str,
    changes: dict[str, Any],
    read: Callable[[str, Any, Any], Any],
) -> None:
    """Replaces the part at a path, and removes its fields from `changes`."""
    old = _at(config, path).to_dict()
    if name == old["name"]:
        return
    own, fields = (
        registry.get(each, kind=kind).fields() for each in (old["name"], name)
    )
    shared = SHARED.get(kind, ())
    new = {
        key: value
        for key, value in old.items()
        if key != "name" and (key in shared or key not in own)
    }
    for field, default in fields.items():
        key, required = f"{path}.{field}", default is inspect.Parameter.empty
        # Slots and models inside models are tables, which their own names replace.
        if key in changes and (required or _is_plain(default)):
            new[field] = read(key, changes.pop(key), None if required else default)
    parent, _, last = path.rpartition(".")
    _at(config, parent)[last] = _table(_complete({"name": name, **new}, kind))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | tuple)


def check(config: ConfigDict) -> FrozenConfigDict:
    """Returns the config completed, checked and frozen, without reading the data.

    A frozen config has already been checked and is returned unchanged.

    Raises:
        TypeError, ValueError: naming the key, its value, and what is accepted.
    """
    if isinstance(config, FrozenConfigDict):
        return config
    return FrozenConfigDict(_checked(config))


def _checked(config: ConfigDict) -> ConfigDict:
    """Returns a complete copy of a config."""
    config = _table(config)
    _check_keys(config, get_config())
    for key in ("model", "optimizer", "schedule"):
        config[key] = _table(_complete(config[key].to_dict(), key))
    optimizers.build(config.optimizer.to_dict())  # checks the values
    schedules.build(config.schedule.to_dict())

    terms = config.loss.terms.to_dict()
    if not terms:
        raise ValueError("config.loss.terms is empty; give at least one loss term.")
    config.loss.terms = _table(
        {name: weighted.complete_term(term) for name, term in terms.items()}
    )
    stages = config.stages.to_dict()
    if not stages:
        raise ValueError("config.stages is empty; give at least a stage s0.")
    _complete_stages(config)
    for name, stage in config.stages.items():
        _check_keys(stage, get_config().stages.s0, f"config.stages.{name}")
        for key, (low, high) in STAGE_RANGES.items():
            value = stage[key]
            if type(value) is not int or not low <= value < high:
                raise ValueError(
                    f"config.stages.{name}.{key} is {value!r}; give a whole number "
                    f"of at least {low}, below {high:,}."
                )
    _complete_mixture(config)
    if config.data.train.name == mixture.NAME or config.data.mixture:
        mixture.parse(config.data.mixture.to_dict())
    if config.data.validation.select_on == "test":
        _check_test_split(config.data.train)
    size = tuple(config.data.train.size)
    if size != (0, 0) and not (
        len(size) == 2
        and all(isinstance(side, int) and 0 < side <= 2**16 for side in size)
    ):
        raise ValueError(
            f"config.data.train.size is {size}; give (height, width) in pixels, or "
            "(0, 0) to keep the images' size."
        )
    for key, options in (
        ("parallel", MAPPINGS),
        ("nonfinite", NONFINITE),
        ("data.residence", pipeline.RESIDENCES),
        ("data.validation.select_on", SELECT_ON),
    ):
        value = _at(config, key)
        if value not in options:
            raise ValueError(
                f"config.{key} is {value!r}.{messages.suggest(value, options)} "
                f"Accepted: {', '.join(options)}."
            )
    for key, (low, high) in RANGES.items():
        value = _at(config, key)
        if isinstance(value, bool) or not low <= value < high:  # NaN fails too
            raise ValueError(
                f"config.{key} is {value}; give {low} or more, below {high:,}."
            )
    for key, value in flatten(config).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"config.{key} is {number}; give a finite number.")
    return config


def _check_test_split(train: ConfigDict) -> None:
    """Raises ValueError if no checkpoint can be selected on a test split."""
    if train.name == mixture.NAME:
        raise ValueError(
            "config.data.validation.select_on is 'test', but a mixture has no test "
            "split; use 'held_out'."
        )
    if train.split == "test":
        raise ValueError(
            "config.data.train.split is 'test', the split that "
            "config.data.validation.select_on names; train on another."
        )


def _complete_stages(config: ConfigDict) -> None:
    stages = config.stages.to_dict()
    config.stages = _table(
        {name: {"patch_width": 0, **stage} for name, stage in stages.items()}
    )


def _complete_mixture(config: ConfigDict) -> None:
    fields = {
        field.name: field.default
        for field in dataclasses.fields(mixture.Part)
        if field.default is not dataclasses.MISSING
    }
    table = config.data.mixture.to_dict()
    completed = {label: fields | part for label, part in table.items()}
    config.data.mixture = _table(completed)


def title(model: Mapping[str, Any] | ConfigDict) -> str:
    """Returns the names of a model and its backbone, such as "lfpv on snr_net"."""
    tables = [
        value for value in model.values() if isinstance(value, Mapping | ConfigDict)
    ]
    inside = [each for each in tables if each.get("name") in registry.list_models()]
    return " on ".join([model["name"], *map(title, inside)])


def total_steps(config: ConfigDict) -> int:
    """Returns the total number of steps of all stages."""
    return sum(stage.steps for stage in config.stages.values())


def from_json(text: str) -> FrozenConfigDict:
    """Returns the checked config that `to_json` wrote.

    Keys that are missing, because the text predates them, have their defaults.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: if the text is not JSON, or
            has keys of another version.
    """
    values = json.loads(text)
    config = get_config()
    with config.unlocked():
        # Tables whose keys users or parts define are replaced, not merged.
        config.model, config.stages, config.loss.terms = {}, {}, {}
        config.data.mixture = {}
        config.optimizer, config.schedule = {}, {}
        config.update(_table(values))
    return check(config)


def to_json(config: ConfigDict) -> str:
    """Returns the complete config as JSON text."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Flattens a config to dotted key -> value."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{key}.{k}": v for k, v in flatten(value).items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _at(config: ConfigDict, key: str) -> Any:
    """Returns the value at a dotted key, or the whole config for ""."""
    for part in filter(None, key.split(".")):
        config = config[part]
    return config


def _check_keys(config, schema, where: str = "config") -> None:
    """Raises ValueError if schema and config do not have the same keys."""
    for key in config:
        if key not in schema:
            raise ValueError(
                f"Unknown key {where}.{key}.{messages.suggest(key, schema)} "
                f"Known: {', '.join(schema)}."
            )
    for key, value in schema.items():
        if key not in config:
            raise ValueError(f"{where}.{key} is missing.")
        path = f"{where}.{key}"
        if isinstance(value, ConfigDict) and path not in OPEN_TABLES:
            _check_keys(config[key], value, path)
