"""Tests of the plan of crops, flips and rotations."""

import jax
import numpy as np
import pytest

from llie_jax.data import transforms
from llie_jax.data.transforms import Augment, Plan, Stage
from llie_jax.image import resize

SIZES = np.array([[12, 20], [9, 8], [16, 16], [10, 30], [8, 8]])
STAGES = (Stage(6, 4, 4), Stage(5, 8, 6))
NOTHING = Augment(flip_horizontal=False, flip_vertical=False)


def plan(*, sizes=SIZES, stages=STAGES, augment=None, seed=0) -> Plan:
    return Plan(sizes, stages, augment or Augment(), seed)


def assert_same(one: dict, other: dict):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], key)


def test_plan_is_a_function_of_seed_and_step():
    for step in range(11):
        assert_same(plan().batch(step), plan().batch(step))
    assert (plan().batch(0)["rows"] != plan(seed=1).batch(0)["rows"]).any()
    assert (plan().batch(0)["rows"] != plan().batch(1)["rows"]).any()


def test_shapes_and_types():
    batch = plan().batch(7)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "index": ((6,), np.int32),
        "rows": ((6, 8), np.int32),
        "columns": ((6, 8), np.int32),
        "transpose": ((6,), bool),
    }


MIXING = Augment(mixup=1.2, gamma=(0.6, 1.2))


def test_mixtures_and_exponents_are_one_for_a_batch():
    made = plan(augment=MIXING, stages=(Stage(400, 4, 4),))
    batches = [made.batch(step) for step in range(400)]
    unmixed = plan(stages=(Stage(400, 4, 4),))
    for step, batch in enumerate(batches[:20]):
        assert np.ptp(batch["share"]) == np.ptp(batch["gamma"]) == 0
        own = {tuple(rows) for rows in batch["rows"]}
        assert {tuple(rows) for rows in batch["partner_rows"]} == own
        crops = unmixed.batch(step)
        assert_same({key: batch[key] for key in crops}, crops)
    shares = np.array([batch["share"][0] for batch in batches])
    kept = shares[shares < 1]
    assert 0.4 < np.mean(shares == 1) < 0.6
    # Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4).
    np.testing.assert_allclose(kept.mean(), 0.5, atol=0.06)
    np.testing.assert_allclose(kept.var(), 1 / (8 * 1.2 + 4), rtol=0.25)
    exponents = np.array([batch["gamma"][0] for batch in batches])
    np.testing.assert_allclose(100 * exponents, np.rint(100 * exponents), atol=1e-4)
    assert set(np.rint(100 * exponents)) <= set(range(60, 121))
    assert exponents.min() < 0.63
    assert exponents.max() > 1.17


def test_mix():
    image = np.stack([np.full((2, 2, 3), 51), np.full((2, 2, 3), 255)]).astype(np.uint8)
    batch = {
        "image": image,
        "target": 255 - image,
        "partner_image": image[::-1],
        "partner_target": 255 - image[::-1],
        "share": np.full(2, 0.75, np.float32),
        "gamma": np.full(2, 2.0, np.float32),
        "index": np.arange(2),
    }
    mixed = transforms.mix(batch)
    assert set(mixed) == {"image", "target", "index"}
    np.testing.assert_allclose(mixed["image"][0], 0.4**2, rtol=1e-5)
    np.testing.assert_allclose(mixed["target"][0], 0.6, rtol=1e-5)
    plain = {key: batch[key] for key in ("image", "target", "index")}
    assert transforms.mix(plain)["image"].dtype == np.uint8


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (dict(mixup=-1.0), "mixup is -1.0; give 0 or more"),
        (dict(gamma=(0.0, 1.0)), "both above 0"),
        (dict(gamma=(1.2, 0.6)), "the lowest and the highest"),
        (dict(relight=1.5), "relight is 1.5; give a share"),
        (dict(exposures=(0.5, 0.1)), "the lowest and the highest factor"),
        (dict(exposures=(0.5, 2.0)), "factors above 1 would clip"),
    ],
)
def test_augmentations_that_make_no_sense(fields, expected):
    with pytest.raises(ValueError, match=expected):
        Augment(**fields)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_parts_of_processes_make_the_whole(count):
    size = 6 // count
    made = plan(augment=MIXING)
    parts = [made.batch(8, slice(i * size, (i + 1) * size)) for i in range(count)]
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert_same(whole, made.batch(8))


def test_epochs_visit_every_record_once_and_go_on_over_stages():
    order = np.concatenate([plan().batch(step)["index"] for step in range(11)])
    assert len(order) == 6 * 4 + 5 * 6
    epochs = order[:50].reshape(-1, len(SIZES))
    np.testing.assert_array_equal(np.sort(epochs), [range(5)] * 10)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_batch_larger_than_the_set():
    batch = plan(sizes=SIZES[:2], stages=(Stage(1, 8, 7),)).batch(0)
    assert np.bincount(batch["index"]).min() == 3


def test_crops_stay_inside_and_reach_the_borders():
    stage = Stage(400, 8, 8)
    batches = [plan(stages=(stage,)).batch(step) for step in range(400)]
    index, rows, columns = (
        np.concatenate([batch[key] for batch in batches])
        for key in ("index", "rows", "columns")
    )
    for number, (height, width) in enumerate(SIZES):
        for runs, size in ((rows, height), (columns, width)):
            here = runs[index == number]
            assert (here.min(), here.max()) == (0, size - 1)
    np.testing.assert_array_equal(np.abs(np.diff(rows)), 1)


def test_no_step_beyond_the_stages():
    with pytest.raises(IndexError, match="11 steps"):
        plan().batch(11)


@pytest.mark.parametrize(
    ("augment", "variants"),
    [
        (NOTHING, 1),
        (Augment(flip_vertical=False), 2),
        (Augment(), 4),
        (Augment(flip_horizontal=False, flip_vertical=False, rotate=True), 4),
        (Augment(rotate=True), 8),
    ],
)
def test_variants_are_those_asked_for_and_equally_frequent(augment, variants):
    image = np.arange(4).reshape(2, 2, 1)
    one = plan(
        sizes=np.array([[2, 2]]), stages=(Stage(1, 2, 4000),), augment=augment
    ).batch(0)
    seen = [
        transforms.crop(image, rows, columns, transpose).ravel().tolist()
        for rows, columns, transpose in zip(
            one["rows"], one["columns"], one["transpose"], strict=True
        )
    ]
    kinds, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(kinds) == variants
    np.testing.assert_allclose(counts, 4000 / variants, rtol=0.2)
    if augment.rotate and not augment.flip_vertical:
        turned = [np.rot90(image[..., 0], k).ravel().tolist() for k in range(4)]
        assert sorted(kinds.tolist()) == sorted(turned)


def test_crop_of_a_known_image():
    image = np.arange(5 * 6).reshape(5, 6, 1)
    up, down = np.array([1, 2, 3]), np.array([2, 1, 0])
    cases = [
        ((up, up, False), image[1:4, 1:4]),
        ((down, up, False), image[2::-1, 1:4]),
        ((up, down, False), image[1:4, 2::-1]),
        ((up, down, True), image[1:4, 2::-1].swapaxes(0, 1)),
    ]
    for arguments, expected in cases:
        np.testing.assert_array_equal(transforms.crop(image, *arguments), expected)


def test_crop_on_the_device_equals_numpy():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 30, 3), np.uint8)
    batch = plan(augment=Augment(rotate=True)).batch(9)
    on_device = np.asarray(transforms.crop_batch(images, batch))
    for place, index in enumerate(batch["index"]):
        where = (batch[key][place] for key in ("rows", "columns", "transpose"))
        np.testing.assert_array_equal(
            on_device[place], transforms.crop(images[index], *where)
        )


def test_patch_larger_than_an_image():
    names = ["a", "b", "c", "d", "tiny"]
    with pytest.raises(ValueError, match=r"crop of 9 x 9 .*'b', 9 x 8 \(height x"):
        transforms.check_patches(SIZES[:4], names, [Stage(1, 8, 1), Stage(1, 9, 1)])
    transforms.check_patches(SIZES, names, [Stage(1, 8, 1)])
    with pytest.raises(ValueError, match=r"crop of 9 x 12 .*'c', 16 x 11"):
        transforms.check_patches(
            np.array([[9, 12], [9, 13], [16, 11]]), names, [Stage(1, 9, 1, 12)]
        )


def test_crops_that_are_not_square():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 6, 10, 3), np.uint8)
    batch = plan(
        sizes=np.tile([[6, 10]], (3, 1)), stages=(Stage(1, 6, 8, 10),), augment=MIXING
    ).batch(0)
    assert (batch["rows"].shape, batch["columns"].shape) == ((8, 6), (8, 10))
    on_device = np.asarray(transforms.crop_batch(images, batch))
    for place, index in enumerate(batch["index"]):
        where = (batch[key][place] for key in ("rows", "columns", "transpose"))
        whole = images[index]
        found = transforms.crop(whole, *where)
        np.testing.assert_array_equal(on_device[place], found)
        flips = (whole, whole[::-1], whole[:, ::-1], whole[::-1, ::-1])
        assert any(np.array_equal(found, flip) for flip in flips)
    with pytest.raises(ValueError, match=r"square crops, not 6 x 10; set it to False"):
        plan(stages=(Stage(1, 6, 8, 10),), augment=Augment(rotate=True))


@pytest.mark.parametrize("size", [(7, 12), (5, 4), (13, 9), (1, 30)])
def test_resize(size):
    image = np.random.default_rng(0).integers(0, 256, (7, 12, 3), np.uint8)
    expected = jax.image.resize(
        image.astype(np.float32), (*size, 3), "linear", antialias=False
    )
    found = resize.resize(image, size)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.501)


def test_resize_of_a_known_row():
    row = np.array([0, 40, 100, 60], np.uint8).reshape(1, 4, 1)
    half = resize.resize(row, (1, 2))
    assert half.ravel().tolist() == [20, 80]
    double = resize.resize(row[:, :2], (2, 4))
    assert double[..., 0].tolist() == [[0, 10, 30, 40]] * 2
