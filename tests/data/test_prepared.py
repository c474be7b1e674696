"""Tests of the TFDS format: written and read without TensorFlow."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from llie_jax import data, messages
from llie_jax.data import catalogue, checking, locating, prepared, preparing
from llie_jax.data.dataset import Dataset
from llie_jax.image import io
from tests.data import trees


@pytest.fixture(scope="module")
def lol(tmp_path_factory):
    """A miniature LOL-v1 as folders, and prepared."""
    base = tmp_path_factory.mktemp("lol")
    root = trees.lol(base / "raw")
    return root, preparing.prepare("lol_v1", root=root, data_dir=base / "tfds")


@pytest.mark.parametrize("split", ["train", "test"])
def test_same_records_as_the_folders(lol, split):
    root, directory = lol
    folders = data.open_source("lol_v1", root=root, split=split)
    # By the folder itself, by its parent, and by the default root of the name.
    for where in (directory, directory.parent):
        stored = data.open_source(where, split=split)
        assert isinstance(stored, prepared.PreparedSource)
        assert (stored.name, stored.split) == ("lol_v1", split)
        assert list(stored.names) == list(folders.names)
        assert list(stored.scenes) == list(folders.scenes)
        assert stored.fingerprint() == folders.fingerprint()
        assert stored.note() == folders.note()
        np.testing.assert_array_equal(stored.sizes(), folders.sizes())
        for one, other in zip(stored, folders, strict=True):
            assert one["name"] == other["name"]
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["target"], other["target"])


def test_a_set_without_references(tmp_path, monkeypatch):
    known = Dataset(
        name="dark_photos",
        title="photos",
        splits={"test": ()},
        counts={"test": 3},
        keys=("image",),
    )
    monkeypatch.setitem(catalogue.DATASETS, known.name, known)

    monkeypatch.setitem(prepared.BUILDERS, known.name, prepared.builder(known))
    root = trees.photos(tmp_path / "raw", ("b", "a"))
    directory = preparing.prepare(known.name, root=root, data_dir=tmp_path / "tfds")
    stored = data.open_source(directory)
    folder = data.open_source("image_folder", root=root)
    assert (stored.name, stored.keys, stored.split) == (known.name, ("image",), "test")
    assert stored.names == folder.names == ("a", "b")
    assert stored.note() == "2 of 3: a subset"
    for one, other in zip(stored, folder, strict=True):
        assert set(one) == set(other) == {"name", "scene", "image"}
        np.testing.assert_array_equal(one["image"], other["image"])
    (check,) = checking.check(directory)
    assert (check.count, check.unit, check.state) == (2, "images", "subset: 2 of 3")


def test_found_by_name(lol, monkeypatch):
    monkeypatch.setenv("LLIE_JAX_DATA", str(lol[1].parents[1]))
    assert len(data.open_source("lol_v1", split="train")) == 3


def test_stored_bytes_are_those_of_the_files(lol):
    root, directory = lol
    raw = {"image": tfds.decode.SkipDecoding()}
    records = tfds.builder_from_directory(directory).as_data_source(
        "train", decoders=raw
    )
    assert records[0]["image"] == (root / "our485/low/10.png").read_bytes()


def test_grey_and_transparent_images_are_read_alike(tmp_path):
    root = trees.lol(tmp_path / "raw")
    grey = trees.image(0)[..., 0]
    alpha = np.dstack([trees.image(1), grey])
    for name, pixels in (("2", grey), ("10", alpha)):
        io.Image.fromarray(pixels).save(root / f"our485/low/{name}.png")
    directory = preparing.prepare("lol_v1", root=root, data_dir=tmp_path)
    stored = data.open_source(directory, split="train")
    assert [record["image"].shape for record in stored] == 3 * [(8, 8, 3)]
    np.testing.assert_array_equal(stored[0]["image"], trees.image(1))


def test_source_can_be_pickled_and_feeds_both_loaders(lol):
    source = data.open_source(lol[1], split="train")
    source[0]
    source = pickle.loads(pickle.dumps(source))
    streams = [
        list(
            map(
                pipeline.expand,
                [pipeline.resident] * 2,
                pipeline.batches(),
            )
        )
        for pipeline in (
            data.make_pipeline(source, [data.Stage(2, 4, 3)], residence=residence)
            for residence in ("device", "host")
        )
    ]
    for one, other in zip(*streams, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_no_tensorflow(lol):
    if importlib.util.find_spec("tensorflow") is None:
        assert "tensorflow" not in sys.modules
    else:
        pytest.skip("TensorFlow is installed here, so its absence cannot be shown")


def test_what_cannot_be_prepared(lol, tmp_path):
    root, directory = lol
    with pytest.raises(FileExistsError, match="remove it"):
        preparing.prepare("lol_v1", root=root, data_dir=directory.parents[1])
    scenes = trees.scenes(tmp_path / "scenes", {"cafe": ("1", "2")})
    with pytest.raises(ValueError, match="needs no preparation"):
        preparing.prepare("exposure_pairs", root=scenes, data_dir=tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'lol_v1'"):
        preparing.prepare("lol_v2", root=root, data_dir=tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"our485/\{low,high\}"):
        preparing.prepare("lol_v1", root=foreign, data_dir=tmp_path)
    assert not list(tmp_path.glob("lol_v1/*"))


def test_wrong_split_of_a_prepared_set(lol):
    with pytest.raises(ValueError, match=r"no split 'val'.* it has train, test"):
        data.open_source(lol[1], split="val")


def test_foreign_tfds_folder(lol, tmp_path):
    directory = lol[1]
    for file in directory.iterdir():
        if file.name != "metadata.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="was not written by"):
        data.open_source(tmp_path, split="train")


def test_an_interrupted_run_resumes_to_the_same_records(tmp_path, monkeypatch):
    root = trees.lol(tmp_path / "raw")
    monkeypatch.setattr(preparing, "SHARD_BYTES", 300)  # a record or two each
    whole = preparing.prepare("lol_v1", root=root, data_dir=tmp_path / "whole")
    count = len(list(whole.glob("*.array_record*")))
    assert count > 2
    written = []
    write = preparing.write_shard

    def fail_at_the_third(shard, *args):
        if len(written) == 2:
            # As after SIGKILL: what was begun lies there.
            shard.file.with_name(f".{shard.file.name}.1-1.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(shard.file.name)
        return write(shard, *args)

    monkeypatch.setattr(preparing, "write_shard", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare("lol_v1", root=root, data_dir=tmp_path / "parts")
    assert locating.prepared(tmp_path / "parts/lol_v1") is None
    again = []
    monkeypatch.setattr(
        preparing,
        "write_shard",
        lambda shard, *args: again.append(shard.file.name) or write(shard, *args),
    )
    with pytest.warns(messages.Note, match=r"resuming: \d of 4 records"):
        parts = preparing.prepare("lol_v1", root=root, data_dir=tmp_path / "parts")
    assert len(again) == count - 2
    assert not set(again) & set(written)
    assert preparing.digest(parts) == preparing.digest(whole)
    assert {file.name: file.read_bytes() for file in parts.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }


def test_changed_files_start_over(tmp_path, monkeypatch):
    root = trees.lol(tmp_path / "raw")
    write = preparing.write_shard

    def fail(shard, *args):
        write(shard, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "write_shard", fail)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare("lol_v1", root=root, data_dir=tmp_path)
    monkeypatch.setattr(preparing, "write_shard", write)
    io.write_image(root / "our485/low/10.png", trees.image(99))
    stored = data.open_source(
        preparing.prepare("lol_v1", root=root, data_dir=tmp_path), split="train"
    )
    np.testing.assert_array_equal(stored[0]["image"], trees.image(99))


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same(tmp_path, monkeypatch):
    root = trees.lol(tmp_path / "raw")
    monkeypatch.setattr(preparing, "SHARD_BYTES", 300)
    digests = {
        preparing.digest(
            preparing.prepare(
                "lol_v1", root=root, data_dir=tmp_path / str(count), processes=count
            )
        )
        for count in (1, 3)
    }
    assert len(digests) == 1


def test_two_runs_at_once(tmp_path, monkeypatch):
    root = trees.lol(tmp_path / "raw")
    write = preparing.write_shard

    def start_another(shard, *args):
        with pytest.raises(OSError, match="is being prepared by another process"):
            preparing.prepare("lol_v1", root=root, data_dir=tmp_path)
        return write(shard, *args)

    monkeypatch.setattr(preparing, "write_shard", start_another)
    assert preparing.prepare("lol_v1", root=root, data_dir=tmp_path).is_dir()
