"""Several sets as one: shares, repeats, and what may not be mixed."""

import numpy as np
import pytest

from llie_jax import data
from llie_jax.data import Stage, mixture
from tests.data import trees


@pytest.fixture
def folders(tmp_path):
    """Six pairs, and two pairs."""
    trees.pairs(tmp_path / "many", tuple("abcdef"))
    trees.pairs(tmp_path / "few", ("x", "y"), first=50)
    return tmp_path


def table(folders, **fields):
    return {
        label: {"name": str(folders / label), **fields.get(label, {})}
        for label in ("many", "few")
    }


def drawn(source, steps, batch_size=5):
    """The records of each sample of a plan."""
    pipeline = data.make_pipeline(source, [Stage(steps, 8, batch_size)])
    index = [pipeline.plan.batch(step)["index"] for step in range(steps)]
    return pipeline.plan, np.concatenate(index)


def test_records_are_those_of_the_sets(folders):
    source = data.open_mixture(table(folders))
    assert len(source) == 8
    assert list(source.names[:6]) == [f"many/{name}" for name in "abcdef"]
    assert list(source.names[6:]) == ["few/x", "few/y"]
    few = data.open_source(folders / "few")
    record = source[7]
    assert (record["name"], record["scene"]) == ("few/y", "few/y")
    for key in ("image", "target"):
        np.testing.assert_array_equal(record[key], few[1][key])
        np.testing.assert_array_equal(source.image(7, key), few[1][key])
    assert source.sizes().shape == (8, 2)
    assert source.dtypes() == few.dtypes()
    path = folders / "few/low/y.png"
    assert source.byte_size(7, "image") == path.stat().st_size
    assert source.content_digest(7, "image") == few.content_digest(1, "image")


def test_an_epoch_repeats_records_as_often_as_it_should(folders):
    source = data.open_mixture(table(folders, many={"repeat": 1.5}, few={"repeat": 3}))
    _, index = drawn(source, steps=6)  # two epochs of 6 + 3 + 2 * 3 samples
    for epoch in index.reshape(2, 15):
        counts = np.bincount(epoch, minlength=8)
        assert sorted(counts[:6]) == [1, 1, 1, 2, 2, 2]
        assert counts[6:].tolist() == [3, 3]
    halves = [
        np.flatnonzero(np.bincount(e)[:6] == 2).tolist() for e in (index.reshape(2, 15))
    ]
    assert halves[0] != halves[1]


def test_weights_are_shares_whatever_the_sizes(folders):
    weights = {"many": {"weight": 1.0}, "few": {"weight": 1.0}}
    source = data.open_mixture(table(folders, **weights))
    plan, index = drawn(source, steps=8, batch_size=4)
    assert np.mean(index < 6) == 0.5
    assert plan.shares(range(8)) == {"many": 0.5, "few": 0.5}
    assert plan.shares(range(2, 3)) == {
        "many": float(np.mean(index[8:12] < 6)),
        "few": float(np.mean(index[8:12] >= 6)),
    }


def test_one_set_is_drawn_as_without_a_mixture(folders):
    alone = data.open_source(folders / "many")
    mixed = data.open_mixture({"many": {"name": str(folders / "many")}})
    np.testing.assert_array_equal(drawn(alone, 6)[1], drawn(mixed, 6)[1])


def test_scenes_and_references_stay_on_one_side(folders):
    # The two sets share a reference.
    shared = (folders / "many/high/a.png").read_bytes()
    (folders / "few/high/x.png").write_bytes(shared)
    fields = {"few": {"repeat": 4.0}}
    source = data.open_mixture(table(folders, **fields))
    for seed in range(6):
        training, held_out = data.split_by_reference(source, count=3, seed=seed)
        sides = [{"many/a", "few/x"} & set(part.names) for part in (training, held_out)]
        assert sorted(map(len, sides)) == [0, 2]
        counts = {group.label: group.count for group in training.groups}
        assert sum(counts.values()) == 5
        assert counts["many"] == sum(name.startswith("many") for name in training.names)
        _, index = drawn(training, steps=2)
        assert index.max() < 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"many": {"repeat": 0.0}}, r"has repeat=0.0 .* give repeat above 0"),
        ({"many": {"weight": 1.0}}, "many has a weight and few has none"),
        ({"few": {"repat": 2.0}}, "unknown field 'repat'. Did you mean 'repeat'"),
    ],
)
def test_mistakes(folders, fields, message):
    with pytest.raises(ValueError, match=message):
        data.open_mixture(table(folders, **fields))


def test_sets_with_other_images_do_not_mix(folders):
    trees.photos(folders / "photos", ("a",))
    mixed = table(folders) | {"photos": {"name": str(folders / "photos")}}
    with pytest.raises(ValueError, match="those of photos have image; a mixture needs"):
        data.open_mixture(mixed)
    with pytest.raises(ValueError, match="has no data sets"):
        data.open_mixture({})


def test_what_weights_were_trained_on():
    config = {"train": {"name": "lol_v1", "split": "train"}}
    assert mixture.trained_on(config) == "lol_v1 train"
    config["mixture"] = {
        "a": {"name": "lol_v1", "split": "train"},
        "b": {"name": "lolblur", "split": "train"},
    }
    assert mixture.trained_on(config) == "lol_v1 train"  # the table is not used
    config["train"]["name"] = "mixture"
    assert mixture.trained_on(config) == "lol_v1 train, lolblur train"
