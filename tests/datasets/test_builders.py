"""Tests of the TFDS faces under `datasets/`."""

import importlib.util
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from llie_jax import data
from llie_jax.data import catalogue, prepared, preparing, synthetic
from tests.conftest import ROOT
from tests.data import layouts, trees
from tests.image import files

WRITTEN_BY_HAND = ("lol_v1", "lol_v2_real", "lol_v2_syn", "lowlight_demo")


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


@pytest.mark.parametrize("name", list(prepared.BUILDERS))
def test_a_builder_gives_the_records_of_the_files(name, tmp_path):
    expected = layouts.write(name, tmp_path / "raw")
    register(name)
    builder = tfds.builder(name, data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "raw")
    )
    known = catalogue.get(name)
    for split, records in expected.items():
        stored = builder.as_data_source(split)
        targets = {}
        if known.shared_target:
            references = builder.as_data_source(f"{split}_targets")
            targets = {each["scene"]: each["image"] for each in references}
        assert [each["name"].decode() for each in stored] == sorted(records)
        for record in stored:
            image, *target = records[record["name"].decode()]
            np.testing.assert_array_equal(record["image"], image)
            if target:
                found = record.get("target", targets.get(record["scene"]))
                np.testing.assert_array_equal(found, target[0])
        # What TFDS wrote is opened as what `prepare` writes.
        opened = data.open_source(tmp_path / name, split=split)
        assert (list(opened.names), opened.keys) == (sorted(records), known.keys)


@pytest.mark.parametrize("name", list(prepared.BUILDERS))
def test_the_readme_states_the_facts(name):
    text = " ".join((ROOT / "datasets" / name / "README.md").read_text().split())
    known = catalogue.get(name)
    facts = [f"{count:,}" for count in known.counts.values()]
    if name not in WRITTEN_BY_HAND:
        facts += [known.layout(), known.page, known.licence, known.citation]
    for fact in facts:
        assert fact in text


def test_16_bits_are_in_the_schema(tmp_path):
    root = tmp_path / "raw"
    pixels = files.colours(6, 8, dtype=np.uint16)
    for part, file in enumerate(("our485/{}/1.png", "eval15/{}/2.png"), 1):
        for place, factor in (("low", 100), ("high", 1)):
            path = root / file.format(place)
            path.parent.mkdir(parents=True)
            path.write_bytes(files.png(pixels // (part * factor)))
    register("lol_v1")
    options = dict(data_dir=tmp_path, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=root)
    shallow = tfds.builder("lol_v1", **options)
    with pytest.raises(ValueError, match=r"16 bits .* make it with bits=16"):
        shallow.download_and_prepare(download_config=config)
    deep = tfds.builder("lol_v1", bits=16, **options)
    deep.download_and_prepare(download_config=config)
    written = preparing.prepare("lol_v1", root=root, data_dir=tmp_path / "ours")
    for directory in (deep.data_dir, written):
        schema = tfds.builder_from_directory(directory).info.features
        assert schema["image"].np_dtype == schema["target"].np_dtype == np.uint16
        stored = data.open_source(directory, split="test")
        np.testing.assert_array_equal(stored[0]["target"], pixels // 2)


def test_demo_makes_its_own_files(tmp_path, monkeypatch):
    def write_little(root):
        trees.pairs(root / "train", ("cat-1", "cat-2"))
        trees.pairs(root / "test", ("cup-1",), first=50)

    monkeypatch.setattr(synthetic, "write_demo", write_little)
    register("lowlight_demo")
    builder = tfds.builder(
        "lowlight_demo", data_dir=tmp_path, file_format="array_record"
    )
    builder.download_and_prepare()
    stored = data.open_source(tmp_path / "lowlight_demo", split="train")
    assert list(stored.scenes) == ["cat", "cat"]
