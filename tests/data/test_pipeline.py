"""Tests of the two loaders."""

import itertools
import threading

import jax
import numpy as np
import pytest

from llie_jax import data
from llie_jax.data import Stage
from llie_jax.image import overview, resize
from tests.data import trees

STAGES = (Stage(3, 4, 4), Stage(4, 8, 2))
SYMMETRIES = {"flip_horizontal": True, "flip_vertical": True, "rotate": True}


@pytest.fixture
def source(tmp_path):
    """Five pairs of two sizes."""
    trees.pairs(tmp_path, ("a", "b", "c"), size=(9, 12))
    trees.pairs(tmp_path, ("d", "e"), size=(16, 8))
    return data.open_source(tmp_path)


def batches(pipeline, *steps) -> list[dict[str, np.ndarray]]:
    """The batches as the training step sees them."""
    expand = jax.jit(pipeline.expand)
    return [
        jax.tree.map(np.asarray, expand(pipeline.resident, batch))
        for batch in pipeline.batches(*steps)
    ]


def assert_same(one: list, other: list):
    assert len(one) == len(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_both_loaders_give_the_same_batches(source):
    made = {
        residence: data.make_pipeline(
            source, STAGES, seed=5, augment=SYMMETRIES, residence=residence
        )
        for residence in ("device", "host")
    }
    device, host = (batches(pipeline) for pipeline in made.values())
    assert_same(device, host)
    assert [batch["image"].shape for batch in host] == 3 * [(4, 4, 4, 3)] + 4 * [
        (2, 8, 8, 3)
    ]
    for batch in host:
        assert batch["image"].dtype == batch["target"].dtype == np.uint8


@pytest.mark.parametrize("augment", [{}, {"mixup": 1.2}])
def test_both_loaders_resize_alike(source, augment):
    device, host = (
        batches(
            data.make_pipeline(
                source,
                [Stage(4, 6, 5, 14)],
                size=(6, 14),
                augment=augment,
                residence=residence,
            )
        )
        for residence in ("device", "host")
    )
    assert_same(device, host)
    assert {batch["image"].shape for batch in host} == {(5, 6, 14, 3)}
    if not augment:
        # Whole images, flipped or not, have equal sums.
        for batch in host:
            for index, image, target in zip(
                batch["index"], batch["image"], batch["target"], strict=True
            ):
                for key, pixels in (("image", image), ("target", target)):
                    whole = resize.resize(source[index][key], (6, 14))
                    assert pixels.sum() == whole.sum()


class WithMap(data.Source):
    """Photos with a map beside each, and no target."""

    name, split, expected_counts = "toys", "all", {}
    keys = ("image", "map")

    def __init__(self, photos):
        self.photos = photos
        self.names, self.scenes = photos.names, photos.scenes

    def _read(self, index, key):
        return self.photos._read(index if key == "image" else -1 - index, "image")


@pytest.mark.parametrize("keys", [("image",), ("image", "map")])
@pytest.mark.parametrize("augment", [SYMMETRIES, {"mixup": 1.2, "gamma": (0.6, 1.2)}])
def test_records_without_targets(tmp_path, keys, augment):
    photos = data.open_source(trees.photos(tmp_path, tuple("abcde"), size=(9, 12)))
    source = WithMap(photos) if "map" in keys else photos
    made = [
        data.make_pipeline(source, STAGES, augment=augment, residence=residence)
        for residence in ("device", "host")
    ]
    assert set(made[0].resident) == set(keys)
    device, host = map(batches, made)
    assert_same(device, host)
    for batch in host:
        assert set(batch) == {*keys, "index"}
    # The crops are those of pairs, and all images of a record are cropped alike.
    trees.pairs(tmp_path / "pairs", tuple("abcde"), size=(9, 12))
    for file in photos.files:
        low = tmp_path / "pairs/low" / file[0].name
        low.write_bytes(file[0].read_bytes())
    paired = data.open_source(tmp_path / "pairs")
    for one, other in zip(
        host, batches(data.make_pipeline(paired, STAGES, augment=augment)), strict=True
    ):
        np.testing.assert_array_equal(one["image"], other["image"])
    limit = len(keys) * 5 * 9 * 12 * 3
    for size, expected in ((limit, "device"), (limit - 1, "host")):
        pipeline = data.make_pipeline(source, STAGES, device_limit_bytes=size)
        assert pipeline.residence == expected


def test_residence_follows_the_size_after_resizing(source):
    needed = 2 * 5 * 6 * 14 * 3
    for limit, expected in ((needed, "device"), (needed - 1, "host")):
        pipeline = data.make_pipeline(
            source, [Stage(1, 6, 5, 14)], size=(6, 14), device_limit_bytes=limit
        )
        assert pipeline.residence == expected


def test_both_loaders_mix_alike(source):
    augment = {"mixup": 1.2, "gamma": (0.6, 1.2)}
    device, host = (
        batches(
            data.make_pipeline(source, STAGES, augment=augment, residence=residence)
        )
        for residence in ("device", "host")
    )
    assert_same(device, host)
    for batch in host:
        assert set(batch) == {"image", "target", "index"}
        assert batch["image"].dtype == np.float32
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1


def test_image_and_target_are_cropped_alike(tmp_path):
    trees.pairs(tmp_path, ("a",), size=(16, 16))
    (tmp_path / "high/a.png").write_bytes((tmp_path / "low/a.png").read_bytes())
    same = data.open_source(tmp_path)
    for residence in ("device", "host"):
        pipeline = data.make_pipeline(
            same, [Stage(2, 8, 8)], augment=SYMMETRIES, residence=residence
        )
        for batch in batches(pipeline):
            np.testing.assert_array_equal(batch["image"], batch["target"])


@pytest.mark.parametrize("residence", ["device", "host"])
def test_restart_gives_the_same_stream(source, residence):
    pipeline = data.make_pipeline(source, STAGES, residence=residence)
    whole = batches(pipeline)
    again = data.make_pipeline(source, STAGES, residence=residence)
    assert_same(whole[:2] + batches(again, 2), whole)
    assert_same(batches(again, 1, 4), whole[1:4])
    assert batches(again, 7) == []


@pytest.mark.parametrize("residence", ["device", "host"])
def test_processes_share_a_batch(source, residence):
    whole = batches(data.make_pipeline(source, STAGES, residence=residence))
    parts = [
        batches(
            data.make_pipeline(
                source,
                STAGES,
                residence=residence,
                process_index=index,
                process_count=2,
            )
        )
        for index in range(2)
    ]
    joined = jax.tree.map(lambda *each: np.concatenate(each), *parts)
    assert_same(joined, whole)


def test_auto_residence_follows_the_limit(source):
    needed = 2 * 5 * 16 * 12 * 3  # padded to the largest height and width
    for limit, expected in ((needed, "device"), (needed - 1, "host")):
        pipeline = data.make_pipeline(source, STAGES, device_limit_bytes=limit)
        assert pipeline.residence == expected
    assert pipeline.resident == {}


def test_host_cache_changes_nothing(source):
    one, other = (
        data.make_pipeline(source, STAGES, residence="host", host_cache_bytes=size)
        for size in (0, 2000)
    )
    assert_same(batches(one), batches(other))


def test_threads_end_with_the_iteration(source):
    before = threading.active_count()
    pipeline = data.make_pipeline(source, [Stage(50, 4, 2)], residence="host")
    stream = pipeline.batches()
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("grain"):
            thread.join(timeout=5)
    assert threading.active_count() <= before + 1


def test_damaged_image_is_named_by_the_host_loader(source):
    path = source.files[3][0]
    pipeline = data.make_pipeline(source, STAGES, residence="host")
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ValueError, match=r"Cannot read .*low/d.png"):
        list(pipeline.batches())
    with pytest.raises(ValueError, match=r"Cannot read .*low/d.png"):
        data.make_pipeline(source, STAGES, residence="device")


def test_subset_of_a_source(source):
    train, _ = data.split_by_reference(source, count=2)
    pipeline = data.make_pipeline(train, [Stage(2, 4, 3)], residence="device")
    assert pipeline.resident["image"].shape[0] == 3


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ([], {}, "no stages"),
        ([Stage(1, 9, 2)], {}, r"crop of 9 x 9 is larger than the image 'd', 16 x 8"),
        ([Stage(1, 4, 2, 9)], {}, r"crop of 4 x 9 is larger than the image 'd'"),
        ([Stage(1, 4, 2, 6)], {"augment": {"rotate": True}}, "square crops"),
        ([Stage(1, 4, 0)], {}, "below 1"),
        ([{"step": 1}], {}, r"no field 'step'. Did you mean 'steps'"),
        ([Stage(1, 4, 3)], {"process_count": 2}, "not divisible by 2"),
        ([Stage(1, 4, 2)], {"residence": "devise"}, "Did you mean 'device'"),
        ([Stage(1, 4, 2)], {"augment": {"rotat": True}}, "Did you mean 'rotate'"),
        ([Stage(1, 4, 2)], {"workers": 0}, "workers=0"),
    ],
)
def test_bad_options(source, stages, options, message):
    with pytest.raises(ValueError, match=message):
        data.make_pipeline(source, stages, **options)


def shows(photo, batch, i):
    """Whether a crop of a batch is where its window says, in a photo or its mirror."""
    height, width = photo.shape[:2]
    edges = batch["window"][i] * [height, width, height, width]
    top, left, bottom, right = np.rint(edges).astype(int)
    part = photo[min(top, bottom) : max(top, bottom), left:right]
    return np.array_equal(part if top < bottom else part[::-1], batch["image"][i])


@pytest.mark.parametrize("augment", [{}, {"relight": 0.5, "gamma": (0.6, 1.2)}])
def test_both_loaders_give_overviews_and_windows(source, augment):
    device, host = (
        batches(
            data.make_pipeline(
                source, STAGES, augment=augment, residence=residence, overview=2
            )
        )
        for residence in ("device", "host")
    )
    assert_same(device, host)
    for batch in host:
        count, height, width, _ = batch["image"].shape
        assert set(batch) == {"image", "target", "index", "overview", "window"}
        assert batch["overview"].shape == (count, 2, 2, 3)
        sizes = source.sizes()[batch["index"]]
        top, left, bottom, right = batch["window"].T
        np.testing.assert_allclose(abs(bottom - top) * sizes[:, 0], height, rtol=1e-5)
        np.testing.assert_allclose((right - left) * sizes[:, 1], width, rtol=1e-5)
        for i in range(count if not augment else 0):
            whole = source[int(batch["index"][i])]["image"]
            views = whole, whole[:, ::-1]
            [photo] = [x for x in views if shows(x, batch, i)]
            np.testing.assert_allclose(
                batch["overview"][i], overview.overview(photo, 2), atol=1e-6
            )


def test_overviews_and_relit_records_have_conditions(tmp_path, source):
    for augment in ({"mixup": 1.0}, {"rotate": True}):
        with pytest.raises(ValueError, match="cannot be mixed or rotated"):
            data.make_pipeline(source, STAGES, augment=augment, overview=2)
    photos = data.open_source(trees.photos(tmp_path / "photos", ("a",), size=(9, 12)))
    with pytest.raises(ValueError, match="which image_folder does not have"):
        data.make_pipeline(photos, STAGES, augment={"relight": 0.5})


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("residence", data.pipeline.RESIDENCES[1:])
def test_each_epoch_has_each_record_once(tmp_path, residence, count):
    """Whatever the number of processes, and wherever a run was resumed."""
    names = [str(i) for i in range(6)]
    trees.pairs(tmp_path, names, size=(4, 4))
    source = data.open_source(tmp_path)
    # 20 of them; neither batches nor the parts of a resumed run end with an epoch.
    stages = (Stage(2, 4, 4), Stage(3, 2, 4))
    order = []
    pipelines = [
        data.make_pipeline(
            source, stages, residence=residence, process_index=i, process_count=count
        )
        for i in range(count)
    ]
    resumed = [0, 1, 3, 5]
    for first, last in itertools.pairwise(resumed):
        parts = [list(pipeline.batches(first, last)) for pipeline in pipelines]
        for step in zip(*parts, strict=True):
            order += [index for part in step for index in part["index"].tolist()]
    epochs = np.reshape(order[:18], (3, 6))
    np.testing.assert_array_equal(np.sort(epochs), [range(6)] * 3)
    assert len({tuple(epoch) for epoch in epochs}) == 3
