"""Reads checkpoint files, and finds the tensors inside them."""

import argparse
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from llie_jax import files, messages

USES = ("ema", "raw")
"""Which weights are taken if a checkpoint has both: averaged ones, or the last."""

# Keys that usually hold the tensors, in order of preference.
_NESTS = (
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "generator",
    "net_g",
)
_DEPTH = 8  # of nested mappings
_TRAINING = re.compile(r"optim|sched|scaler|amp_state|loss|hyper|rng|callbacks", re.I)
_AVERAGED = re.compile(r"(^|[_.])(ema|averaged?|avg|swa|shadow)([_.]|$)", re.I)

# What wrappers of modules add to keys: data parallelism, `torch.compile`.
_WRAPPERS = ("module.", "_orig_mod.")

# The first bytes of a file -> what it is, and what to do.
_STRANGERS = (
    (b"", "is empty: the download failed; repeat it"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: git lfs pull"),
    (b"<", "is a web page, not a checkpoint: download the file behind its link"),
    (b"{", "is JSON text, not a checkpoint"),
    (b"\x89HDF", "is an HDF5 file (Keras), not a PyTorch checkpoint"),
    (b"\x1f\x8b", "is a gzip archive: unpack it and give the checkpoint inside"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it and give the checkpoint inside"),
    (b"Rar!", "is a RAR archive: unpack it and give the checkpoint inside"),
    (b"\x89PNG", "is a picture, not a checkpoint"),
    (b"\xff\xd8\xff", "is a picture, not a checkpoint"),
    (b"%PDF", "is a PDF document, not a checkpoint"),
)


def read_checkpoint(
    path: str | pathlib.Path, *, use: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch checkpoint file by their state-dict keys.

    A pickled file (`.pth`, `.pt`, `.ckpt`) is read with `weights_only=True`, which
    never runs code from the file; this needs the extra `torch`. Besides tensors it may
    hold the options of a command line, an `argparse.Namespace`, and NumPy numbers.
    Safetensors files, recognised by their content, do not need PyTorch.

    Args:
        path: the file.
        use: see `state_dict`.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if PyTorch is needed and not installed.
        ValueError: if the file cannot be read, or contains no tensors.
    """
    path = files.path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    path = files.local_copy(path)
    with path.open("rb") as file:
        start = file.read(64)
    if path.suffix.lower() == ".safetensors" or _is_safetensors(start):
        _refuse_strangers(path, start)
        return state_dict(_load_safetensors(path), use=use)
    _refuse_strangers(path, start)
    return state_dict(_load_pickle(path), use=use)


def state_dict(
    checkpoint: Mapping[str, Any], *, use: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the tensors of a loaded checkpoint, by the keys of the bare model.

    Looks inside nested mappings, and strips what data parallelism and `torch.compile`
    add to all keys. The name of a mapping is a prefix if it names a network, and not
    the tensors in general: `model_R.conv1.weight`. A `Note` says what was left out.

    Args:
        checkpoint: tensors by key, or nested mappings of them.
        use: which weights to take if there are both: "ema", the averaged ones, which
            authors evaluate, or "raw". None takes the averaged ones and says so.

    Raises:
        ValueError: if there are no tensors, or `use` names some that are absent.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            "A checkpoint is a mapping from keys to tensors; got a "
            f"{type(checkpoint).__name__}."
        )
    if use not in (None, *USES):
        raise ValueError(f"use={use!r}; accepted: {', '.join(USES)}.")
    left_out: list[str] = []
    found = _find(checkpoint, use, left_out)
    if not found:
        raise ValueError(
            f"The checkpoint contains {_some(checkpoint)}, and no tensors by key."
        )
    if left_out:
        named = messages.listed(left_out, limit=6)
        messages.note(f"left out of the checkpoint: {named}")
    return _without_wrappers({key: _to_numpy(key, v) for key, v in found.items()})


def prefer(
    names: list[str], use: str | None, *, before: str = "", after: str = ""
) -> list[str]:
    """Returns the names of averaged or of raw weights, all names if only one is there.

    Args:
        names: keys or prefixes.
        use: see `state_dict`.
        before: what a note writes before each name.
        after: what it writes after each.
    """
    averaged = [name for name in names if _is_averaged(name)]
    raw = [name for name in names if name not in averaged]
    if not (averaged and raw):
        return names
    if use is None:
        messages.note(
            f"the checkpoint has averaged weights ({before}{averaged[0]}{after}) and "
            f"raw ones ({before}{raw[0]}{after}); the averaged ones are used (--use "
            "raw takes the others)"
        )
    return raw if use == "raw" else averaged


def _is_averaged(name: str) -> bool:
    return bool(_AVERAGED.search(name))


def _find(
    mapping: Mapping,
    use: str | None,
    left_out: list[str],
    path: str = "",
    depth: int = 0,
) -> dict[str, Any]:
    """Returns the tensors of a mapping, and adds to `left_out` what else it holds."""
    if depth > _DEPTH:
        raise ValueError(f"The checkpoint is nested deeper than {_DEPTH} mappings.")
    own = {str(key): value for key, value in mapping.items() if _is_tensor(value)}
    inner = {
        str(key): value
        for key, value in mapping.items()
        if isinstance(value, Mapping) and not _TRAINING.search(str(key))
    }
    sizes = {key: _count(value, depth + 1) for key, value in inner.items()}
    inner = {key: value for key, value in inner.items() if sizes[key]}
    if len(own) > max((sizes[key] for key in inner), default=-1):
        taken = list(own)
    else:
        taken = _choose(list(inner), use, path)
        own = {}
        for key in taken:
            found = _find(inner[key], use, left_out, f"{path}{key}.", depth + 1)
            network = len(taken) > 1 or not (key in _NESTS or _is_averaged(key))
            own |= {f"{key}.{k}" if network else k: v for k, v in found.items()}
    left_out += [f"{path}{key}" for key in map(str, mapping) if key not in taken]
    return own


def _choose(names: list[str], use: str | None, path: str) -> list[str]:
    """Returns which of several mappings of tensors to take."""
    names = prefer(names, use, before=path)
    usual = [name for name in _NESTS if name in names]
    return usual[:1] or names


def _is_tensor(value: Any) -> bool:
    # NumPy's numbers, such as a best score, have a shape too.
    found = hasattr(value, "shape") and hasattr(value, "dtype")
    return found and not isinstance(value, np.generic)


def _count(mapping: Mapping, depth: int) -> int:
    """Returns the number of tensors in a nested mapping."""
    if depth > _DEPTH:
        return 0
    return sum(
        _count(value, depth + 1) if isinstance(value, Mapping) else _is_tensor(value)
        for value in mapping.values()
    )


def _without_wrappers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Strips the wrappers that all keys share, and those of compiled submodules."""
    tensors = {key.replace("._orig_mod.", "."): value for key, value in tensors.items()}
    shared = True
    while shared:
        shared = next(
            (w for w in _WRAPPERS if all(k.startswith(w) for k in tensors)), ""
        )
        tensors = {key[len(shared) :]: value for key, value in tensors.items()}
    return tensors


def _is_safetensors(start: bytes) -> bool:
    """Returns whether a file starts like a safetensors file: a length, then JSON."""
    length = int.from_bytes(start[:8], "little")
    return len(start) > 9 and start[8:9] == b"{" and 1 < length < 100_000_000


def _refuse_strangers(path: pathlib.Path, start: bytes) -> None:
    """Raises ValueError for files of other kinds, saying which."""
    text = start.lstrip()
    for magic, words in _STRANGERS:
        if (magic and text.startswith(magic)) or (not magic and not start):
            raise ValueError(f"{path} {words}.")


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file.

    Raises:
        ValueError: if the file is damaged, or a tensor has a type without a NumPy type.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            keys = list(file.keys())
            types = {key: file.get_slice(key).get_dtype() for key in keys}
            strange = {
                key: kind for key, kind in types.items() if kind.startswith("F8")
            }
            if strange:
                raise ValueError(
                    f"{path} holds 8-bit floats ({_some(strange)}); save the weights "
                    "in float32, float16 or bfloat16."
                )
            if "BF16" not in types.values():
                return {key: file.get_tensor(key) for key in keys}
        return _load_bfloat16(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file: {error}") from None


def _load_bfloat16(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns tensors of which some are bfloat16, which NumPy lacks, as float32."""
    found = {}
    for key, entry in safetensors.deserialize(path.read_bytes()):
        if entry["dtype"] == "BF16":
            halves = np.frombuffer(entry["data"], np.uint16).astype(np.uint32)
            found[key] = (halves << 16).view(np.float32).reshape(entry["shape"])
        else:
            kind = np.dtype(_SAFETENSORS_TYPES[entry["dtype"]])
            found[key] = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    return found


_SAFETENSORS_TYPES = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "BOOL": "?"},
    **{"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"},
    **{"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1"},
}


def _load_pickle(path: pathlib.Path) -> Any:
    """Returns what a pickled checkpoint holds, without running its code."""
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"Reading {path.name} needs PyTorch: pip install 'llie-jax[torch]'."
        ) from None
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMPY]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} contains Python objects besides tensors"
            f"{f' ({named[1]})' if named else ''}, or is no checkpoint; objects are "
            "never executed here. If you trust the file, load it in PyTorch and save "
            "only its state dict."
        ) from None
    except Exception as error:  # PyTorch has no specific error for damaged files
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a PyTorch checkpoint "
            f"({type(error).__name__}: {reason}); is the download complete?"
        ) from error


# Numbers such as a best score, which many checkpoints hold.
_NUMPY = (
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np._core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
)


def _check_archive(path: pathlib.Path) -> None:
    """Raises ValueError if a ZIP archive is no checkpoint of PyTorch."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [pathlib.PurePosixPath(name).name for name in archive.namelist()]
    except Exception:  # a damaged archive, of which PyTorch says what is wrong
        return
    if "constants.pkl" in names:
        raise ValueError(
            f"{path} is a TorchScript program; load it with torch.jit.load and save "
            "its state_dict()."
        )
    if "data.pkl" not in names:
        raise ValueError(
            f"{path} is an archive with {messages.listed(names, limit=3)}, and no "
            "checkpoint: unpack it and give the checkpoint inside."
        )


def _to_numpy(key: str, tensor: Any) -> np.ndarray:
    """Returns an array; half precision becomes float32, as NumPy lacks bfloat16.

    Raises:
        ValueError: for tensors without plain values, such as quantised ones.
    """
    try:
        if hasattr(tensor, "detach"):
            tensor = tensor.detach().cpu()
            if tensor.is_floating_point() and tensor.element_size() < 4:
                tensor = tensor.float()
        return np.asarray(tensor)
    except (TypeError, RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"The tensor {key} cannot be read ({reason}); save it as a dense tensor of "
            "floats."
        ) from error


def _some(keys, limit=6):
    shown = [repr(key) for key in list(keys)[:limit]]
    return ", ".join(shown) + (", ..." if len(keys) > limit else "") or "nothing"
