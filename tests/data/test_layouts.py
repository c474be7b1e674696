"""Every published set loads from its layout on disk, and says what is wrong with it."""

import collections
import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from llie_jax import data
from llie_jax.data import catalogue, checking, frames, preparing, sources
from llie_jax.training import integrity
from llie_jax.weights.record import Record
from tests.data import layouts

PAIRED = [
    name
    for name in layouts.TREES
    if "target" in catalogue.get(name).keys and name != "lowlight_demo"
]
WITH_TEST = [
    name for name in PAIRED if {"train", "test"} <= catalogue.get(name).splits.keys()
]


def unresized(source):
    return dataclasses.replace(source, size=None)


def target_file(name, root):
    """A reference of the miniature."""
    words = ("high", "normal", "gt", "target", "label", "long", "reshape")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return next(
        path
        for path in files
        if any(word in str(path.relative_to(root)).lower() for word in words)
        and "original" not in str(path)
    )


def test_every_published_set_has_a_miniature():
    published = [known for known in catalogue.DATASETS.values() if not known.own]
    names = {known.name for known in published if "second" not in known.keys}
    assert set(layouts.TREES) == names


@pytest.mark.parametrize("name", layouts.TREES)
def test_records_are_those_of_the_files(name, tmp_path):
    expected = layouts.write(name, tmp_path)
    for split, records in expected.items():
        source = data.open_source(name, root=tmp_path, split=split)
        assert (source.name, source.split) == (name, split)
        assert list(source.names) == sorted(records)
        assert source.keys == catalogue.get(name).keys
        plain = unresized(source)
        for record in plain:
            for key, pixels in zip(source.keys, records[record["name"]], strict=True):
                np.testing.assert_array_equal(record[key], pixels)
    checks = checking.check(name, root=tmp_path)
    assert {each.split: each.count for each in checks if each.count} == {
        split: len(records) for split, records in expected.items()
    }
    assert not any(each.problems for each in checks)
    assert all(each.fixes for each in checks if each.expected)  # all are subsets


def test_the_published_counts_and_lists():
    counts = {name: dict(catalogue.get(name).counts) for name in layouts.TREES}
    assert counts["sid"] == counts["sid_png"] == {"train": 2099, "test": 598}
    assert counts["smid"] == {"train": 15_763, "test": 5_046}
    assert sum(counts["smid"].values()) == 20_809
    assert counts["sdsd_indoor"] == {"train": 1655, "test": 308}
    assert counts["lolblur"] == {"train": 170 * 60, "test": 30 * 60}
    assert counts["lsrw"] == {"train": 2450 + 3150, "test": 30 + 20}
    assert counts["fivek"] == {"train": 4500, "test": 500}
    assert counts["sice"] == {"train": 4413}
    photos = {"dicm": 69, "lime": 10, "mef": 17, "npe": 8, "vv": 24}
    photos |= {"real_lolblur": 482 + 872, "darkface": 6000}
    assert {name: counts[name] for name in photos} == {
        name: {"test": count} for name, count in photos.items()
    }
    assert len(set(catalogue.SMID_TEST)) == 49
    assert catalogue.SMID_TEST[0] == "0007"
    assert catalogue.SMID_TEST[-1] == "0196"
    assert len(catalogue.SDSD_INDOOR_TEST) == 6
    assert len(catalogue.SDSD_OUTDOOR_TEST) == 10


@pytest.mark.filterwarnings("ignore::llie_jax.messages.Note")
@pytest.mark.parametrize("name", PAIRED)
def test_an_orphan_is_named_and_can_be_left_out(name, tmp_path):
    expected = layouts.write(name, tmp_path)
    lost = target_file(name, tmp_path)
    if catalogue.get(name).shared_target and lost.parent.name != "label":
        shutil.rmtree(lost.parent)  # another file of the folder would replace it
    else:
        lost.unlink()
    checks = checking.check(name, root=tmp_path)
    (faulty,) = [each for each in checks if each.problems]
    assert "inputs without a target" in faulty.problems[0]
    with pytest.raises(ValueError, match="do not pair: inputs without a target"):
        data.open_source(name, root=tmp_path, split=faulty.split)
    # The first fix repairs it, as printed.
    subprocess.run(faulty.fixes[0], shell=True, check=True)
    assert not any(each.problems for each in checking.check(name, root=tmp_path))
    left = data.open_source(name, root=tmp_path, split=faulty.split)
    assert 0 < len(left) < len(expected[faulty.split])


@pytest.mark.parametrize("name", WITH_TEST)
def test_no_scene_is_in_two_splits_or_parts(name, tmp_path):
    layouts.write(name, tmp_path)
    train = data.open_source(name, root=tmp_path, split="train")
    test = data.open_source(name, root=tmp_path, split="test")
    assert not set(train.scenes) & set(test.scenes)
    if len(set(train.scenes)) > 1:
        part, held_out = data.split_by_reference(unresized(train), count=1)
        assert not set(part.scenes) & set(held_out.scenes)


def test_second_takes_stay_with_their_scene(tmp_path):
    layouts.write("sdsd_indoor", tmp_path)
    train = data.open_source("sdsd_indoor", root=tmp_path, split="train")
    test = data.open_source("sdsd_indoor", root=tmp_path, split="test")
    assert collections.Counter(test.scenes) == {"pair1": 4}
    assert collections.Counter(train.scenes) == {"pair2": 4, "pair10": 2}
    layouts.write("sdsd_outdoor", tmp_path / "outdoor")
    train = data.open_source("sdsd_outdoor", root=tmp_path / "outdoor", split="train")
    assert set(train.scenes) == {"MVI_0899", "MVI_2001", "MVI_2002"}


def test_a_shared_reference_is_read_once_for_a_split(tmp_path, monkeypatch):
    layouts.write("sid", tmp_path)
    train = data.open_source("sid", root=tmp_path, split="train")
    files = []
    original = type(train)._read
    monkeypatch.setattr(
        type(train),
        "_read",
        lambda self, index, key: files.append(key) or original(self, index, key),
    )
    data.split_by_reference(train, count=2)
    assert files == ["target"] * 2  # of two scenes with two inputs each


def test_a_duplicate_across_splits(tmp_path):
    layouts.write("lol_v1", tmp_path)
    for place in ("low", "high"):
        # In another format: pixels are compared.
        copy = tmp_path / f"our485/{place}/77.bmp"
        Image.open(tmp_path / f"eval15/{place}/1.png").save(copy)
    train, test = checking.check("lol_v1", root=tmp_path)
    assert not train.problems
    assert test.problems == (
        "1 images are in another split too: test/1 = train/77",
        "1 references are in another split too: test/1 = train/77",
    )
    subprocess.run(test.fixes[0], shell=True, check=True)
    train, test = checking.check("lol_v1", root=tmp_path)
    assert (train.count, test.count) == (2, 2)
    assert not test.problems
    assert "1 left out, as exclude.txt says" in train.notes


def test_an_odd_size_and_a_damaged_frame(tmp_path):
    layouts.write("sdsd_indoor", tmp_path)
    folder = tmp_path / "indoor_static_np/input"
    np.save(folder / "pair2/0001.npy", np.zeros((4, 4, 3), np.uint8))
    np.save(folder / "pair2/0002.npy", np.zeros((6, 8, 3), np.float32))
    (folder / "pair10/0001.npy").write_bytes(b"damaged")
    train, _ = checking.check("sdsd_indoor", root=tmp_path)
    assert train.count == 3
    for fault in (
        r"0001.npy is 4 x 4, ",
        "holds float32 [6, 8, 3]; a frame is uint8 [H, W, 3], BGR",
        "pair10/0001.npy: no .npy file",
    ):
        assert any(fault in problem for problem in train.problems)


def test_the_resize_of_the_npy_sets(tmp_path):
    rgb = layouts.write("sid", tmp_path)["train"]["00001/00001_00_0.04s"][0]
    source = data.open_source("sid", root=tmp_path, split="train")
    image = source[0]["image"]
    assert image.shape == (512, 960, 3)
    np.testing.assert_array_equal(source.sizes(), 4 * [[512, 960]])
    # Pixel 0 of 960 lies outside the first centre of 8; pixel 120 between two.
    np.testing.assert_array_equal(image[0, 0], rgb[0, 0])
    place = 120.5 * 8 / 960 - 0.5
    between = rgb[0, 0] + (place - 0) * (rgb[0, 1].astype(float) - rgb[0, 0])
    np.testing.assert_allclose(image[0, 120], between, atol=1)


def test_a_frame_is_in_bgr(tmp_path):
    bgr = np.zeros((2, 2, 3), np.uint8)
    bgr[0, 1, 2] = 255  # red
    np.save(tmp_path / "red.npy", bgr)
    written = (tmp_path / "red.npy").read_bytes()
    rgb = frames.decode(written, "red.npy")
    assert rgb[0, 1].tolist() == [255, 0, 0]
    (tmp_path / "red.png").write_bytes(frames.to_png(written, "red.npy"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "red.png")), rgb)


def test_a_users_list_of_test_scenes(tmp_path):
    layouts.write("smid", tmp_path)
    (tmp_path / "test_list.txt").write_text("0001\n0008\n\n")
    test = data.open_source("smid", root=tmp_path, split="test")
    assert set(test.scenes) == {"0001", "0008"}
    train = data.open_source("smid", root=tmp_path, split="train")
    assert set(train.scenes) == {"0007"}


@pytest.mark.filterwarnings("ignore::llie_jax.messages.Note")
def test_misaligned_scenes_are_named_and_can_be_left_out(tmp_path):
    layouts.write("sid", tmp_path)
    test = checking.check("sid", root=tmp_path)[1]
    assert any("2 pairs of the scenes 10034 are misal" in note for note in test.notes)
    layouts.Tree(tmp_path).add("short_sid2/10003/a.npy")
    layouts.Tree(tmp_path).add("long_sid2/10003/a.npy")
    (tmp_path / "exclude.txt").write_text("10034\n")
    assert data.open_source("sid", root=tmp_path, split="test").scenes == ("10003",)


@pytest.mark.parametrize("name", ["sid", "lsrw", "sice", "dicm"])
def test_prepared_sets_have_the_same_records(name, tmp_path):
    expected = layouts.write(name, tmp_path / "raw")
    directory = preparing.prepare(name, root=tmp_path / "raw", data_dir=tmp_path)
    for split, records in expected.items():
        folders = data.open_source(name, root=tmp_path / "raw", split=split)
        stored = data.open_source(directory, split=split)
        assert (stored.names, stored.scenes) == (folders.names, folders.scenes)
        assert (stored.keys, stored.size) == (folders.keys, folders.size)
        assert stored.dtypes() == folders.dtypes()
        np.testing.assert_array_equal(stored.sizes(), folders.sizes())
        for record in unresized(stored):
            for key, pixels in zip(stored.keys, records[record["name"]], strict=True):
                np.testing.assert_array_equal(record[key], pixels)
        if catalogue.get(name).shared_target:
            assert len({stored.identity(i, "target") for i in range(len(stored))}) == (
                len(set(stored.scenes))
            )


@pytest.mark.parametrize("name", ["sid", "lsrw", "sdsd_indoor"])
def test_a_run_may_go_on_with_the_prepared_set(name, tmp_path, monkeypatch):
    layouts.write(name, tmp_path / "raw")
    directory = preparing.prepare(name, root=tmp_path / "raw", data_dir=tmp_path)
    folders = data.open_source(name, root=tmp_path / "raw", split="train")
    stored = data.open_source(directory, split="train")
    file = directory / "metadata.json"  # older versions stored no sizes of files
    metadata = json.loads(file.read_text())
    del metadata["byte_sizes"]
    file.write_text(json.dumps(metadata))
    older = data.open_source(directory, split="train")
    monkeypatch.setattr(integrity, "_SAMPLE", 1)
    for limit in (2000, 0):
        monkeypatch.setattr(integrity, "_LISTED", limit)
        before = integrity.describe_data(folders, None)
        assert integrity.describe_data(stored, None) == before
        saved = 7, Record({}, {}, {"data": before})
        found = integrity.describe_data(older, None)
        integrity.check_data(saved, found, accept=False)
    known = {stored.byte_size(i, "image") for i in range(len(stored))}
    assert (known == {None}) == (name != "lsrw")


def test_the_fingerprint_of_a_prepared_set_reads_the_sample_only(tmp_path, monkeypatch):
    layouts.write("lsrw", tmp_path / "raw")
    directory = preparing.prepare("lsrw", root=tmp_path / "raw", data_dir=tmp_path)
    stored = data.open_source(directory, split="train")
    table = {"a": {"name": "lsrw", "root": str(directory), "split": "train"}}
    seen = []
    read = type(stored)._read
    monkeypatch.setattr(
        type(stored), "_read", lambda *args: seen.append(args[1:]) or read(*args)
    )
    monkeypatch.setattr(integrity, "_SAMPLE", 1)
    assert len(stored) > 1
    for source in (stored, data.open_mixture(table)):
        seen.clear()
        integrity.describe_data(source, None)
        assert len(seen) == 2
    seen.clear()
    part = sources.SubsetSource(stored, [0], split="part")
    assert (part.dtypes(), seen) == (stored.dtypes(), [])


def test_real_photos(shared, tmp_path):
    for name, count in (("lime", 8), ("mef", 17), ("npe", 8)):
        root = shared / "data/unpaired" / name
        (check,) = checking.check(name, root=root)
        assert (check.count, check.unit, check.problems) == (count, "images", ())
        assert (check.state == "complete") == (name != "lime")
        directory = preparing.prepare(name, root=root, data_dir=tmp_path)
        stored, folder = (
            data.open_source(directory),
            data.open_source(name, root=root, split="test"),
        )
        assert stored.fingerprint() == folder.fingerprint() == check.fingerprint
        np.testing.assert_array_equal(stored[0]["image"], folder[0]["image"])
