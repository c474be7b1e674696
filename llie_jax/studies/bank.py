"""What a trained LFPV bank does: use of its nodes, their similarity, and the gain."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from llie_jax import metrics
from llie_jax.image import levels
from llie_jax.inference import padding
from llie_jax.models import lfpv
from llie_jax.models.base import Model
from llie_jax.studies import bank_numbers, bank_report, frame

KINDS = {"vector": "c_v", "patch": "c_p"}
"""Kind of nodes -> variable that holds them."""

PHOTO_SIDE = 1024
"""Longest side of the photos whose assignment is drawn, in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class BankStudy(frame.Study):
    """Studies a bank on pairs, and draws the assignment of photos.

    Attributes:
        photos: names and images [H, W, 3], of any depth; without any, the first pair's
            input.
        fitted: PSNR of the backbone, in dB, from which an image counts as fully fitted;
            by default the median.

    Raises:
        ValueError: if `fitted` is not finite.
    """

    photos: Sequence[tuple[str, np.ndarray]] = ()
    fitted: float | None = None

    topic = " of a bank"

    def __post_init__(self):
        if self.fitted is not None and not math.isfinite(self.fitted):
            raise ValueError(f"fitted={self.fitted}; give a PSNR in dB, such as 25.")

    @property
    def label(self) -> str:
        """The short name of the study."""
        return "bank"

    def check(self, model: Model) -> None:
        """Raises ValueError if a model has no bank."""
        if not isinstance(model, lfpv.LFPV):
            raise ValueError(
                f"{type(model).__name__} has no bank; give weights of an LFPV model."
            )

    def steps(self, subject: frame.Subject) -> int:
        """Returns how often `run` calls `advance`."""
        return subject.count + max(len(self.photos), 1)

    def run(
        self, subject: frame.Subject, advance: Callable[[], None] = frame.no_progress
    ) -> frame.Findings:
        """Studies the bank; see `frame.Study.run`.

        Returns:
            `psnr`, `nodes`, `split`, `images` and `photos`. The pictures are a list
            with, for each photo, its `name`, `photo` (uint8 [H, W, 3]), `output`
            (float [H, W, 3]), and `vector` and `patch`, each with `node` and `share`
            [h, w] of the strongest node of a place, and the `side` of a place in
            pixels.
        """
        model, variables = subject.model, subject.variables
        full = frame.enhancer(model, variables)
        plain = full.with_variables(_without_bank(variables))
        images, uses, photos = {}, [], self.photos
        for record in subject:
            image, name = record["image"], record["name"]
            before, after = (frame.enhanced(run, image, name) for run in (plain, full))
            images[name] = _compare(before, after, record["target"])
            seen = _assignments(model, variables, image)
            uses.append({kind: _numbers(seen[kind]) for kind in KINDS})
            photos = photos or [(name, image)]
            advance()
        pictures = []
        for name, photo in photos:
            small = _shrunk(photo)
            output = frame.enhanced(full, small, name)
            seen = _assignments(model, variables, small)
            pictures.append({"name": name, "photo": small, "output": output, **seen})
            advance()
        numbers = {
            "psnr": bank_numbers.means(images.values()) | {"metric": frame.PSNR},
            "nodes": {
                kind: bank_numbers.use_of_nodes([each[kind] for each in uses])
                | bank_numbers.describe_nodes(variables[lfpv.STATE][name])
                for kind, name in KINDS.items()
            },
            "split": bank_numbers.split(images, self.fitted),
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
        }
        return frame.Findings(numbers, pictures)

    def title(self, numbers: Mapping[str, Any]) -> str:
        """Returns the heading of the page."""
        return f"LFPV bank on {numbers['data']['name']} {numbers['data']['split']}"

    def lines(self, numbers: Mapping[str, Any]) -> list[str]:
        """Returns the numbers as text."""
        return bank_report.lines(numbers)

    def sections(
        self, numbers: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Returns charts, pictures and the table of images as HTML."""
        return bank_report.sections(numbers, pictures)

    def rows(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Returns rows for the page's table of settings."""
        return {"PSNR": numbers["psnr"]["metric"]}


def _without_bank(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables with a bank of zeros, which gives the image of the backbone.

    So both images come from one program, with equal padding.
    """
    return {
        **variables,
        lfpv.STATE: jax.tree.map(jnp.zeros_like, variables[lfpv.STATE]),
    }


def _assignments(model, variables, image) -> dict[str, dict[str, Any]]:
    """Returns the assignment of an image [H, W, 3] to vectors and patches."""
    padded, size = padding.pad_to_multiple(image, model.multiple, model.pad_mode)
    result = {}
    seen = _assigned(model, variables, padded[None], np.array(size))
    for kind, side in _sides(model).items():
        rows, columns = (math.ceil(length / side) for length in size)
        result[kind] = seen[kind] | {
            "node": seen[kind]["node"][:rows, :columns],
            "share": seen[kind]["share"][:rows, :columns],
            "side": side,
        }
    return result


def _sides(model: lfpv.LFPV) -> dict[str, int]:
    """Returns the side in pixels of the places that share a node: kind -> side."""
    stride = model.feature_stride
    return {"vector": stride, "patch": stride * model.patch_size}


@functools.partial(jax.jit, static_argnums=0)
def _assigned(model, variables, image, size):
    """Returns the assignment of an image [1, H, W, 3] to vectors and patches.

    `size` is (height, width) without the padding; places inside the padding do not
    count.
    """
    image = levels.to_float(image)
    shares = model.apply(variables, image, method="assign")
    return {
        kind: _assignment(share[0], side, size)
        for (kind, side), share in zip(_sides(model).items(), shares, strict=True)
    }


def _assignment(shares, side, size):
    """Returns the use of nodes and the strongest ones for shares [h, w, l]."""
    rows, columns = (
        jnp.arange(length) * side < limit
        for length, limit in zip(shares.shape[:2], size, strict=True)
    )
    inside = rows[:, None] & columns
    places = jnp.sum(inside)
    return {
        "places": places,
        "use": jnp.sum(shares * inside[..., None], (0, 1)) / places,
        "entropy": jnp.sum(bank_numbers.entropy(shares) * inside) / places,
        "node": jnp.argmax(shares, -1),
        "share": jnp.max(shares, -1),
    }


def _numbers(seen) -> dict[str, np.ndarray]:
    """Returns an assignment without its large maps."""
    return {key: np.asarray(seen[key]) for key in ("places", "use", "entropy")}


def _compare(backbone, output, target) -> dict[str, float]:
    """Returns the PSNR of both images in dB, and their difference in levels of 255."""
    before, after = (metrics.compute(frame.PSNR, x, target) for x in (backbone, output))
    return {
        "backbone": before,
        "bank": after,
        "gain": after - before if after != before else 0.0,  # both may be infinite
        "difference": 255 * float(np.mean(np.abs(output - backbone), dtype=np.float64)),
    }


def _shrunk(photo: np.ndarray) -> np.ndarray:
    """Returns a photo with 8 bits and at most `PHOTO_SIDE` pixels a side."""
    picture = Image.fromarray(levels.to_uint8(photo))
    picture.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
