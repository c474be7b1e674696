"""Which results share a row, a data set, a column."""

import pytest

from llie_jax.evaluation.comparison import results
from llie_jax.evaluation.comparison.grouping import Comparison
from tests.evaluation.comparison import toys

PSNR = results.Column("psnr", "rgb_uint8", "dB", True)


def compared(*inputs):
    return Comparison(results.read(inputs))


def only_score(comparison, row=0):
    (data,), (setting,) = comparison.data_sets, comparison.settings
    return comparison.score(comparison.rows[row], data, setting, PSNR)


def seeded(path, psnr, seed, recipe="r"):
    weights = {
        "seed": seed,
        "recipe_sha256": recipe,
        "weights": f"runs/tiny_seed{seed}",
    }
    return toys.write(path, psnr, weights=weights, weights_sha256=f"w{recipe}{seed}")


def test_runs_of_one_recipe_are_a_model(tmp_path):
    files = [
        seeded(tmp_path / f"{seed}.json", {"1": 20.0 + seed, "2": 22.0 + seed}, seed)
        for seed in (0, 1, 2)
    ]
    other = seeded(tmp_path / "o.json", {"1": 20.0, "2": 20.0}, 0, recipe="other")
    found = compared(*files, other)
    assert found.rows[0].label == "tiny"
    assert len(found.rows) == 2
    score = only_score(found)
    assert score.values == (21.0, 22.0, 23.0)
    assert (score.mean, score.deviation) == (22.0, 1.0)
    assert (score.marks, score.fair) == (("3 seeds",), True)
    assert only_score(found, 1).deviation is None


def test_runs_are_averaged_over_the_images_that_all_have(tmp_path):
    a = seeded(tmp_path / "a.json", {"1": 20.0, "2": 30.0}, 0)
    b = seeded(tmp_path / "b.json", {"1": 22.0}, 1)
    score = only_score(compared(a, b))
    assert (score.values, score.images, score.missing) == ((20.0, 22.0), 1, 1)
    assert (score.marks, score.fair) == (("2 seeds", "1 of 2 images"), False)


def test_one_label_is_one_model(tmp_path):
    a = toys.write(tmp_path / "a.json", {"1": 20.0}, weights_sha256="a")
    b = toys.write(tmp_path / "b.json", {"1": 21.0}, weights_sha256="b")
    assert len(compared(a, b).rows) == 2
    (row,) = compared(f"Ours={a}", f"Ours={b}").rows
    assert row.label == "Ours"


def test_the_same_weights_twice(tmp_path):
    a = toys.write(tmp_path / "a.json", {"1": 20.0}, weights_sha256="a")
    b = toys.write(tmp_path / "b.json", {"1": 20.5}, weights_sha256="a")
    with pytest.raises(ValueError, match="score the same weights on the same data"):
        compared(a, b)
    assert len(compared(f"A={a}", f"B={b}").rows) == 2


def test_two_checkpoints_of_a_run_are_no_two_seeds(tmp_path):
    def write(name, psnr):
        weights = {"seed": 0, "recipe_sha256": "r", "weights": "runs/tiny"}
        path = tmp_path / name
        return toys.write(path, {"1": psnr}, weights=weights, weights_sha256=name)

    a, b = write("a.json", 20.0), write("b.json", 21.0)
    expected = r"a\.json and .*b\.json .* one recipe and one seed \(0\)"
    with pytest.raises(ValueError, match=expected):
        compared(a, b)
    assert len(compared(f"A={a}", f"B={b}").rows) == 2
    assert only_score(compared(f"A={a}", f"A={b}")).marks == ("2 runs",)


def test_options_make_another_row(tmp_path):
    common = {"weights_sha256": "a", "weights": {"weights": "w/iat.safetensors"}}
    a = toys.write(tmp_path / "a.json", {"1": 20.0}, **common)
    b = toys.write(
        tmp_path / "b.json", {"1": 25.0}, options={"uses_reference": ["r"]}, **common
    )
    found = compared(a, b)
    assert [row.label for row in found.rows] == ["iat", "iat (uses the reference)"]
    assert only_score(found, 1).marks == ("uses the reference",)


def test_protocols_never_share(tmp_path):
    files = [
        toys.write(tmp_path / "a.json", {"1": 20.0}, weights_sha256="a"),
        toys.write(
            tmp_path / "b.json", {"1": 20.0}, weights_sha256="b", protocol="snr"
        ),
        # The same name, but other padding than today's.
        toys.write(
            tmp_path / "c.json",
            {"1": 20.0},
            weights_sha256="c",
            options={"protocol": {"name": "default", "output": "clip"}},
        ),
    ]
    found = compared(*files)
    assert len(found.settings) == 3
    for setting in found.settings:
        assert len(found.rows_on(found.data_sets[0], setting)) == 1


def test_saved_images_join_the_set_of_their_references(tmp_path):
    hashes = {"1": "aa", "2": "bb"}
    a = toys.write(tmp_path / "a.json", {"1": 20.0, "2": 21.0}, references=hashes)
    b = toys.write(
        tmp_path / "b.json",
        {"1": 20.0, "2": 21.5},
        of=(None, None),
        references=hashes,
    )
    c = toys.write(
        tmp_path / "c.json",
        {"1": 20.0},
        of=(None, None),
        references={"1": "other"},
    )
    found = compared(b, a, c)
    assert [data.label for data in found.data_sets] == ["lol_v1 test", "images"]
    assert len(found.data_sets[0].results) == 2


def test_a_set_of_one_name_with_other_references(tmp_path):
    a = toys.write(tmp_path / "a.json", {"1": 20.0}, references={"1": "aa"})
    b = toys.write(tmp_path / "b.json", {"1": 20.0}, references={"1": "bb"})
    labels = [data.label for data in compared(a, b).data_sets]
    assert labels == ["lol_v1 test (1)", "lol_v1 test (2)"]


def test_own_folders_are_told_apart(tmp_path):
    own = ("paired_folder", "all")
    a = toys.write(tmp_path / "a.json", {"1": 20.0}, of=own)
    b = toys.write(tmp_path / "b.json", {"2": 20.0}, of=own)
    assert len(compared(a, b).data_sets) == 2


def test_columns_of_the_whole_set_only(tmp_path):
    path = toys.write(
        tmp_path / "a.json",
        {"1": 20.0},
        mean={"psnr": 20.0, "ssim": 0.5, "miou": 0.25},
    )
    found = compared(path)
    (data,), (setting,) = found.data_sets, found.settings
    column = next(c for c in found.columns(data, setting) if c.name == "miou")
    assert found.score(found.rows[0], data, setting, column).mean == 0.25
    assert found.per_image(found.rows[0], data, setting, column) == {}
