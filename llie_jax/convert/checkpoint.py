"""Reads checkpoint files, and finds the tensors inside them."""

import argparse
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

# Keys that may hold the tensors, in order of preference: authors evaluate the averaged
# weights.
_NESTS = (
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
)
_DATA_PARALLEL = "module."


def read_checkpoint(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch checkpoint file by their state-dict keys.

    A pickled file (`.pth`, `.pt`, `.ckpt`) is read with `weights_only=True`, which
    never runs code from the file; this needs the extra `torch`. Besides tensors it may
    hold the options of a command line, an `argparse.Namespace`. `.safetensors` files do
    not need PyTorch.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if PyTorch is needed and not installed.
        ValueError: if the file cannot be read, or contains no tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if path.suffix.lower() == ".safetensors":
        try:
            return state_dict(safetensors.numpy.load_file(path))
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{path} is not a valid safetensors file: {error}"
            ) from None
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"Reading {path.name} needs PyTorch: pip install 'llie-jax[torch]'."
        ) from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} contains Python objects besides tensors, or is no checkpoint; "
            "objects are never executed here. If you trust the file, load it in "
            "PyTorch and save only its state dict."
        ) from None
    except Exception as error:  # PyTorch has no specific error for damaged files
        raise ValueError(
            f"{path} cannot be read as a PyTorch checkpoint "
            f"({type(error).__name__}: {error})."
        ) from error
    return state_dict(loaded)


def state_dict(checkpoint: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the tensors of a loaded checkpoint, by the keys of the bare model.

    Looks inside `params`, `state_dict` and similar keys, and strips the prefix
    `module.` of models trained with data parallelism. Where such a key holds the state
    dicts of several networks, the name of each is a prefix: `model_R.conv1.weight`.

    Raises:
        ValueError: if there are no tensors.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            "A checkpoint is a mapping from keys to tensors; got a "
            f"{type(checkpoint).__name__}."
        )
    for key in _NESTS:
        if isinstance(checkpoint.get(key), Mapping):
            return state_dict(_flat(checkpoint[key]))
    strays = [key for key, value in checkpoint.items() if not hasattr(value, "shape")]
    if strays or not checkpoint:
        raise ValueError(
            f"The checkpoint contains {_some(checkpoint)}; not a tensor: "
            f"{_some(strays)}. Expected tensors by key, or such a mapping under one "
            f"of: {', '.join(_NESTS)}."
        )
    tensors = {key: _to_numpy(value) for key, value in checkpoint.items()}
    if all(key.startswith(_DATA_PARALLEL) for key in tensors):
        tensors = {key[len(_DATA_PARALLEL) :]: value for key, value in tensors.items()}
    return tensors


def _flat(networks: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the tensors of several networks, if there are several."""
    names = [key for key in networks if key not in _NESTS]
    if not names or not all(isinstance(networks[name], Mapping) for name in names):
        return networks
    return {
        f"{name}.{key}": value
        for name in names
        for key, value in networks[name].items()
    }


def _to_numpy(tensor):
    """Returns an array; half precision becomes float32, as NumPy lacks bfloat16."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
    return np.asarray(tensor)


def _some(keys, limit=6):
    shown = [repr(key) for key in list(keys)[:limit]]
    return ", ".join(shown) + (", ..." if len(keys) > limit else "") or "nothing"
