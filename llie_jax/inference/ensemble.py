"""The self-ensemble: the mean of a model's outputs for eight views of an image."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llie_jax.inference import padding
from llie_jax.inference.enhancer import Enhancer

VIEWS = tuple((flip, turns) for flip in (False, True) for turns in range(4))
"""Whether a view is mirrored, and its number of quarter turns after that."""


class SelfEnsemble:
    """Enhances the flips and rotations of an image, and averages the results.

    It takes eight times as long and usually scores a little higher: such scores are
    comparable only with each other.

    Source: Timofte et al., Seven Ways to Improve Example-Based Single Image Super
    Resolution, CVPR 2016.

    Args:
        enhancer: what enhances each view. It must not resize images to one size, which
            would squeeze those that are turned.
    """

    def __init__(self, enhancer: Enhancer):
        self._enhancer = enhancer
        self.mesh = enhancer.mesh

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of an image after padding, see `Enhancer`."""
        return self._enhancer.padded_size(size)

    def __call__(self, image: np.ndarray, *, number: int = 0, **given: Any):
        """Returns the mean for one image, float32 [H, W, 3], see `Enhancer`."""
        return self._mean(
            [image],
            lambda images, **inputs: [
                self._enhancer(
                    *images,
                    raw=True,
                    number=number,
                    **{name: value for name, (value,) in inputs.items()},
                )
            ],
            {name: [value] for name, value in given.items() if name != "raw"},
        )[0]

    def batch(
        self,
        images: Sequence[np.ndarray],
        *,
        numbers: Sequence[int] | None = None,
        **given: Any,
    ) -> list[np.ndarray]:
        """Returns the mean for each of some images of one size, see `Enhancer`."""
        return self._mean(
            images,
            lambda images, **inputs: self._enhancer.batch(
                images, raw=True, numbers=numbers, **inputs
            ),
            {name: values for name, values in given.items() if name != "raw"},
        )

    def _mean(
        self,
        images: Sequence[np.ndarray],
        enhance: Callable[..., Sequence[np.ndarray]],
        inputs: dict[str, Sequence[np.ndarray]],
    ) -> list[np.ndarray]:
        """Returns the mean of `enhance` over the views, float32."""
        totals = [np.zeros(image.shape, np.float64) for image in images]
        for view in VIEWS:
            # Inputs that are maps of the image turn with it.
            turned = {
                name: [
                    _turn(value, view)
                    if padding.is_map(np.asarray(value), image.shape[:2])
                    else value
                    for value, image in zip(values, images, strict=True)
                ]
                for name, values in inputs.items()
            }
            outputs = enhance([_turn(image, view) for image in images], **turned)
            for total, output in zip(totals, outputs, strict=True):
                total += _turn_back(output, view)
        return [(total / len(VIEWS)).astype(np.float32) for total in totals]


def _turn(x: np.ndarray, view: tuple[bool, int]) -> np.ndarray:
    flip, turns = view
    return np.ascontiguousarray(np.rot90(x[:, ::-1] if flip else x, turns))


def _turn_back(x: np.ndarray, view: tuple[bool, int]) -> np.ndarray:
    flip, turns = view
    turned = np.rot90(x, -turns)
    return turned[:, ::-1] if flip else turned
