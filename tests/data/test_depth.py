"""Pairs keep the depth of their files from the folder to the floats on the device."""

import jax
import numpy as np
import pytest

from llie_jax import data
from llie_jax.data import Stage, checking, preparing, synthetic
from llie_jax.image import resize
from llie_jax.training.step import as_images
from tests.image import files

SIZE = (16, 12)


@pytest.fixture
def folder(tmp_path):
    """Three pairs: deep ones of PNG and of TIFF, and one of 8 bits."""
    deep = [files.colours(*SIZE, seed=seed, dtype=np.uint16) for seed in range(4)]
    for place, first in (("low", 0), ("high", 2)):
        (tmp_path / place).mkdir()
        dark = deep[first] // (100 if place == "low" else 1)
        (tmp_path / place / "a.png").write_bytes(files.png(dark))
        other = deep[first + 1]
        (tmp_path / place / "b.tif").write_bytes(files.tiff(other, planar=True))
        shallow = files.colours(*SIZE, seed=9 + first)
        (tmp_path / place / "c.png").write_bytes(files.png(shallow, bits=8))
    return tmp_path


def unit(values):
    return values / np.float32(np.iinfo(values.dtype).max)


def test_records_are_as_deep_as_their_files(folder):
    source = data.open_source(folder)
    assert [source[i]["image"].dtype for i in range(3)] == ["uint16", "uint16", "uint8"]
    assert source.dtypes() == {"image": np.uint16, "target": np.uint16}
    dark = files.colours(*SIZE, seed=0, dtype=np.uint16) // 100
    np.testing.assert_array_equal(source[0]["image"], dark)
    assert len(np.unique(dark)) > 256
    assert not any(check.problems for check in checking.check(folder))


@pytest.mark.parametrize("residence", ["host", "device"])
def test_batches_are_16_bits_until_they_are_floats(folder, residence):
    source = data.open_source(folder)
    augment = {"flip_horizontal": False, "flip_vertical": False}
    stages = [Stage(1, *SIZE[:1], 3, SIZE[1])]
    pipeline = data.make_pipeline(source, stages, augment=augment, residence=residence)
    (batch,) = pipeline.batches()
    batch = pipeline.expand(pipeline.resident, batch)
    assert batch["image"].dtype == batch["target"].dtype == np.uint16
    floats = jax.jit(as_images)(batch)
    for place, index in enumerate(batch["index"]):
        record = source[int(index)]
        for key in ("image", "target"):
            np.testing.assert_allclose(floats[key][place], unit(record[key]), rtol=2e-7)


def test_a_set_of_8_bits_stays_so(folder):
    for file in (*folder.glob("*/a.png"), *folder.glob("*/b.tif")):
        file.unlink()
    pipeline = data.make_pipeline(data.open_source(folder), [Stage(1, 8, 1)])
    assert {values.dtype for values in pipeline.resident.values()} == {np.dtype("u1")}


def test_the_limit_of_the_device_counts_all_bytes(folder):
    source = data.open_source(folder)
    count = 2 * 3 * SIZE[0] * SIZE[1] * 3
    for limit, residence in ((2 * count, "device"), (2 * count - 1, "host")):
        pipeline = data.make_pipeline(
            source, [Stage(1, 8, 1)], device_limit_bytes=limit
        )
        assert pipeline.residence == residence


def test_mixtures_and_sizes_keep_the_depth(folder):
    source = data.open_source(folder)
    pipeline = data.make_pipeline(
        source, [Stage(3, 8, 3)], augment={"mixup": 1.2}, residence="host"
    )
    for batch in pipeline.batches():
        mixed = pipeline.expand({}, batch)["image"]
        assert mixed.dtype in (np.uint16, np.float32)
        assert mixed.dtype == np.uint16 or mixed.max() <= 1
    deep = source[1]["image"]
    resized = resize.resize(deep, (2 * SIZE[0], SIZE[1]))
    assert resized.dtype == np.uint16
    # Between two rows: a quarter of one, three quarters of the other.
    expected = 0.75 * deep[0].astype(float) + 0.25 * deep[1]
    np.testing.assert_allclose(resized[1], expected, atol=0.51)


def test_a_prepared_set_has_the_same_depth(folder, tmp_path):
    root = tmp_path / "lol"
    (root / "our485").mkdir(parents=True)
    for place in ("low", "high"):
        (folder / place).rename(root / "our485" / place)
    written = preparing.prepare("lol_v1", root=root, data_dir=tmp_path / "tfds")
    stored = data.open_source(written, split="train")
    folders = data.open_source(root, split="train")
    assert stored.dtypes() == folders.dtypes()
    for one, other in zip(stored, folders, strict=True):
        assert one["image"].dtype == other["image"].dtype
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["target"], other["target"])


def test_darkening_uses_the_full_depth():
    deep = files.colours(40, 40, dtype=np.uint16)
    options = dict(exposure=1.0, full_well=1e9, read_noise=0.0, bits=16)
    for photo in (deep, unit(deep), (deep >> 8).astype(np.uint8)):
        result = synthetic.darken(photo, **options)
        # No light is lost and no noise is added, so only the rounding remains.
        expected = np.rint(255.0 * unit(photo)) if photo.dtype != "f4" else 255 * photo
        assert np.abs(result - np.rint(expected)).max() <= 1
    nearest = synthetic.darken(deep, **options)
    assert (nearest == np.rint(deep / 257)).mean() > 0.99
