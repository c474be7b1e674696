"""Stands in for the official code, which has channels before rows and columns."""

import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

WEIGHTS = ["random", pytest.param("published", marks=pytest.mark.slow)]
"""Parameters of a fixture that calls `read_golden`."""


def read_golden(request, name: str, published: str):
    """Returns the tensors of an official state dict, and the arrays that belong to it.

    Args:
        request: of a fixture whose parameter is one of `WEIGHTS`: random weights need
            only the project, published ones the folder beside it.
        name: of the golden file with random weights, `NAME_random.npz`.
        published: name of that with published weights.
    """
    if request.param == "published":
        folder = request.getfixturevalue("shared") / "golden"
        return split_golden(folder / f"{published}.npz")
    folder = request.getfixturevalue("golden")
    _, arrays = split_golden(folder / f"{name}_random.npz")
    return random_tensors(folder / f"{name}_keys.json", int(arrays["seed"])), arrays


def split_golden(path):
    """Returns the tensors of a golden file and its other arrays."""
    with np.load(path) as file:
        arrays = dict(file)
    tensors = {k[6:]: arrays.pop(k) for k in list(arrays) if k.startswith("param:")}
    return tensors, arrays


def nhwc(array) -> jax.Array:
    """Returns an array [B, C, H, W] as [B, H, W, C]."""
    return jnp.asarray(np.moveaxis(array, 1, -1))


def random_tensors(path, seed: int) -> dict[str, np.ndarray]:
    """Returns random tensors for an official state dict.

    Files need not hold them: a seed and a key give the same float32 values everywhere
    (NumPy promises that of the bits of its generators, not of its distributions).

    Args:
        path: JSON of the keys and their shapes.
        seed: the seed of all tensors.
    """
    shapes = json.loads(path.read_text())
    return {key: _random_tensor(key, shape, seed) for key, shape in shapes.items()}


def _random_tensor(key, shape, seed) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    bits = np.random.PCG64([seed, zlib.crc32(key.encode())]).random_raw(
        math.prod(shape)
    )
    values = (bits >> np.uint64(40)).astype(np.float32).reshape(shape) / 2**23 - 1
    if len(shape) > 1:  # keeps the variance of what it multiplies
        return values * np.float32(math.sqrt(3 / math.prod(shape[1:])))
    scale = key.endswith(("weight", "running_var"))
    return values * np.float32(0.3) + np.float32(scale)
