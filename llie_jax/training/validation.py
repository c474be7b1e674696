"""Scores and pictures of the validation records during training."""

import numpy as np

from llie_jax import parallel
from llie_jax.image import levels
from llie_jax.inference.enhancer import Enhancer
from llie_jax.metrics import in_training
from llie_jax.models.base import Model
from llie_jax.parallel import Mesh
from llie_jax.training.step import eval_step


class Validation:
    """Validation on records that are not trained on, kept decoded in memory.

    Images of different sizes are centre-cropped to their common size, so that one
    compiled step serves all; `llie-jax eval` scores whole images. Without references
    there are no scores, only pictures.

    Args:
        model: the model.
        source: the held-out records.
        mesh: the devices; each takes one image at a time.
        mapping: how batches are mapped over them, one of `parallel.MAPPINGS`.

    Raises:
        ValueError: if images with references are smaller than the SSIM window.
    """

    def __init__(self, model: Model, source, mesh: Mesh, *, mapping: str = "shard_map"):
        records = [source[i] for i in range(len(source))]
        size = tuple(min(r["image"].shape[axis] for r in records) for axis in (0, 1))
        keys = [key for key in ("image", "target") if key in source.keys]
        self._paired = "target" in keys
        if self._paired and min(size) < in_training.WINDOW:
            raise ValueError(
                f"The validation images have a common size of {size[0]} x {size[1]}; "
                f"at least {in_training.WINDOW} x {in_training.WINDOW} is needed. Set "
                "config.data.validation.fraction=0.0 to train without validation "
                "(with select_on=held_out)."
            )
        self.size, self.count = size, len(records)
        self._model, self._mesh, self._mapping = model, mesh, mapping
        self._images = {
            key: _stack([_centre(record[key], size) for record in records])
            for key in keys
        }
        self._step = parallel.map_eval_step(
            lambda _, batch: eval_step(batch), mesh, mapping=mapping
        )

    def scores(
        self, variables, *, pictures: int = 0
    ) -> tuple[dict[str, float], list[list[np.ndarray]]]:
        """Returns the mean PSNR in dB and SSIM, and rows of input | output | target.

        Without references there are no scores, and rows are input | output.

        Args:
            variables: the model's variables, on every device.
            pictures: number of rows, from the first images.
        """
        enhancer = Enhancer(
            self._model, variables, mesh=self._mesh, mapping=self._mapping
        )
        values = {"psnr": [], "ssim": []} if self._paired else {}
        rows = []
        for start in range(0, self.count, self._mesh.size):
            numbers = np.arange(start, start + self._mesh.size)
            real = min(self._mesh.size, self.count - start)
            # The last batch is filled up with copies, which are not counted.
            mine = parallel.own_part(np.minimum(numbers, self.count - 1), self._mesh)
            batch = {key: images[mine] for key, images in self._images.items()}
            image = batch.pop("image")
            batch["output"] = enhancer.batch(image, raw=True, numbers=mine)
            batch = parallel.shard_batch(batch, self._mesh, mapping=self._mapping)
            result = self._step({}, batch=batch)
            result = parallel.gather(
                parallel.own_rows(result, mapping=self._mapping), self._mesh
            )
            for key, found in values.items():
                found += [float(value) for value in result[key][:real]]
            for i in range(real):
                if len(rows) < pictures:
                    image, *target = (x[start + i] for x in self._images.values())
                    row = image, result["image"][i], *target
                    rows.append([levels.to_uint8(picture) for picture in row])
        return {key: float(np.mean(found)) for key, found in values.items()}, rows


def _stack(images: list[np.ndarray]) -> np.ndarray:
    """Returns images of one size in one array, as deep as the deepest."""
    dtype = levels.deepest(image.dtype for image in images)
    return np.stack([levels.widen(image, dtype) for image in images])


def _centre(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left = (
        (have - want) // 2 for have, want in zip(image.shape, size, strict=False)
    )
    return image[top : top + size[0], left : left + size[1]]
