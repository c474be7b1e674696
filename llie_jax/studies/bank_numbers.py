"""Numbers of an LFPV bank: use and similarity of nodes, and the gain of images.

Source: Learnable Feature Patches and Vectors for Boosting Low-light Image Enhancement
without External Knowledge, ICCV 2025, for the split into fully fitted images and
others.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PARTS = ("fully_fitted", "not_fully_fitted")


def entropy(shares: jax.Array) -> jax.Array:
    """Returns the entropy of distributions [..., l] in bits, [...]."""
    return jnp.sum(jax.scipy.special.entr(jnp.asarray(shares)), -1) / math.log(2)


def cosine_similarity(nodes: np.ndarray) -> np.ndarray:
    """Returns the cosine of the angle between any two nodes, [l, l].

    Args:
        nodes: [l, ...]. The row of a node of zeros is 0.
    """
    flat = np.asarray(nodes, np.float64).reshape(len(nodes), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(length > 0, length, 1)
    return np.clip(flat @ flat.T, -1, 1)


def describe_nodes(nodes: jax.Array) -> dict[str, Any]:
    """Returns the number of nodes and their similarity.

    Args:
        nodes: [l, ...].

    Returns:
        `count`; `empty`, whether all are zeros; `similarity` [l, l] and its mean over
        pairs of different nodes, None where there is nothing to compare.
    """
    nodes, count = np.asarray(nodes), len(nodes)
    empty = not nodes.any()
    similarity = None if empty else cosine_similarity(nodes)
    mean = None
    if not empty and count > 1:
        others = similarity.sum() - np.trace(similarity)
        mean = float(others / (count * (count - 1)))
    return {
        "count": count,
        "empty": empty,
        "mean_similarity": mean,
        "similarity": None if empty else similarity.tolist(),
    }


def split(
    images: Mapping[str, Mapping[str, float]], fitted: float | None = None
) -> dict[str, Any]:
    """Splits images by the PSNR of the backbone alone, with the gain on both parts.

    The paper splits the training set into images that the backbone fits fully and
    others.
    Differs: the paper's criterion is unknown; here it is a PSNR.

    Args:
        images: name -> `backbone`, `bank`, `gain` and `difference`.
        fitted: PSNR of the backbone, in dB, from which an image counts as fully fitted;
            by default the median.

    Returns:
        `threshold` in dB, `is_median`, and for each of `PARTS` the number of `images`
        and the means, None for a part without images.
    """
    threshold = fitted
    if threshold is None:
        threshold = float(np.median([row["backbone"] for row in images.values()]))
    parts = {part: [] for part in PARTS}
    for row in images.values():
        parts[part_of(row, threshold)].append(row)
    return {
        "threshold": threshold,
        "is_median": fitted is None,
        **{part: {"images": len(rows), **means(rows)} for part, rows in parts.items()},
    }


def part_of(row: Mapping[str, float], threshold: float) -> str:
    """Returns the part of the split to which an image belongs, one of `PARTS`."""
    return PARTS[0] if row["backbone"] >= threshold else PARTS[1]


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, float | None]:
    """Returns the mean of each number; None without rows."""
    rows = list(rows)
    return {
        key: float(np.mean([row[key] for row in rows])) if rows else None
        for key in ("backbone", "bank", "gain", "difference")
    }


def use_of_nodes(found: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Returns the use of nodes over all places of all images.

    Args:
        found: for each image the number of `places`, the mean `use` of each node [l],
            and the mean `entropy` of a place in bits.
    """
    places = np.array([each["places"] for each in found], np.int64)
    use, per_place = (
        np.average([each[key] for each in found], axis=0, weights=places)
        for key in ("use", "entropy")
    )
    bits = float(entropy(use))
    return {
        "places": int(places.sum()),
        "use": use.tolist(),
        "entropy_of_mean": bits,
        "entropy_per_place": float(per_place),
        "largest_entropy": math.log2(len(use)),
        "evenly_used_nodes": 2**bits,
    }
