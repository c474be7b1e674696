"""How much the kernels that ADR generates differ between images.

Source: Li et al., Rethinking Model Redundancy for Low-light Image Enhancement,
arXiv 2412.16459, Section 5.2.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from llie_jax.image import levels
from llie_jax.inference import padding
from llie_jax.models.base import Model, variable_shapes
from llie_jax.report import page
from llie_jax.studies import frame
from llie_jax.studies.redundancy import RedundancyStudy

_MAPS = 8  # kernels that are drawn
_COLUMNS = 720  # values of a kernel that are drawn


@dataclasses.dataclass(frozen=True)
class KernelStudy(RedundancyStudy):
    """Compares the generated kernels of different images."""

    needs = ("image",)

    @property
    def label(self) -> str:
        """The short name of the study."""
        return "kernels"

    def check(self, model: Model) -> None:
        """Raises ValueError if a model generates no kernels."""
        image = jax.ShapeDtypeStruct((1, model.multiple, model.multiple, 3), np.uint8)
        run = functools.partial(_generated, model)
        if not jax.eval_shape(run, variable_shapes(model), image):
            raise ValueError(
                f"{type(model).__name__} generates no kernels; this study needs a "
                "model with ADR in its slot `reallocate`."
            )

    def steps(self, subject: frame.Subject) -> int:
        """Returns how often `run` calls `advance`."""
        return subject.count

    def run(
        self, subject: frame.Subject, advance: Callable[[], None] = frame.no_progress
    ) -> frame.Findings:
        """Generates and compares the kernels of all images.

        Returns:
            `kernels`, path -> `kernel_variation`; `kernel_variation`, their mean;
            `names` of the images. The pictures are the kernels, path ->
            [images, values].

        Raises:
            ValueError: if there are fewer than two images.
        """
        names: list[str] = []
        found: dict[str, list[np.ndarray]] = {}
        for record in subject:
            model, image = subject.model, record["image"]
            padded, _ = padding.pad_to_multiple(image, model.multiple, model.pad_mode)
            written = _generated(model, subject.variables, padded[None])
            for path, kernel in traverse_util.flatten_dict(written, sep="/").items():
                found.setdefault(path, []).append(np.ravel(kernel))
            names.append(record["name"])
            advance()
        maps = {path: np.stack(kernels) for path, kernels in found.items()}
        variation = {path: kernel_variation(kernels) for path, kernels in maps.items()}
        numbers = {
            "kernels": variation,
            "kernel_variation": float(np.mean(list(variation.values()))),
            "names": names,
        }
        return frame.Findings(numbers, maps)

    def lines(self, numbers: Mapping[str, Any]) -> list[str]:
        """Returns the numbers as text."""
        return [
            "kernels differ between images by "
            f"{100 * numbers['kernel_variation']:.2g} % of their length, on average",
            *(
                f"  {path:64} {100 * value:8.2g} %"
                for path, value in numbers["kernels"].items()
            ),
        ]

    def sections(
        self, numbers: Mapping[str, Any], pictures: Mapping[str, np.ndarray]
    ) -> list[str]:
        """Returns pictures of generated kernels: one row for each image."""
        paths = list(pictures)
        drawn = np.unique(np.linspace(0, len(paths) - 1, _MAPS).astype(int))
        figures = "".join(
            page.figure(
                _heat_map(pictures[path]),
                path,
                f"differs by {100 * numbers['kernels'][path]:.2g} %",
                alt="kernels",
                height="12rem",
            )
            for path in (paths[index] for index in drawn)
        )
        return [
            "<h2>Generated kernels</h2><p class='soft'>One row for each image, one "
            f"column for each value of the kernel (at most {_COLUMNS}, evenly chosen), "
            "dark low and bright high. Rows that look alike: the kernel hardly depends "
            f"on the image.</p><div class='grid'>{figures}</div>"
        ]


@functools.partial(jax.jit, static_argnums=0)
def _generated(model, variables, image):
    """Returns the kernels that a model generates for an image [1, H, W, 3]."""
    image = levels.to_float(image)
    return model.apply(variables, image, mutable=["kernels"])[1].get("kernels", {})


def kernel_variation(kernels: np.ndarray) -> float:
    """Returns the relative difference between the kernels of different images.

    The mean over ordered pairs of images of |P(x) - P(y)| / |P(x)|. Zero means that the
    kernel has degenerated to a static one.

    Args:
        kernels: one kernel of all images, [images, values].

    Raises:
        ValueError: if there are fewer than two images.
    """
    count = len(kernels)
    if count < 2:
        raise ValueError(f"Kernels are compared between images; there is {count}.")
    kernels = kernels.astype(np.float64)
    length = np.linalg.norm(kernels, axis=1)
    # From inner products of deviations: little memory, and nothing large cancels.
    kernels = kernels - kernels.mean(0)
    products = kernels @ kernels.T
    squares = np.diag(products)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    ratio = distance / np.maximum(length, 1e-30)[:, None]
    return float(ratio.sum() / (count * (count - 1)))


def _heat_map(kernels: np.ndarray) -> str:
    """Returns an image of kernels [images, values] as a data URI."""
    columns = np.linspace(0, kernels.shape[1] - 1, min(_COLUMNS, kernels.shape[1]))
    values = kernels[:, columns.astype(int)]
    low, high = np.percentile(values, (1, 99))
    level = np.clip((values - low) / max(high - low, 1e-30), 0, 1)[..., None]
    dark, middle, bright = np.array([[16, 32, 64], [190, 90, 40], [255, 240, 190]])
    first = dark + (middle - dark) * np.minimum(2 * level, 1)
    colours = first + (bright - middle) * np.maximum(2 * level - 1, 0)
    return page.data_uri(colours.round().astype(np.uint8), kind="png")
