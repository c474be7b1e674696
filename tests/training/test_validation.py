"""Validation during training: the scores of `evaluate`, with both mappings."""

import jax
import numpy as np
import pytest

from llie_jax import evaluation, parallel
from llie_jax.inference import programs
from llie_jax.training.validation import Validation
from tests.evaluation import toys

GAIN = np.float32(1.8713)


def validate(source, gain=GAIN, *, pictures=0, **options):
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    validation = Validation(toys.Gain(), source, mesh, **options)
    variables = parallel.replicate({"params": {"gain": np.float32(gain)}}, mesh)
    return validation, validation.scores(variables, pictures=pictures)


@pytest.mark.parametrize("mapping", parallel.MAPPINGS)
def test_scores_are_those_of_evaluation(mapping):
    source = toys.MemorySource([(18, 21)] * 3)
    _, (scores, rows) = validate(source, pictures=2, mapping=mapping)
    variables = {"params": {"gain": GAIN}}
    expected = evaluation.evaluate(toys.Gain(), variables, source, progress=False)
    assert scores["psnr"] == pytest.approx(expected.mean["psnr"], abs=1e-3)
    assert scores["ssim"] == pytest.approx(expected.mean["ssim"], abs=1e-4)
    assert len(rows) == 2
    for index, (image, output, target) in enumerate(rows):
        record = source[index]
        np.testing.assert_array_equal(image, record["image"])
        np.testing.assert_array_equal(target, record["target"])
        assert output.dtype == np.uint8
        np.testing.assert_array_equal(output, np.rint(GAIN * record["image"]))


def test_pairs_of_different_sizes_are_cut_around_the_centre():
    source = toys.MemorySource([(18, 21), (16, 25)])
    validation, (_, rows) = validate(source, pictures=1)
    assert validation.size == (16, 21)
    np.testing.assert_array_equal(rows[0][0], source[0]["image"][1:17])


def test_the_next_validation_compiles_nothing(monkeypatch):
    source = toys.MemorySource([(18, 21)])
    _, first = validate(source, 1.0)
    monkeypatch.setattr(programs, "Program", None)
    toys.SHAPES.clear()
    _, second = validate(source, 2.0)
    assert toys.SHAPES == []
    assert second[0]["psnr"] > first[0]["psnr"]


def test_a_diverged_model_is_scored_as_such():
    _, (scores, _) = validate(toys.MemorySource([(18, 21)]), np.nan)
    assert np.isnan(scores["psnr"])
