import jax
import numpy as np
import pytest

import llie_jax
from llie_jax import weights
from llie_jax.evaluation import report, showcase
from tests.inference import toys

SPEC = {"name": "zero_dce", "width": 2, "num_iterations": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.shipped, "FOLDER", tmp_path / "data")
    return tmp_path / "data"


def ship():
    variables = llie_jax.build(SPEC).init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    path = weights.shipped.FOLDER / f"{weights.shipped.DEFAULT}.safetensors"
    weights.save(path, SPEC, variables)


def test_photographs_dark_and_as_they_are(folder, monkeypatch):
    pytest.importorskip("skimage")
    ship()
    monkeypatch.setattr(weights, "load", lambda: (toys.Gain(gain=3.0), {}))
    pictures = showcase.show_shipped()
    assert len(pictures) == len(showcase.PHOTOGRAPHS)
    for picture, photograph in zip(pictures, showcase.PHOTOGRAPHS, strict=True):
        assert photograph.credit in picture.name
        assert picture.image.shape == picture.target.shape
        assert "100% of the effect" in picture.name
        tripled = np.minimum(3 * picture.image.astype(int), 255)
        np.testing.assert_array_equal(picture.output, tripled)
        if photograph.exposure == 1:
            np.testing.assert_array_equal(picture.image, picture.target)
        else:
            assert picture.image.mean() < picture.target.mean() / 2


def test_a_copy_without_weights_shows_nothing(folder):
    assert showcase.show_shipped() == []


def test_the_report_shows_them(folder, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    ship()
    one = next(each for each in showcase.PHOTOGRAPHS if each.file == "chelsea.png")
    monkeypatch.setattr(showcase, "PHOTOGRAPHS", (one,))
    path = tmp_path / "report.html"
    report.write(path, title="x", shipped=showcase.show_shipped())
    text = path.read_text()
    assert one.credit in text
    assert "The weights that come with llie_jax" in text
    report.write(path, title="x")
    assert "come with llie_jax" not in path.read_text()
