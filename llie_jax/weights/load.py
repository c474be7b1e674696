"""Weights by name, file or run: release files, and the model of a run.

A release file is a `.safetensors` file with flat names `params/...` and
`<collection>/...`, whose metadata holds the model's spec. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from llie_jax import files, messages, registry
from llie_jax.messages import listed
from llie_jax.models.shapes import variable_shapes
from llie_jax.types import Pretrained
from llie_jax.weights.fit import check_fit, check_names, flat, shapes

FOLDER_VARIABLE = "LLIE_JAX_WEIGHTS"
_PICKLED = (".pth", ".pt", ".ckpt", ".pkl")

# The layout of a run's folder, which `llie_jax.training` writes.
CONFIG = "config.json"
CHECKPOINTS = "checkpoints"


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
    tensors = source.tensors(flat(variable_shapes(model)))
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

    The same arguments give the same bytes. What serves training only is left out where
    the model says what that is (its fact `release`).

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
    check_fit(variables, registry.build(spec), "The variables")
    if release := registry.get(spec["name"]).facts.get("release"):
        spec, variables = release(spec, variables)
    tensors = {name: np.asarray(value) for name, value in flat(variables).items()}
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
        for key, record in registry.get(model).facts.get("weights", {}).items()
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
            check_names(found, shapes(expected), f"The arrays of {self.path}")
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
    """One checkpoint of a run."""

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

    def _read(self, expected: Mapping[str, Any]):
        # Imported here: it takes seconds, which release files need not wait for.
        from llie_jax.weights.store import Store

        with Store(self.folder) as store:
            return store.read(expected, step=self.step)

    def tensors(self, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return self._read(expected).tensors

    def describe(self) -> dict[str, Any]:
        spec = self.spec
        found = self._read(flat(variable_shapes(registry.build(spec))))
        return {
            "source": "run",
            "path": str(self.folder / str(found.step)),
            "spec": spec,
            "weights_sha256": _digest(found.tensors),
            "step": found.step,
            "averaged": found.averaged,
            "metadata": found.metrics,
        }


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


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns a SHA-256 over names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
