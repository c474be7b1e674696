"""What a trained LFPV bank does: which nodes are used, how alike they are, the gain.

Source: Learnable Feature Patches and Vectors for Boosting Low-light Image Enhancement
without External Knowledge, ICCV 2025, for the split into fully fitted images and
others.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from llie_jax import metrics
from llie_jax.inference import padding
from llie_jax.models import lfpv

KINDS = {"vector": "c_v", "patch": "c_p"}
"""Kind of nodes -> variable that holds them."""

PARTS = ("fully_fitted", "not_fully_fitted")

PHOTO_SIDE = 1024
"""Longest side of the photos whose assignment is drawn, in pixels."""

_PSNR = "rgb_uint8"  # that of the default protocol


def check_model(model: nn.Module) -> None:
    """Raises ValueError if a model has no bank."""
    if not isinstance(model, lfpv.LFPV):
        raise ValueError(
            f"{type(model).__name__} has no bank; give weights of an LFPV model."
        )


def check_fitted(fitted: float | None) -> None:
    """Raises ValueError if a threshold is no PSNR."""
    if fitted is not None and not math.isfinite(fitted):
        raise ValueError(f"fitted={fitted}; give a PSNR in dB, such as 25.")


def entropy(shares: jax.Array) -> jax.Array:
    """Returns the entropy of distributions [..., l] in bits, [...]."""
    return jnp.sum(jax.scipy.special.entr(jnp.asarray(shares)), -1) / math.log(2)


def cosine_similarity(nodes: np.ndarray) -> np.ndarray:
    """Returns the cosine of the angle between any two nodes, [l, l].

    Args:
        nodes: [l, ...]. One of zeros is like no other: its row is 0.
    """
    flat = np.asarray(nodes, np.float64).reshape(len(nodes), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(length > 0, length, 1)
    return np.clip(flat @ flat.T, -1, 1)


def run(
    model: nn.Module,
    variables: Mapping[str, Any],
    source,
    *,
    photos: Sequence[tuple[str, np.ndarray]] = (),
    max_images: int | None = None,
    fitted: float | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Studies a bank on pairs, and on photos whose assignment is to be drawn.

    Args:
        model: an LFPV model.
        variables: its variables.
        source: the pairs, see `llie_jax.data.open_source`.
        photos: names and images, uint8 [H, W, 3]; by default the first pair's input.
        max_images: the first so many pairs only.
        fitted: PSNR of the backbone, in dB, from which on an image counts as fully
            fitted; by default the median.
        advance: called after each image and each photo.

    Returns:
        `psnr`, `nodes`, `split`, `images` and `photos`, as a JSON file holds them, and
        `pictures`: for each photo `photo` and `output`, uint8 [H, W, 3], and `vector`
        and `patch`, each with `node` and `share` [h, w] of the strongest node of a
        place, and the `side` of a place in pixels.

    Raises:
        ValueError: if the model has no bank, there are no pairs, `fitted` is no number,
            or a result is not finite.
    """
    check_model(model)
    check_fitted(fitted)
    count = len(source) if max_images is None else min(max_images, len(source))
    if count < 1:
        raise ValueError(f"{source.name} {source.split} holds no images to study.")
    images, found = {}, []
    for index in range(count):
        record = source[index]
        seen = _look(model, variables, record["image"], record["name"])
        images[record["name"]] = _compare(
            seen["backbone"], seen["output"], record["target"]
        )
        found.append({kind: _numbers(seen[kind]) for kind in KINDS})
        photos = photos or [(record["name"], record["image"])]
        advance()
    pictures = []
    for name, photo in photos:
        small = _shrunk(photo)
        pictures.append({"name": name, "photo": small})
        pictures[-1] |= _look(model, variables, small, name)
        advance()
    return {
        "psnr": _means(images.values()) | {"metric": _PSNR},
        "nodes": {
            kind: _use([each[kind] for each in found])
            | describe_nodes(variables[lfpv.STATE][name])
            for kind, name in KINDS.items()
        },
        "split": split(images, fitted),
        "images": images,
        "photos": [
            {
                "name": picture["name"],
                "size": list(photo.shape[:2]),
                "studied_size": list(picture["photo"].shape[:2]),
                "use": {kind: picture[kind]["use"].tolist() for kind in KINDS},
            }
            for picture, (_, photo) in zip(pictures, photos, strict=True)
        ],
        "pictures": pictures,
    }


def describe_nodes(nodes: jax.Array) -> dict[str, Any]:
    """Returns how many nodes there are, and how alike.

    Args:
        nodes: [l, ...].

    Returns:
        `count`; `empty`, whether all are zeros; `similarity` [l, l] and its mean over
        pairs of different nodes, both None where there is nothing to compare.
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
    """Splits images by how well the backbone alone does, with the gain on both parts.

    The paper splits the training set into images that the backbone fits fully and
    others.
    Differs: where it draws the line is not known; here it is a PSNR.

    Args:
        images: name -> `backbone`, `bank`, `gain` and `difference`.
        fitted: PSNR of the backbone, in dB, from which on an image counts as fully
            fitted; by default the median.

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
        **{part: {"images": len(rows), **_means(rows)} for part, rows in parts.items()},
    }


def part_of(row: Mapping[str, float], threshold: float) -> str:
    """Returns the part of the split that an image belongs to, one of `PARTS`."""
    return PARTS[0] if row["backbone"] >= threshold else PARTS[1]


def _means(rows) -> dict[str, float | None]:
    rows = list(rows)
    return {
        key: float(np.mean([row[key] for row in rows])) if rows else None
        for key in ("backbone", "bank", "gain", "difference")
    }


def _look(model, variables, image, name) -> dict[str, Any]:
    """Returns what a model makes of an image, uint8 [H, W, 3], and its assignment.

    Raises:
        ValueError: if the result is not finite.
    """
    size = image.shape[:2]
    padded, _ = padding.pad_to_multiple(image, model.multiple, model.pad_mode)
    seen = _run(model, variables, padded[None], np.array(size))
    result = {}
    for key in ("backbone", "output"):
        result[key] = padding.crop(np.asarray(seen[key][0]), size)
        if not np.isfinite(result[key]).all():
            raise ValueError(f"{name}: the model's output is not finite.")
    for kind, side in _sides(model).items():
        rows, columns = (math.ceil(length / side) for length in size)
        result[kind] = seen[kind] | {
            "node": seen[kind]["node"][:rows, :columns],
            "share": seen[kind]["share"][:rows, :columns],
            "side": side,
        }
    return result


def _sides(model: nn.Module) -> dict[str, int]:
    """Returns the side in pixels of what shares a node: kind -> side."""
    stride = model.feature_stride
    return {"vector": stride, "patch": stride * model.patch_size}


# One program, so that the backbone's encoder runs once.
@functools.partial(jax.jit, static_argnums=0)
def _run(model, variables, image, size):
    """Returns both images and the assignment of uint8 [1, H, W, 3].

    `size` is (height, width) without the padding; places that lie in the padding do
    not count.
    """
    image = image.astype(jnp.float32) / 255
    backbone = {
        name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree
    }
    outputs = {
        "backbone": model.backbone.apply(backbone, image),
        "output": model.apply(variables, image),
    }
    shares = model.apply(variables, image, method="assign")
    sides = _sides(model)
    return {
        key: jnp.clip(output.image.astype(jnp.float32), 0, 1)
        for key, output in outputs.items()
    } | {
        kind: _assignment(share[0], side, size)
        for (kind, side), share in zip(sides.items(), shares, strict=True)
    }


def _assignment(shares, side, size):
    """Returns the numbers of a map of shares [h, w, l]."""
    rows, columns = (
        jnp.arange(length) * side < limit
        for length, limit in zip(shares.shape[:2], size, strict=True)
    )
    inside = rows[:, None] & columns
    places = jnp.sum(inside)
    return {
        "places": places,
        "use": jnp.sum(shares * inside[..., None], (0, 1)) / places,
        "entropy": jnp.sum(entropy(shares) * inside) / places,
        "node": jnp.argmax(shares, -1),
        "share": jnp.max(shares, -1),
    }


def _numbers(seen) -> dict[str, np.ndarray]:
    """Returns an assignment without its maps, which are large."""
    return {key: np.asarray(seen[key]) for key in ("places", "use", "entropy")}


def _use(found: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Returns the use of nodes over all places of all images."""
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


def _compare(backbone, output, target) -> dict[str, float]:
    """Returns PSNR of both images in dB, and their difference in levels of 255."""
    before, after = (metrics.compute(_PSNR, x, target) for x in (backbone, output))
    return {
        "backbone": before,
        "bank": after,
        "gain": after - before if after != before else 0.0,  # both may be infinite
        "difference": 255 * float(np.mean(np.abs(output - backbone), dtype=np.float64)),
    }


def _shrunk(photo: np.ndarray) -> np.ndarray:
    """Returns a photo of at most `PHOTO_SIDE` pixels a side: it is run in one piece."""
    picture = Image.fromarray(photo)
    picture.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
