"""Release files: `.safetensors` with flat names and facts about the weights.

Names are `params/...` and `<collection>/...`; the metadata holds the model's spec.
Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from llie_jax import files, messages, registry
from llie_jax.models.base import card, variable_shapes
from llie_jax.types import Pretrained
from llie_jax.weights import plausible
from llie_jax.weights.fit import check_fit, check_names, flat, shapes

FOLDER_VARIABLE = "LLIE_JAX_WEIGHTS"


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
    """Writes a release file atomically.

    Equal arguments give equal bytes. Parts that only training needs are dropped, see
    `Model.for_inference`.

    Args:
        path: the file, `.safetensors`.
        spec: the model's spec.
        variables: `{collection: tree of arrays}`.
        trained_on: the training data.
        protocol: how `score` was computed.
        score: metric name to value.
        licence: licence of the weights.
        **metadata: further facts; values other than strings are stored as JSON.

    Raises:
        ValueError: if the variables do not match the model, or `path` has another
            suffix.
    """
    from llie_jax import __version__

    path = files.path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"A release file ends in .safetensors, not {path.name!r}.")
    spec = registry.complete_spec(spec)
    model = registry.build(spec)
    check_fit(variables, model, "The variables")
    tensors = {name: np.asarray(value) for name, value in flat(variables).items()}
    released = model.for_inference()
    if released != model:
        spec, kept = registry.spec_of(released), flat(variable_shapes(released))
        tensors = {name: value for name, value in tensors.items() if name in kept}
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
    """Writes arrays and metadata to a file atomically.

    Args:
        path: the file.
        tensors: flat names to arrays.
        metadata: values other than strings are stored as JSON.
    """
    path = files.path(path)
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
    """Returns the known published checkpoints, `model.dataset` -> record."""
    measured = _measured()
    return {
        f"{model}.{key}": dataclasses.replace(
            record, measured=measured.get(f"{model}.{key}", {})
        )
        for model in registry.list_models()
        for key, record in card(model).weights.items()
    }


def recognise(source_sha256: str) -> Pretrained | None:
    """Returns the published checkpoint that a release file was converted from.

    Args:
        source_sha256: as its metadata has it, one hash for each official file.
    """
    found = {*source_sha256.split(", ")}
    for record in published().values():
        if {record.sha256, *record.parts.values()} == found:
            return record
    return None


@functools.cache
def _measured() -> dict[str, dict[str, float]]:
    """Returns the scores that `llie-jax verify --json` wrote at the last check."""
    file = pathlib.Path(__file__).with_name("verified.json")
    return {each["name"]: each["measured"] for each in json.loads(file.read_text())}


def locate(name: str) -> pathlib.Path | None:
    """Returns the local release file of a published name, None if there is none."""
    for folder in _folders():
        if (path := folder / f"{name}.safetensors").is_file():
            return path
    return None


def is_release(path: str | os.PathLike) -> bool:
    """Returns whether a file is a release of a model, and not official tensors."""
    path = files.path(path)
    if not path.is_file():
        return False
    try:
        return "spec" in ReleaseFile(path).metadata
    except ValueError:  # not a safetensors file, or a damaged one
        return False


def file_sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file in hexadecimal, as `sha256sum` prints it."""
    with files.path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class ReleaseFile:
    """A `.safetensors` file.

    Attributes:
        path: the file.
        source: what it is: "file", "shipped" (with the package), or "published"
            (converted from an official checkpoint).
    """

    path: pathlib.Path
    source: str = "file"

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        local = files.local_copy(self.path)
        with local.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > plausible.MAX_HEADER:
            raise ValueError(
                f"{self.path} is damaged or not a safetensors file (its header would "
                f"have {length:,} bytes)."
            )
        try:
            with safetensors.safe_open(local, framework="numpy") as file:
                yield file
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{self.path} is damaged or not a safetensors file ({error})."
            ) from None

    @property
    def metadata(self) -> dict[str, str]:
        """The facts in the file's header; values other than strings are JSON."""
        with self._open() as file:
            return file.metadata() or {}

    @property
    def spec(self) -> dict[str, Any]:
        """The complete spec of the model, which asks for no more than the tensors."""
        try:
            text, shapes = self.metadata["spec"], list(self._shapes().values())
            return registry.complete_spec(plausible.parse(text, shapes))
        except (KeyError, json.JSONDecodeError):
            raise ValueError(
                f"{self.path} does not name its model (metadata `spec`). "
                "Convert official checkpoints with `llie-jax convert`."
            ) from None
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path} holds a model that this version cannot build: {error}"
            ) from None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each array, from the header."""
        with self._open() as file:
            return {
                name: tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118 - not a dict, not iterable
            }

    def tensors(self, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the arrays of a model, given its names and shapes."""
        where = f"The arrays of {self.path}"
        check_names(self._shapes(), shapes(expected), where)
        with self._open() as file:
            return {name: file.get_tensor(name) for name in expected}

    def describe(self) -> dict[str, Any]:
        """Describes the weights, see `llie_jax.weights.describe`."""
        return {
            "source": self.source,
            "path": str(self.path),
            "spec": self.spec,
            "weights_sha256": file_sha256(self.path),
            "step": None,
            "averaged": False,
            "metadata": self.metadata,
        }


def find_published(name: str, record: Pretrained) -> ReleaseFile:
    """Returns the converted file of a published checkpoint, after checking it."""
    path = locate(name)
    if path is None:
        folder = _folders()[0]
        # Test options, for example, cannot be inferred from the tensors.
        fields = {key: value for key, value in record.spec.items() if key != "name"}
        option = f" --spec '{json.dumps(fields)}'" if fields else ""
        official = (record.file, *record.parts)
        raise FileNotFoundError(
            f"{name} is not on this machine. Get {messages.listed(official)} from "
            f"{record.origin} ({record.licence}), then run `llie-jax convert "
            f"{' '.join(official)} {folder / name}.safetensors{option}`. "
            f"({FOLDER_VARIABLE} sets another folder.)"
        )
    file = ReleaseFile(path, source="published")
    if file.spec != registry.complete_spec(record.spec):
        raise ValueError(f"{path} holds {file.spec}, but {name} is {record.spec}.")
    # One hash for each official file.
    sha256 = file.metadata.get("source_sha256", "")
    if record.sha256 is None:
        warnings.warn(
            f"The hash of the official {record.file} is not recorded, so {path} is "
            "checked by names and shapes only.",
            stacklevel=3,
        )
    elif not {record.sha256, *record.parts.values()} <= {*sha256.split(", ")}:
        raise ValueError(
            f"{path} was converted from a file with the SHA-256 {sha256}, but the "
            f"official {record.file} has "
            f"{', '.join([record.sha256, *record.parts.values()])}. Download it again "
            f"from {record.origin}."
        )
    return file


def _folders() -> list[pathlib.Path]:
    """Returns the folders to search for release files of published checkpoints."""
    folders = [pathlib.Path("~/.cache/llie_jax").expanduser()]
    if folder := os.environ.get(FOLDER_VARIABLE):
        folders.insert(0, files.path(folder).expanduser())
    return folders
