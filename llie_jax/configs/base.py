"""The schema of all experiments, with defaults that train on a laptop or a pod.

An experiment file starts from `get_config()`, which is locked: only known keys can be
set. It returns `check(config)`, which looks up every named part, fills in the part's
own defaults, and locks the whole again.
"""

import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

import llie_jax.models  # noqa: F401  registers what specs name
from llie_jax import messages, registry
from llie_jax.data import pipeline
from llie_jax.losses import weighted

MAPPINGS = ("shard_map", "pmap")
NONFINITE = ("stop", "skip")

OPEN_TABLES = ("config.model", "config.stages", "config.loss.terms")
"""Tables whose keys a user chooses; their entries are checked one by one."""


def spec(name: str, **fields: Any) -> ConfigDict:
    """Returns the complete spec of a model, a layer or a loss term.

    Args:
        name: the registered name.
        **fields: values that differ from the part's defaults. A loss term also takes
            `on`, `weight` and `resize`, see `llie_jax.losses.weighted`.

    Raises:
        ValueError: for an unknown name or field, naming the nearest known one.
    """
    given = {"name": name, **fields}
    if name in registry.names("loss"):
        return _config(weighted.complete_term(given))
    kind = "layer" if name in registry.names("layer") else "model"
    return _config(registry.complete_spec(given, kind=kind))


def _config(values: Mapping[str, Any]) -> ConfigDict:
    """Returns values as a ConfigDict that flags can override: they know no lists."""

    def convert(value):
        if isinstance(value, Mapping):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return tuple(convert(item) for item in value)
        return value

    return ConfigDict(convert(values))


def get_config() -> ConfigDict:
    """Returns the schema with its defaults, locked."""
    config = ConfigDict(
        dict(
            seed=0,
            model=spec("darkir"),
            # Weights to begin with, whatever `llie_jax.load` reads; "": a fresh start.
            init_from="",
            # Parameters that they may lack, such as "*/reallocate/*"; "": none.
            init_missing="",
            data=dict(
                # `size`: all pairs are resized to this height and width for training;
                # (0, 0) keeps their own. Held-out images always keep theirs.
                train=dict(name="lowlight_demo", root="", split="train", size=(0, 0)),
                # Held out of the training split, whole scenes at a time.
                validation=dict(fraction=0.1, seed=0),
                augment=dict(
                    flip_horizontal=True,
                    flip_vertical=True,
                    rotate=False,
                    # Parameter of the Beta distribution; 0.0 mixes no pairs.
                    mixup=0.0,
                    # Lowest and highest exponent of the image.
                    gamma=(1.0, 1.0),
                ),
                # Where decoded images live: on the "device", on the "host", or "auto":
                # on the device if they take at most `device_limit_mb`.
                residence="auto",
                device_limit_mb=1024,
                workers=2,
            ),
            # Run one after the other; each compiles once. batch_size is the global one.
            # Crops are square, of patch_size, or patch_width wide if that is not 0.
            stages=dict(
                s0=dict(steps=1000, patch_size=128, batch_size=8, patch_width=0)
            ),
            loss=dict(terms=dict(pixel=spec("l1"))),
            optimizer=dict(
                name="adamw",
                learning_rate=5e-4,
                b1=0.9,
                b2=0.9,
                eps=1e-8,
                weight_decay=1e-3,
                # Parameters without weight decay. The rows of ADR's embeddings count by
                # direction only; decay would shorten them until gradients explode.
                no_decay=("*/embedding",),
                # Parameters that are not trained, such as "backbone/*".
                frozen=(),
                # Parameters whose rate is multiplied by `factor`; "": none.
                scaled=dict(parameters="", factor=1.0),
                # Largest global norm of the gradient; 0.0 does not clip.
                clip_norm=0.0,
            ),
            # "cosine": the rate falls to `final_rate` over all steps. It changes every
            # `hold_steps` steps (papers that schedule by epoch: steps per epoch).
            # "cosine_periods": periods of these relative lengths, each from
            # `learning_rate` to its own rate.
            # "steps": the rate is multiplied by `factor` at each of `boundaries`,
            # shares of all steps: (0.25, 0.5) of 1000 are the steps 250 and 500.
            schedule=dict(
                name="cosine",
                warmup_steps=0,
                final_rate=1e-6,
                hold_steps=1,
                periods=(1.0,),
                period_rates=(1e-6,),
                boundaries=(0.5,),
                factor=0.5,
            ),
            # Decay of the averaged weights, the ones evaluated and released; 0.0: none.
            ema=dict(decay=0.0),
            parallel="shard_map",
            # A loss that is not finite: "stop" the run, or "skip" the step, at most
            # `max_skipped` times.
            nonfinite="stop",
            max_skipped=20,
            log=dict(every_steps=20),
            evaluate=dict(every_steps=500, strip_images=3),
            checkpoint=dict(every_steps=500),
        )
    )
    config.lock()
    return config


def _replace(config: ConfigDict, key: str, value) -> None:
    """Replaces a sub-dict of a locked config whole."""
    with config.unlocked():
        config[key] = _config(value)


def add_lfpv(config: ConfigDict, *, weight: float = 1.0, **fields: Any) -> ConfigDict:
    """Returns the config of a backbone's experiment with LFPV around the host, checked.

    The host's loss terms, now named `backbone_TERM`, stay on what it makes without the
    bank. The term `lfpv_pixel` is the term `pixel` on what it makes with the bank.

    Source: the paper's loss of two terms; which of them has perceptual parts is from
    the authors' code.

    Args:
        config: the backbone's experiment, whose terms one is named `pixel`.
        weight: lambda, how much `lfpv_pixel` counts; the authors' code has 1.
        **fields: of the model `lfpv`.

    Raises:
        ValueError: if no term is named `pixel`.
    """
    terms = config.loss.terms.to_dict()
    if "pixel" not in terms:
        raise ValueError(
            "LFPV takes the backbone's loss term 'pixel' for what the bank adds; the "
            f"terms are {', '.join(terms)}."
        )
    pixel = terms["pixel"]
    found = {}
    for name, term in terms.items():
        part, _, leaf = term["on"].partition(".")
        where = {"image": "aux.backbone_image", "aux": f"aux.backbone_{leaf}"}
        found[f"backbone_{name}"] = {**term, "on": where.get(part, term["on"])}
    found["lfpv_pixel"] = {**pixel, "weight": weight * pixel["weight"]}
    _replace(config, "model", spec("lfpv", backbone=config.model.to_dict(), **fields))
    _replace(config.loss, "terms", found)
    return check(config)


def check(config: ConfigDict) -> ConfigDict:
    """Completes all specs, checks what can be checked without data, and locks.

    Raises:
        ValueError: naming the key, its value, and what is accepted.
    """
    _replace(config, "model", registry.complete_spec(config.model.to_dict()))
    terms = {
        name: weighted.complete_term(term)
        for name, term in config.loss.terms.to_dict().items()
    }
    if not terms:
        raise ValueError("config.loss.terms is empty; give at least one loss term.")
    _replace(config.loss, "terms", terms)

    stages = config.stages.to_dict()
    for stage in stages.values():
        stage.setdefault("patch_width", 0)
    _replace(config, "stages", stages)

    _check_keys(config, get_config())
    if not config.stages:
        raise ValueError("config.stages is empty; give at least a stage s0.")
    for name, stage in config.stages.items():
        _check_keys(stage, get_config().stages.s0, f"config.stages.{name}")
        for key, value in stage.items():
            least = 0 if key == "patch_width" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"config.stages.{name}.{key} is {value!r}; give a whole number "
                    f"of at least {least}."
                )
    size = tuple(config.data.train.size)
    if size != (0, 0) and not (
        len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ValueError(
            f"config.data.train.size is {size}; give (height, width) in pixels, or "
            "(0, 0) to keep the images' own."
        )
    for key, options in (
        ("parallel", MAPPINGS),
        ("nonfinite", NONFINITE),
        ("data.residence", pipeline.RESIDENCES),
    ):
        value = _at(config, key)
        if value not in options:
            raise ValueError(
                f"config.{key} is {value!r}.{messages.suggest(value, options)} "
                f"Accepted: {', '.join(options)}."
            )
    for key, low, high in (
        ("ema.decay", 0.0, 1.0),
        ("data.validation.fraction", 0.0, 1.0),
    ):
        if not low <= _at(config, key) < high:
            raise ValueError(
                f"config.{key} is {_at(config, key)}; give {low} or more, below {high}."
            )
    if config.optimizer.learning_rate < 0:
        raise ValueError(
            f"config.optimizer.learning_rate is {config.optimizer.learning_rate}; give "
            "0 or more."
        )
    for key in ("log", "evaluate", "checkpoint"):
        if config[key].every_steps < 1:
            raise ValueError(
                f"config.{key}.every_steps is {config[key].every_steps}; give at "
                "least 1."
            )
    config.lock()
    return config


def total_steps(config: ConfigDict) -> int:
    """Returns the steps of all stages together."""
    return sum(stage.steps for stage in config.stages.values())


def load(path: str | os.PathLike) -> ConfigDict:
    """Returns the checked config of an experiment file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a Python file with a `get_config` function, or that
            function fails; the file is named.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        known = sorted(
            file.name
            for file in pathlib.Path(__file__).parent.glob("*.py")
            if file.stem not in ("__init__", "base")
        )
        raise FileNotFoundError(
            f"There is no config file {path}.{messages.suggest(path.name, known)} "
            f"llie_jax/configs has: {', '.join(known)}."
        )
    module_spec = importlib.util.spec_from_file_location("experiment_config", path)
    if module_spec is None:
        raise ValueError(f"{path} is not a Python file; configs are Python files.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it has no function get_config().")
        return check(module.get_config())
    except Exception as error:  # the file is the user's: whatever it raises, name it
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}: {what}{error}") from error


def from_json(text: str) -> ConfigDict:
    """Returns the checked config that `to_json` wrote."""
    config = get_config()
    with config.unlocked():
        # What users choose the keys of is replaced; the rest keeps its defaults where
        # the text is older than a key.
        config.model, config.stages, config.loss.terms = {}, {}, {}
        config.update(_config(json.loads(text)))
    return check(config)


def to_json(config: ConfigDict) -> str:
    """Returns the complete config as JSON text."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns all values by their dotted keys."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{key}.{k}": v for k, v in flatten(value).items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _at(config: ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _check_keys(config, schema, where: str = "config") -> None:
    """Raises ValueError if a key is missing from the schema, or from the config."""
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
