"""Tests of the TFDS faces under `datasets/`."""

import importlib.util
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from llie_jax import data
from llie_jax.data import prepared, synthetic
from tests.conftest import ROOT
from tests.data import trees


def register(name: str) -> type:
    """Imports a builder's module as TFDS users do, and returns its Builder."""
    module_name = f"datasets.{name}.{name}_dataset_builder"
    if module_name not in sys.modules:
        path = ROOT / "datasets" / name / f"{name}_dataset_builder.py"
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return sys.modules[module_name].Builder


def test_every_builder_has_a_face_and_a_readme():
    assert {
        folder.name
        for folder in (ROOT / "datasets").iterdir()
        if (folder / f"{folder.name}_dataset_builder.py").is_file()
        and (folder / "README.md").is_file()
    } == set(prepared.BUILDERS)


@pytest.mark.parametrize("name", list(prepared.BUILDERS))
def test_registered_under_its_name(name, tmp_path):
    face = register(name)
    assert face.name == name
    builder = tfds.builder(name, data_dir=tmp_path, file_format="array_record")
    assert isinstance(builder, face)


def test_lol_v1_gives_the_same_records(tmp_path):
    root = trees.lol(tmp_path / "raw")
    register("lol_v1")
    builder = tfds.builder("lol_v1", data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=root)
    )
    folders = data.open_source(root, split="train")
    records = builder.as_data_source("train")
    for record, pair in zip(records, folders, strict=True):
        assert record["name"].decode() == pair["name"]
        np.testing.assert_array_equal(record["image"], pair["image"])
        np.testing.assert_array_equal(record["target"], pair["target"])
    # What TFDS wrote is opened as what `prepare` writes.
    stored = data.open_source(tmp_path / "lol_v1", split="test")
    assert list(stored.names) == ["1"]


def test_demo_makes_its_own_files(tmp_path, monkeypatch):
    def write_little(root):
        trees.pairs(root / "train", ("cat-1", "cat-2"))
        trees.pairs(root / "test", ("cup-1",))

    monkeypatch.setattr(synthetic, "write_demo", write_little)
    register("lowlight_demo")
    builder = tfds.builder(
        "lowlight_demo", data_dir=tmp_path, file_format="array_record"
    )
    builder.download_and_prepare()
    stored = data.open_source(tmp_path / "lowlight_demo", split="train")
    assert list(stored.scenes) == ["cat", "cat"]
