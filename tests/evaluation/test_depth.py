"""Images of 16 bits, of floats and of 8 bits are scored in their own depth."""

import numpy as np
import pytest

from llie_jax import evaluation, parallel
from llie_jax.training.validation import Validation
from tests.evaluation import toys

SIZES = [(16, 20)] * 3
DTYPES = (np.uint16, np.uint8, np.float32)


class Mixed(toys.MemorySource):
    """Pairs of three depths; the target is twice the image."""

    def __init__(self):
        super().__init__(SIZES)
        rng = np.random.default_rng(0)
        self.images = [
            rng.integers(0, 30_000, (*SIZES[0], 3)).astype(np.uint16),
            self.images[1],
            rng.uniform(0, 0.5, (*SIZES[0], 3)).astype(np.float32),
        ]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_scores(batch_size, tmp_path):
    scores = evaluation.evaluate(
        toys.Gain(),
        {"params": {"gain": np.float32(2)}},
        Mixed(),
        protocol="retinexformer",
        batch_size=batch_size,
        save_images=tmp_path,
        progress=False,
    )
    assert scores.count == 3
    for row in scores.images.values():
        assert row["psnr"] > 120  # only float32 rounds
    for row in scores.inputs.values():
        assert row["psnr"] < 20
    assert {picture.image.dtype for picture in scores.pictures} == {np.dtype("u1")}


def test_validation():
    mesh = parallel.make_mesh()
    found = Validation(toys.Gain(), Mixed(), mesh)
    values, rows = found.scores({"params": {"gain": np.float32(2)}}, pictures=3)
    assert values["psnr"] == np.inf
    for row in rows:
        assert {picture.dtype for picture in row} == {np.dtype("u1")}
        np.testing.assert_array_equal(row[1], row[2])
