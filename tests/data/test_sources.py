"""Tests of opening data sets and of holding out a validation part."""

import pickle

import numpy as np
import pytest

from llie_jax import data
from llie_jax.data import catalogue, checking, locating, sources, splitting
from llie_jax.image import io
from tests.data import trees


def test_lol_v1_records(tmp_path):
    root = trees.lol(tmp_path / "somewhere")
    source = data.open_source("lol_v1", root=root, split="train")
    assert (source.name, source.split, len(source)) == ("lol_v1", "train", 3)
    assert list(source.names) == [
        "10",
        "2",
        "7",
    ]  # sorted, in any case
    record = source[1]
    assert record["name"] == record["scene"] == "2"
    np.testing.assert_array_equal(record["image"], trees.image(0))
    np.testing.assert_array_equal(record["target"], trees.image(1))
    np.testing.assert_array_equal(source.image(1, "target"), record["target"])
    assert source[-1]["name"] == "7"
    assert [record["name"] for record in source] == ["10", "2", "7"]
    assert source.expected_counts == {"train": 485, "test": 15}
    assert source.note() == "3 of 485: a subset"
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize(
    ("inputs", "targets"), [("input", "target"), ("Input", "GT"), ("low", "Normal")]
)
def test_renamed_copy_of_lol_v1(tmp_path, inputs, targets):
    trees.pairs(tmp_path / "LOLv1/Train", ("1", "2"), low=inputs, high=targets)
    trees.pairs(tmp_path / "LOLv1/Test", ("3",), low=inputs, high=targets)
    for folder in (tmp_path, tmp_path / "LOLv1"):
        source = data.open_source(folder, split="train")
        assert (source.name, list(source.names)) == ("lol_v1", ["1", "2"])
    assert list(data.open_source(tmp_path, split="test").names) == ["3"]


def test_both_parts_of_lol_v2(tmp_path):
    root = tmp_path / "LOL-v2"
    real, synthetic = root / "Real_captured", root / "Synthetic"
    trees.pairs(synthetic / "Train", ("r1t",), low="Low", high="Normal")
    trees.pairs(synthetic / "Test", ("r2t",), low="Low", high="Normal")
    for split in ("Train", "Test"):
        for place, name in (("Low", "low00690"), ("Normal", "normal00690")):
            (real / split / place).mkdir(parents=True)
            io.write_image(real / split / place / f"{name}.png", trees.image(7))
    for name, folder in (("lol_v2_real", real), ("lol_v2_syn", synthetic)):
        for where in (root, folder):
            source = data.open_source(name, root=where, split="train")
            assert (source.name, len(source)) == (name, 1)
        assert data.open_source(folder, split="test").name == name
    record = data.open_source(real, split="test")[0]
    assert record["name"] == "low00690"
    np.testing.assert_array_equal(record["target"], trees.image(7))


def test_lol_v2_real_with_equal_names(tmp_path):
    trees.pairs(tmp_path / "Train", ("00690",), low="Low", high="Normal")
    source = data.open_source("lol_v2_real", root=tmp_path, split="train")
    assert list(source.names) == ["00690"]


def test_own_folder_without_splits(tmp_path):
    folder = trees.pairs(tmp_path / "mine", ("a b", "c.BMP"), low="LOW", high="gt")
    for split in (None, "train", "test"):
        source = data.open_source(folder, split=split)
        assert (source.name, source.split) == ("paired_folder", "all")
        assert list(source.names) == ["a b", "c"]
        assert source.note() == ""
    assert len(data.open_source("paired_folder", root=str(folder), split="train")) == 2


def test_own_folder_with_splits(tmp_path):
    trees.pairs(tmp_path / "train", ("a", "b"))
    trees.pairs(tmp_path / "val", ("c",))
    assert data.open_source(tmp_path, split="validation").names == ("c",)
    with pytest.raises(ValueError, match=r"no split 'trian'.*it has train, validation"):
        data.open_source(tmp_path, split="trian")
    with pytest.raises(ValueError, match="Choose a split"):
        data.open_source(tmp_path)


def test_photos_without_references(tmp_path):
    folder = trees.photos(tmp_path / "my photos", ("b", "a c.JPG", "d.bmp"))
    (folder / "notes.txt").touch()
    opened = [data.open_source(folder, split=split) for split in (None, "test")]
    opened.append(data.open_source("image_folder", root=folder, split="train"))
    for source in opened:
        assert (source.name, source.split) == ("image_folder", "all")
        assert source.keys == ("image",)
        assert source.names == source.scenes == ("a c", "b", "d")
        assert source.note() == ""
        np.testing.assert_array_equal(source.sizes(), 3 * [[8, 8]])
    record = opened[0][1]
    assert set(record) == {"name", "scene", "image"}
    np.testing.assert_array_equal(record["image"], trees.image(0))
    copy = pickle.loads(pickle.dumps(opened[0]))
    np.testing.assert_array_equal(copy[1]["image"], record["image"])
    # With splits.
    trees.photos(tmp_path / "photos/train", ("1", "2"))
    trees.photos(tmp_path / "photos/test", ("3",))
    assert data.open_source(tmp_path / "photos", split="test").names == ("3",)
    # The inputs of pairs, without their targets.
    pairs = trees.pairs(tmp_path / "pairs", ("1",))
    assert data.open_source(pairs / "low").keys == ("image",)
    assert data.open_source(pairs).keys == ("image", "target")


def test_pairs_and_photos_in_one_folder(tmp_path):
    trees.photos(trees.pairs(tmp_path, ("a",)), ("b", "c"))
    with pytest.raises(ValueError, match="paired_folder or image_folder with this"):
        data.open_source(tmp_path)
    assert len(data.open_source("paired_folder", root=tmp_path)) == 1
    assert len(data.open_source("image_folder", root=tmp_path)) == 2
    # A known name decides, whatever lies beside the folders.
    trees.photos(trees.lol(tmp_path / "lol"), ("preview",))
    assert data.open_source(tmp_path / "lol", split="test").name == "lol_v1"


def test_mistakes_with_photos(tmp_path):
    with pytest.raises(ValueError, match="image_folder needs its folder"):
        data.open_source("image_folder")
    with pytest.raises(FileNotFoundError, match=r"Expected: train/\*\.png"):
        data.open_source("image_folder", root=tmp_path)
    trees.photos(tmp_path, ("a", "a.bmp"))
    with pytest.raises(ValueError, match=r"cannot be used: two files .*a\.png.* add, "):
        data.open_source(tmp_path)


def test_keys_that_somebody_needs(tmp_path):
    source = data.open_source(trees.photos(tmp_path, ("a",)))
    sources.check_keys(source, ("image",), "The study")
    with pytest.raises(
        ValueError,
        match="The study needs target; the records of image_folder all have image only",
    ):
        sources.check_keys(source, ("image", "target"), "The study")


def test_endings_may_differ_inside_a_pair(tmp_path):
    folder = trees.pairs(tmp_path, ("a",))
    (folder / "low/a.png").rename(folder / "low/a.PNG")
    (folder / "high/a.png").unlink()
    io.write_image(folder / "high/a.bmp", trees.image(1))
    np.testing.assert_array_equal(data.open_source(folder)[0]["target"], trees.image(1))


def test_default_place_of_a_named_set(tmp_path, monkeypatch):
    trees.lol(tmp_path / "data/lol_v1")
    monkeypatch.delenv("LLIE_JAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert len(data.open_source("lol_v1", split="test")) == 1
    assert len(data.open_source("lol_v1", root="", split="test")) == 1
    monkeypatch.chdir("/")
    with pytest.raises(FileNotFoundError, match=r"BMVC2018website.*LLIE_JAX_DATA"):
        data.open_source("lol_v1", split="test")
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path / "data"))
    assert len(data.open_source("lol_v1", split="test")) == 1


def test_unknown_names_and_layouts(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'lol_v1'"):
        data.open_source("lolv1")
    with pytest.raises(ValueError, match="needs its folder"):
        data.open_source("paired_folder")
    with pytest.raises(FileNotFoundError, match="no known layout"):
        data.open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"our485/\{low,high\}"):
        data.open_source("lol_v1", root=tmp_path, split="train")
    with pytest.raises(ValueError, match="give one"):
        data.open_source(tmp_path, root=tmp_path)


def test_files_that_do_not_pair_are_named(tmp_path):
    folder = trees.pairs(tmp_path, ("a", "b", "c"))
    (folder / "high/a.png").unlink()
    (folder / "low/c.png").unlink()
    with pytest.raises(
        ValueError, match=r"without a target: .*low/a.png.*without an input: .*high/c"
    ):
        data.open_source(folder)


def test_two_files_of_one_name(tmp_path):
    folder = trees.pairs(tmp_path, ("a",))
    io.write_image(folder / "low/a.bmp", trees.image(0))
    with pytest.raises(ValueError, match=r"same name: .*low/a.png"):
        data.open_source(folder)


def test_two_folders_of_one_meaning(tmp_path):
    trees.pairs(tmp_path, ("a",))
    trees.pairs(tmp_path, ("a",), low="Low")
    if len(list(tmp_path.iterdir())) == 3:  # file systems may ignore case
        with pytest.raises(ValueError, match="mean the same"):
            data.open_source(tmp_path)


def test_empty_folders(tmp_path):
    (tmp_path / "low").mkdir()
    (tmp_path / "high").mkdir()
    with pytest.raises(ValueError, match="no images"):
        data.open_source(tmp_path)


def test_sizes_that_differ_inside_a_pair(tmp_path):
    folder = trees.pairs(tmp_path, ("a", "b"))
    io.write_image(folder / "high/b.png", trees.image(0, 8, 9))
    source = data.open_source(folder)
    assert source[0]["image"].shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"low/b.png is 8 x 8, .*high/b.png is 8 x 9"):
        source[1]


def test_damaged_file(tmp_path):
    folder = trees.pairs(tmp_path, ("a", "b"))
    path = folder / "high/b.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"Cannot read .*high/b.png"):
        data.open_source(folder)[1]


def test_opening_reads_no_image(tmp_path):
    folder = trees.pairs(tmp_path, ("a",))
    (folder / "low/a.png").write_bytes(b"")
    assert len(data.open_source(folder)) == 1


def test_sources_can_be_pickled(tmp_path):
    source = data.open_source(trees.lol(tmp_path), split="train")
    subset = data.split_by_reference(source, count=1)[0]
    for each in (source, subset):
        copy = pickle.loads(pickle.dumps(each))
        assert copy.names == each.names
        np.testing.assert_array_equal(copy[0]["image"], each[0]["image"])


def test_fingerprint_is_of_the_names(tmp_path):
    one = data.open_source(trees.pairs(tmp_path / "1", ("a", "b")))
    same = data.open_source(trees.pairs(tmp_path / "2", ("b", "a")))
    other = data.open_source(trees.pairs(tmp_path / "3", ("a", "c")))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert len(one.fingerprint()) == 16


def test_sizes_come_from_headers(tmp_path, monkeypatch):
    trees.pairs(tmp_path, ("a",), size=(8, 10))
    trees.pairs(tmp_path, ("b",), size=(12, 9))
    source = data.open_source(tmp_path)
    np.testing.assert_array_equal(source.sizes(), [[8, 10], [12, 9]])
    subset = sources.SubsetSource(source, [1], split="part")
    reads = []
    monkeypatch.setattr(type(source), "_read", lambda *_: reads.append(1))
    np.testing.assert_array_equal(subset.sizes(), [[12, 9]])
    assert not reads


@pytest.fixture
def shared_references(tmp_path):
    """Twelve pairs; 0 to 3 share a reference, 4 and 5 another."""
    folder = trees.pairs(tmp_path, tuple(f"{number:02d}" for number in range(12)))
    for copy, original in ((1, 0), (2, 0), (3, 0), (5, 4)):
        content = (folder / f"high/{original:02d}.png").read_bytes()
        (folder / f"high/{copy:02d}.png").write_bytes(content)
    return data.open_source(folder)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 3, 6])
def test_no_reference_is_on_both_sides(shared_references, seed, count):
    train, validation = data.split_by_reference(
        shared_references, count=count, seed=seed
    )
    assert sorted((*train.names, *validation.names)) == list(shared_references.names)
    assert 1 <= len(validation) <= count
    sides = [
        {each.image(i, "target").tobytes() for i in range(len(each))}
        for each in (train, validation)
    ]
    assert not sides[0] & sides[1]
    assert (train.split, validation.split) == ("all/train", "all/validation")


def test_split_is_deterministic_and_depends_on_the_seed(shared_references):
    def held_out(seed):
        return data.split_by_reference(shared_references, fraction=0.25, seed=seed)[
            1
        ].names

    assert held_out(3) == held_out(3)
    assert len({held_out(seed) for seed in range(10)}) > 3


def test_scenes_move_whole(tmp_path):
    names = [f"{scene}-{view}" for scene in ("cat", "cup", "sky") for view in "123"]
    trees.pairs(tmp_path / "lowlight_demo/train", tuple(names))
    source = data.open_source(tmp_path / "lowlight_demo")
    assert source.name == "lowlight_demo"
    train, validation = data.split_by_reference(source, count=4)
    assert len(validation) == 3
    assert len(set(validation.scenes)) == 1
    assert not set(train.scenes) & set(validation.scenes)
    # Every group is larger than requested: one whole group.
    assert len(data.split_by_reference(source, count=1)[1]) == 3


def test_groups_can_be_linked_by_scene_and_reference(tmp_path):
    trees.pairs(tmp_path / "train", ("a-1", "a-2", "b-1", "b-2", "c-1"))
    high = tmp_path / "train/high"
    (high / "b-2.png").write_bytes((high / "a-1.png").read_bytes())
    dataset = catalogue.get("lowlight_demo")
    part = locating.Part((tmp_path / "train/low", high))
    source = sources.open_parts((part,), dataset=dataset)
    groups = sorted(map(sorted, splitting.reference_groups(source)))
    assert groups == [[0, 1, 2, 3], [4]]


def test_photos_are_held_out_by_scene(tmp_path):
    source = data.open_source(trees.photos(tmp_path, tuple("abcdef")))
    train, validation = data.split_by_reference(source, count=2)
    assert sorted((*train.names, *validation.names)) == list("abcdef")
    assert len(validation) == 2
    assert train.keys == validation.keys == ("image",)
    assert set(validation[0]) == {"name", "scene", "image"}


def test_bad_validation_requests(shared_references, tmp_path):
    for options, message in (
        ({}, "Give count or fraction"),
        ({"count": 1, "fraction": 0.5}, "not both"),
        ({"fraction": 1.5}, "not between 0 and 1"),
        ({"count": 12}, "between 1 and 11"),
    ):
        with pytest.raises(ValueError, match=message):
            data.split_by_reference(shared_references, **options)
    trees.pairs(tmp_path / "lowlight_demo/train", ("cat-1", "cat-2"))
    with pytest.raises(ValueError, match="one scene"):
        data.split_by_reference(data.open_source(tmp_path / "lowlight_demo"), count=1)


def test_real_lol_v1(shared):
    root = shared / "data/lol_v1"
    test = data.open_source("lol_v1", root=root, split="test")
    assert len(test) == test.expected_counts["test"] == 15
    assert test.fingerprint() == "2fa704d338ad84b5"
    assert test.note() == ""
    assert test[0]["image"].shape == test[0]["target"].shape == (400, 600, 3)
    train = data.open_source(root, split="train")
    assert train.note() == "20 of 485: a subset"
    # The unchanged input scores 7.77 dB.
    errors = [
        np.mean((pair["image"].astype(float) - pair["target"]) ** 2) for pair in test
    ]
    assert np.mean(10 * np.log10(255**2 / np.array(errors))) == pytest.approx(
        7.77, abs=0.01
    )


def test_pairs_of_exposures(tmp_path):
    root = trees.scenes(tmp_path, {"cafe": ("1", "2", "3"), "sea": ("a", "b.PNG")})
    source = data.open_source("exposure_pairs", root=root)
    assert (source.keys, source.split) == (("image", "second"), "train")
    ordered = ("1-2", "1-3", "2-1", "2-3", "3-1", "3-2")
    names = [*(f"cafe/{pair}" for pair in ordered), "sea/a-b", "sea/b-a"]
    assert list(source.names) == names
    assert list(source.scenes) == [*["cafe"] * 6, *["sea"] * 2]
    record = source[3]
    assert (record["name"], record["scene"]) == ("cafe/2-3", "cafe")
    np.testing.assert_array_equal(record["image"], trees.image(1))
    np.testing.assert_array_equal(record["second"], trees.image(2))
    training, held_out = data.split_by_reference(source, fraction=0.3)
    assert {*training.scenes} == {"cafe"}
    assert {*held_out.scenes} == {"sea"}


def test_pairs_of_exposures_that_are_incomplete(tmp_path):
    root = trees.scenes(tmp_path, {"cafe": ("1", "1.jpg", "2"), "sea": ("a",)})
    message = r"same name: .*1\.png.*scenes with a single exposure: .*sea\. "
    with pytest.raises(ValueError, match=message):
        data.open_source("exposure_pairs", root=root)
    found = checking.check("exposure_pairs", root=root)[0]
    assert found.state == "faulty"
    assert len(found.problems) == 2
    with pytest.raises(FileNotFoundError, match=r"Expected: SCENE/\*\.png"):
        data.open_source("exposure_pairs", root=tmp_path / "absent")
