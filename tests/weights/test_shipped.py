"""Weights that come with the package; two tests look at each of those that do."""

import json

import jax
import numpy as np
import pytest

import llie_jax
from llie_jax import weights
from llie_jax.weights import shipped

SPEC = {"name": "zero_dce", "width": 2, "num_iterations": 1}
HEADINGS = ("Data", "Recipe", "Protocol", "Scores", "Known failures", "Licence")
LARGEST = 1_000_000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stands for the package's data, with small weights of the default name."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    model = llie_jax.build(SPEC)
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    weights.save(tmp_path / f"{shipped.DEFAULT}.safetensors", SPEC, variables)
    return tmp_path


def test_found_by_name_and_as_the_default(folder):
    model, variables = weights.load(shipped.DEFAULT)
    assert model == llie_jax.build(SPEC)
    for found in (weights.load(), weights.load(None)):
        jax.tree.map(np.testing.assert_array_equal, found[1], variables)
    facts = weights.describe(shipped.DEFAULT)
    assert (facts["weights"], facts["source"]) == (shipped.DEFAULT, "shipped")
    facts = weights.describe()
    assert facts["weights"] == facts["path"] == str(shipped.default())


def test_a_file_or_folder_of_that_name_comes_first(folder, tmp_path, monkeypatch):
    assert weights.ships(None)
    assert weights.ships(shipped.DEFAULT)
    assert not weights.ships("darkir.lol_blur")
    assert not weights.ships(folder / f"{shipped.DEFAULT}.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / shipped.DEFAULT).mkdir()
    assert not weights.ships(shipped.DEFAULT)
    with pytest.raises(FileNotFoundError):  # an empty folder is no run
        weights.load(shipped.DEFAULT)
    weights.load()  # no folder of the user's can stand in for the default


def test_unknown_names_list_what_ships(folder):
    with pytest.raises(FileNotFoundError, match=f"ship: {shipped.DEFAULT}"):
        weights.load("nothing")


def test_a_copy_without_weights_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "absent")
    assert shipped.names() == []
    with pytest.raises(FileNotFoundError, match=r"without its weights.*make demo"):
        weights.load()
    assert not weights.ships(shipped.DEFAULT)


@pytest.mark.parametrize("name", shipped.names())
def test_each_has_a_card_and_facts_and_is_small(name):
    path = shipped.locate(name)
    assert path.stat().st_size <= LARGEST
    card = path.with_suffix(".md").read_text()
    assert [part for part in HEADINGS if f"## {part}" not in card] == []
    facts = weights.describe(name)["metadata"]
    assert all(facts[key] for key in ("trained_on", "protocol", "licence"))
    assert json.loads(facts["score"])


@pytest.mark.parametrize("name", shipped.names())
def test_each_gives_sane_photos(name):
    model, variables = weights.load(name)
    for photo in (
        np.zeros((1, 1, 3), np.uint8),
        np.full((40, 56, 3), 255, np.uint8),
        np.full((40, 56, 3), (200, 0, 0), np.uint8),
    ):
        result = llie_jax.enhance(model, variables, photo)
        assert result.shape == photo.shape
    grey = llie_jax.enhance(model, variables, np.full((40, 56, 3), 30, np.uint8))
    assert np.ptp(grey.astype(int), axis=-1).max() <= 8  # no colour cast


@pytest.mark.skipif(
    not shipped.names(), reason="no weights in this copy of the package"
)
def test_the_default_ships():
    assert shipped.DEFAULT in shipped.names()
