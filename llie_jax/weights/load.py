"""Weights by name, file or run: release files, and the model of a run.

A release file is a `.safetensors` file with flat names `params/...` and
`<collection>/...`, whose metadata holds the model's spec. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from flax import linen as nn
from flax import traverse_util

from llie_jax import files, messages, registry
from llie_jax.messages import listed
from llie_jax.models.base import card, variable_shapes
from llie_jax.types import Pretrained

FOLDER_VARIABLE = "LLIE_JAX_WEIGHTS"
_PICKLED = (".pth", ".pt", ".ckpt", ".pkl")

# The layout of a run's folder, which `llie_jax.training` writes.
CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
STATE = "state"  # the item of a checkpoint that holds the train state
METRIC = "psnr"  # the validation score that chooses the best checkpoint


def load(
    weights: str | os.PathLike, *, step: int | str = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a model and its variables.

    Args:
        weights: a `.safetensors` file, a run's workdir, a checkpoint folder inside one,
            or a published name as `llie-jax models` lists them.
        step: which checkpoint of a run: "best" (highest validation PSNR, the latest if
            none was recorded), "latest", or a step. Averaged weights (EMA) are taken
            where the run keeps them.

    Raises:
        FileNotFoundError: if there is nothing of that name, or its file is to be
            fetched first; the message says how.
        ValueError: if the file is damaged, or does not fit its model (names and shapes
            are listed).
    """
    source = _find(weights, step)
    model = registry.build(source.spec)
    tensors = source.tensors(_flat(variable_shapes(model)))
    tensors = {name: jnp.asarray(value) for name, value in tensors.items()}
    return model, traverse_util.unflatten_dict(tensors, sep="/")


def describe(weights: str | os.PathLike, *, step: int | str = "best") -> dict[str, Any]:
    """Returns what is known about weights, for score files and reports.

    Args:
        weights: as in `load`.
        step: as in `load`.

    Returns:
        `weights` as given, `source` ("file", "run" or "published"), `path`, `spec`,
        `weights_sha256` (of the file; of names and arrays for a run), `step` (None for
        files), `averaged` (whether these are EMA weights) and `metadata` (of the file,
        or the metrics of the checkpoint).

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    source = _find(weights, step)
    return {"weights": os.fspath(weights), **source.describe()}


def save(
    path: str | os.PathLike,
    spec: registry.Spec,
    variables: Mapping[str, Any],
    *,
    trained_on: str = "",
    protocol: str = "",
    score: Mapping[str, float] | None = None,
    licence: str = "",
    **metadata: Any,
) -> None:
    """Writes a release file; it is complete or absent.

    The same arguments give the same bytes. What only training needs is left out, see
    `Model.for_inference`.

    Args:
        path: the file, `.safetensors`.
        spec: the model's spec.
        variables: `{collection: tree of arrays}`.
        trained_on: the training data.
        protocol: how `score` was computed.
        score: metric name to value.
        licence: licence of the weights.
        **metadata: further facts; what is not a string is stored as JSON.

    Raises:
        ValueError: if the variables are not those of the model, or `path` has another
            suffix.
    """
    from llie_jax import __version__

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"A release file ends in .safetensors, not {path.name!r}.")
    spec = registry.complete_spec(spec)
    model = registry.build(spec)
    check_fit(variables, model, "The variables")
    released = model.for_inference()
    if released != model:
        spec, kept = registry.spec_of(released), _flat(variable_shapes(released))
        flat = {name: value for name, value in _flat(variables).items() if name in kept}
        variables = traverse_util.unflatten_dict(flat, sep="/")
    tensors = {name: np.asarray(value) for name, value in _flat(variables).items()}
    facts = {
        "spec": spec,
        "llie_jax_version": __version__,
        "trained_on": trained_on,
        "protocol": protocol,
        "score": score or {},
        "licence": licence,
        **metadata,
    }
    write_safetensors(path, tensors, facts)


def check_fit(
    variables: Mapping[str, Any], model: nn.Module, where: str, *, missing: str = ""
) -> None:
    """Checks that variables are those of a model.

    Args:
        variables: `{collection: tree of arrays}`.
        model: the model.
        where: what the variables are, to begin the message with.
        missing: pattern of names that may be missing, such as `*/reallocate/*`.

    Raises:
        ValueError: listing all names and shapes that differ.
    """
    found = _shapes(_flat(variables))
    expected = {
        name: shape
        for name, shape in _shapes(_flat(variable_shapes(model))).items()
        if name in found or not fnmatch.fnmatchcase(name, missing)
    }
    _check(found, expected, where)


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> None:
    """Writes arrays and metadata; the file is complete or absent.

    Args:
        path: the file.
        tensors: flat names to arrays.
        metadata: what is not a string is stored as JSON.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `ascontiguousarray`, which gives a scalar an axis.
    blob = safetensors.numpy.save(
        {name: np.asarray(value, order="C") for name, value in tensors.items()}
    )
    # The library writes metadata in random order; equal weights need equal hashes.
    end = 8 + int.from_bytes(blob[:8], "little")
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    header = json.dumps({"__metadata__": texts, **json.loads(blob[8:end])}).encode()
    header += b" " * (-len(header) % 8)
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(blob[end:])


def published() -> dict[str, Pretrained]:
    """Returns the published checkpoints that are known, `model.dataset` to record."""
    return {
        f"{model}.{key}": record
        for model in registry.list_models()
        for key, record in card(model).weights.items()
    }


def locate(name: str) -> pathlib.Path | None:
    """Returns the local release file of a published name, None if there is none."""
    for folder in _folders():
        if (path := folder / f"{name}.safetensors").is_file():
            return path
    return None


def file_sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file in hexadecimal, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class _ReleaseFile:
    """A `.safetensors` file; with `name`, that of a published checkpoint."""

    path: pathlib.Path
    name: str | None = None

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with safetensors.safe_open(self.path, framework="numpy") as file:
                yield file
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{self.path} is damaged, or no safetensors file ({error})."
            ) from None

    @property
    def metadata(self) -> dict[str, str]:
        with self._open() as file:
            return file.metadata() or {}

    @property
    def spec(self) -> dict[str, Any]:
        try:
            return registry.complete_spec(json.loads(self.metadata["spec"]))
        except (KeyError, json.JSONDecodeError):
            raise ValueError(
                f"{self.path} does not name its model (metadata `spec`). "
                "Official checkpoints become release files with `llie-jax convert`."
            ) from None
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path} holds a model that this version cannot build: {error}"
            ) from None

    def tensors(self, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
        with self._open() as file:
            found = {
                name: tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118 - not a dict, not iterable
            }
            _check(found, _shapes(expected), f"The arrays of {self.path}")
            return {name: file.get_tensor(name) for name in expected}

    def describe(self) -> dict[str, Any]:
        return {
            "source": "published" if self.name else "file",
            "path": str(self.path),
            "spec": self.spec,
            "weights_sha256": file_sha256(self.path),
            "step": None,
            "averaged": False,
            "metadata": self.metadata,
        }


@dataclasses.dataclass(frozen=True)
class _Run:
    """One checkpoint of a run.

    The layout is that of `llie_jax.training.checkpoint`: `config.json` with the spec
    under `model`, and below `checkpoints` the steps of an Orbax `CheckpointManager`
    with the train state as the item `state` and the validation scores as its metrics.
    """

    config: pathlib.Path
    folder: pathlib.Path
    step: int | str

    @property
    def spec(self) -> dict[str, Any]:
        try:
            return registry.complete_spec(json.loads(self.config.read_text())["model"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(
                f"{self.config} is no configuration of a run: no spec under `model`."
            ) from None

    def tensors(self, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return self._restore(expected)["tensors"]

    def describe(self) -> dict[str, Any]:
        spec = self.spec
        restored = self._restore(_flat(variable_shapes(registry.build(spec))))
        return {
            "source": "run",
            "path": str(self.folder / str(restored["step"])),
            "spec": spec,
            "weights_sha256": _digest(restored.pop("tensors")),
            **restored,
        }

    def _restore(self, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Reads the weights alone: neither the optimizer nor what EMA replaces."""
        # Imported here: it takes seconds, which release files need not wait for.
        import orbax.checkpoint as ocp

        # By default Orbax waits for all processes; this one may be reading alone.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        handlers = {
            STATE: ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
            "metrics": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
        with _quiet():
            options = ocp.CheckpointManagerOptions(
                read_only=True, multiprocessing_options=alone
            )
            manager = ocp.CheckpointManager(
                self.folder.absolute(), options=options, item_handlers=handlers
            )
        with contextlib.closing(manager):
            steps = sorted(manager.all_steps())
            metrics = {step: manager.metrics(step) or {} for step in steps}
            step = self._choose(metrics)
            with self._readable(step, steps):
                saved = manager.item_metadata(step)[STATE].tree
            params = "ema_params" if saved.get("ema_params") else "params"
            places = {
                name: (params, *name.split("/")[1:])
                if name.startswith("params/")
                else ("collections", *name.split("/"))
                for name in expected
            }
            found = {"params": saved[params], **(saved.get("collections") or {})}
            _check(
                _shapes(_flat(found)),
                _shapes(expected),
                f"The arrays of {self.folder / str(step)}",
            )
            wanted = {place: expected[name] for name, place in places.items()}
            as_numpy = dict.fromkeys(wanted, ocp.RestoreArgs(restore_type=np.ndarray))
            with self._readable(step, steps):
                state = manager.restore(
                    step,
                    args=ocp.args.Composite(
                        **{
                            STATE: ocp.args.PyTreeRestore(
                                traverse_util.unflatten_dict(wanted),
                                restore_args=traverse_util.unflatten_dict(as_numpy),
                                partial_restore=True,
                            )
                        }
                    ),
                )[STATE]
        state = traverse_util.flatten_dict(state)
        return {
            "tensors": {name: state[place] for name, place in places.items()},
            "step": step,
            "averaged": params == "ema_params",
            "metadata": metrics[step],
        }

    def _choose(self, metrics: Mapping[int, Mapping[str, float]]) -> int:
        """Returns the step to read, given the metrics of those that exist."""
        if not metrics:
            raise FileNotFoundError(f"{self.folder} holds no checkpoint yet.")
        scored = {
            step: values[METRIC]
            for step, values in metrics.items()
            if not math.isnan(values.get(METRIC, math.nan))
        }
        if self.step == "best" and scored:
            return max(scored, key=scored.get)
        if self.step in ("best", "latest"):
            return max(metrics)
        if self.step not in metrics:
            raise ValueError(
                f"{self.folder} has no checkpoint of step {self.step!r}. Steps: "
                f"{listed(list(metrics))}; or 'best', 'latest'."
            )
        return self.step

    @contextlib.contextmanager
    def _readable(self, step: int, steps: list[int]) -> Iterator[None]:
        """Turns whatever Orbax raises for a damaged checkpoint into one clear line."""
        try:
            yield
        except Exception as error:
            others = [other for other in steps if other != step]
            reason = str(error).partition(" [tensorstore_spec")[0]
            raise ValueError(
                f"The checkpoint {self.folder / str(step)} cannot be read "
                f"({type(error).__name__}: {reason}). Other steps: {listed(others)}."
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from warning that what is opened for reading is read-only."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _find(weights: str | os.PathLike, step: int | str) -> _ReleaseFile | _Run:
    """Returns where the weights are."""
    path = pathlib.Path(weights).expanduser()
    if path.is_dir():
        return _find_run(path, step)
    if path.suffix.lower() in _PICKLED:
        raise ValueError(
            f"{path} is a PyTorch file, which is never unpickled here. Run "
            f"`llie-jax convert {path} {path.with_suffix('.safetensors').name}` and "
            "give what it writes."
        )
    if path.is_file():
        return _ReleaseFile(path)
    known = published()
    if str(weights) in known:
        return _find_published(str(weights), known[str(weights)])
    raise FileNotFoundError(
        f"There is no file, folder or published name {str(weights)!r}."
        f"{messages.suggest(str(weights), known)} Published: {listed(list(known))}."
    )


def _find_run(path: pathlib.Path, step: int | str) -> _Run:
    """Returns the run that `path` is, or is inside of."""
    if (path / CHECKPOINTS).is_dir():
        workdir = path
    elif path.name.isdecimal():
        workdir, step = path.absolute().parent.parent, int(path.name)
    else:
        workdir = path.absolute().parent
    config, folder = workdir / CONFIG, workdir / CHECKPOINTS
    if not (config.is_file() and folder.is_dir()):
        raise FileNotFoundError(
            f"{path} is no run and not inside one: expected are {CONFIG} and "
            f"{CHECKPOINTS}/ in a workdir, or a folder of that {CHECKPOINTS}/."
        )
    return _Run(config, folder, step)


def _find_published(name: str, record: Pretrained) -> _ReleaseFile:
    """Returns the converted file of a published checkpoint, once it is checked."""
    path = locate(name)
    if path is None:
        folder = _folders()[0]
        # Test options, for example, cannot be told from the tensors.
        fields = {key: value for key, value in record.spec.items() if key != "name"}
        option = f" --spec '{json.dumps(fields)}'" if fields else ""
        raise FileNotFoundError(
            f"{name} is not on this machine. Get {record.file} from {record.origin} "
            f"({record.licence}), then run `llie-jax convert {record.file} "
            f"{folder / name}.safetensors{option}`. (Another folder: "
            f"{FOLDER_VARIABLE}.)"
        )
    file = _ReleaseFile(path, name)
    if file.spec != registry.complete_spec(record.spec):
        raise ValueError(f"{path} holds {file.spec}, but {name} is {record.spec}.")
    sha256 = file.metadata.get("source_sha256")
    if record.sha256 is None:
        warnings.warn(
            f"The hash of the official {record.file} is not recorded, so {path} is "
            "checked by names and shapes only.",
            stacklevel=3,
        )
    elif sha256 != record.sha256:
        raise ValueError(
            f"{path} was converted from a file with the SHA-256 {sha256}, but the "
            f"official {record.file} has {record.sha256}. Get it again from "
            f"{record.origin}."
        )
    return file


def _folders() -> list[pathlib.Path]:
    """Returns where release files of published checkpoints are looked for."""
    folders = [pathlib.Path("~/.cache/llie_jax").expanduser()]
    if folder := os.environ.get(FOLDER_VARIABLE):
        folders.insert(0, pathlib.Path(folder).expanduser())
    return folders


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _check(
    found: Mapping[str, tuple], expected: Mapping[str, tuple], where: str
) -> None:
    """Raises ValueError with all differences in names and shapes, if there are any."""
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    differing = [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if missing or unknown or differing:
        raise ValueError(
            f"{where} do not fit the model. Unknown names: {listed(unknown)}. Missing "
            f"names: {listed(missing)}. Other shapes: {listed(differing)}."
        )


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a SHA-256 over names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
