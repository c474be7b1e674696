"""Tests of the check of a data set."""

import dataclasses

import pytest

from llie_jax.data import catalogue, checking, locating, preparing, scanning
from llie_jax.image import io
from tests.data import trees


def test_subset_and_absent_split(tmp_path):
    trees.pairs(tmp_path / "our485", ("2", "10"))
    train, test = checking.check("lol_v1", root=tmp_path)
    assert (train.count, train.state) == (2, "subset: 2 of 485")
    assert train.sizes == {"8 x 8": 2}
    (odd,) = train.notes
    assert odd == (
        "2 pairs do not have the published size 400 x 600: 10 (8 x 8), 2 (8 x 8)"
    )
    assert (test.split, test.state, test.complete) == ("test", "absent", False)
    assert not train.problems


def test_complete_set(tmp_path):
    trees.lol(tmp_path)
    trees.pairs(tmp_path / "eval15", tuple(map(str, range(15))), first=50)
    test = checking.check(tmp_path)[1]
    assert (test.state, test.complete, len(test.fingerprint)) == ("complete", True, 16)


def test_every_fault_is_reported_at_once(tmp_path):
    folder = trees.pairs(tmp_path, ("a", "b", "c", "d", "e"))
    (folder / "high/a.png").unlink()
    (folder / "low/b.png").unlink()
    io.write_image(folder / "high/c.png", trees.image(0, 8, 9))
    (folder / "low/d.png").write_bytes(b"damaged")
    (whole,) = checking.check(folder)
    assert (whole.split, whole.count, whole.state) == ("all", 1, "faulty")
    assert len(whole.problems) == 4
    for file in ("low/a.png", "high/b.png", "high/c.png", "low/d.png"):
        assert any(file in problem for problem in whole.problems)


def test_own_folder_is_complete(tmp_path):
    (whole,) = checking.check(trees.pairs(tmp_path, ("a",)))
    assert (whole.state, whole.complete) == ("no published count", True)


def test_empty_folders(tmp_path):
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
    assert checking.check(tmp_path)[0].problems == ("there are no images",)


def test_prepared_set(tmp_path):
    root = trees.lol(tmp_path / "raw")
    directory = preparing.prepare("lol_v1", root=root, data_dir=tmp_path / "tfds")
    stored, folders = checking.check(directory), checking.check(root)
    for one, other in zip(stored, folders, strict=True):
        assert dataclasses.replace(one, fixes=()) == dataclasses.replace(
            other, fixes=()
        )


def test_a_prepared_copy_in_the_folder_is_mentioned(tmp_path):
    root = trees.lol(tmp_path / "lol_v1")
    assert not any("prepared copy" in note for note in checking.check(root)[0].notes)
    directory = preparing.prepare("lol_v1", root=root, data_dir=tmp_path)
    for split in checking.check(root):
        assert f"training reads the prepared copy in {directory}" in split.notes[-1]


def test_an_excluded_input_takes_its_target_along(tmp_path):
    folder = tmp_path / "Real_captured/Train"
    trees.pairs(folder, ("low00001", "low00002"), low="Low", high="Normal")
    for file in (folder / "Normal").iterdir():
        file.rename(file.with_name(file.name.replace("low", "normal")))
    (tmp_path / "Real_captured/exclude.txt").write_text("train/low00001\n")
    train, _ = checking.check("lol_v2_real", root=tmp_path)
    assert (train.count, train.problems) == (1, ())
    assert "1 left out, as exclude.txt says" in train.notes

    for name in ("00001/a", "00001/b", "00002/a"):
        (tmp_path / "sid/short" / name).parent.mkdir(parents=True, exist_ok=True)
        io.write_image(tmp_path / f"sid/short/{name}.png", trees.image(len(name)))
    for number, name in enumerate(("00001", "00002")):
        (tmp_path / "sid/long" / name).mkdir(parents=True)
        io.write_image(tmp_path / f"sid/long/{name}/x.png", trees.image(number + 10))
    parts = locating.Part(
        (tmp_path / "sid/short", tmp_path / "sid/long"),
        excluded=frozenset(["00001/a", "00002/a"]),
    )
    found = scanning.scan((parts,), catalogue.get("sid_png"))
    assert (list(found.files), found.excluded) == (["00001/b"], 2)
    assert not found.problems()


def test_photos_without_references(tmp_path):
    folder = trees.photos(tmp_path, ("a", "b", "c"))
    (whole,) = checking.check(folder)
    assert (whole.keys, whole.unit, whole.count) == (("image",), "images", 3)
    assert whole.complete
    trees.photos(folder, ("c.bmp",))
    (folder / "a.png").write_bytes(b"damaged")
    (whole,) = checking.check("image_folder", root=folder)
    assert (whole.count, whole.state) == (2, "faulty")
    for file in ("a.png", "c.png"):
        assert any(file in problem for problem in whole.problems)


def test_nothing_to_check(tmp_path):
    with pytest.raises(FileNotFoundError, match="no known layout"):
        checking.check(tmp_path)


def test_real_lol_v1(shared):
    train, test = checking.check("lol_v1", root=shared / "data/lol_v1")
    assert train.state == "subset: 20 of 485"
    assert test.state == "complete"
    assert train.sizes == {"400 x 600": 20}
    for split in (train, test):
        assert split.notes == split.problems == ()
