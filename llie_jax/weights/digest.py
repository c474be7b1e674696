"""Digests of arrays, which tell whether they are as they were saved."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llie_jax import parallel
from llie_jax.messages import listed


def digests(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of each array of a tree, over dtype, shape and values.

    Args:
        tree: arrays of this process, or global ones; all processes must call this if
            some are split over the devices of several.

    Returns:
        Paths such as `params/first/kernel` to hexadecimal digests.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    # Sequentially: most arrays are small, so threads take longer.
    found = (_digest(leaf) for _, leaf in leaves)
    return dict(zip(names, found, strict=True))


def _digest(leaf: Any) -> str:
    value = parallel.whole(leaf)
    digest = hashlib.sha256(f"{value.dtype.name} {value.shape}\n".encode())
    digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def verify(found: Mapping[str, str], saved: Mapping[str, str | None]) -> None:
    """Raises ValueError naming the arrays whose digest differs from the saved one."""
    differing = sorted(
        name
        for name in found.keys() | saved.keys()
        if found.get(name) != saved.get(name)
    )
    if differing:
        raise ValueError(f"not as they were saved: {listed(differing)}")
