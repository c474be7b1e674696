"""Predictions of a user's own network, by hand."""

import numpy as np
import pytest
from PIL import Image

from llie_jax.evaluation import downstream


def write_csv(path, rows, head="name,label"):
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return path


def write_map(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def test_top1_from_two_files(tmp_path):
    labels = [("a.png", "cat"), ("b.png", "cat"), ("c/d.jpg", "dog"), ("e", "dog")]
    guesses = [("e.jpg", "dog"), ("a", "cat"), ("b.png", "dog"), (r"c\d.png", "cat")]
    found = downstream.score(
        "classification",
        write_csv(tmp_path / "pred.csv", guesses, head="\ufeffname, label, score"),
        write_csv(tmp_path / "gt.csv", labels),
    )
    assert found.mean == {"top1": 0.5}
    assert found.classes == {"cat": 0.5, "dog": 0.5}
    assert found.images["e"] == {"top1": 1.0}
    assert found.images["c/d"] == {"top1": 0.0}


def test_labels_from_folders(tmp_path):
    for name in ("cat/1.png", "dog/deep/2.jpg"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "set" / "notes.txt").touch()
    pred = write_csv(tmp_path / "p.csv", [("cat/1.png", "cat"), ("dog/deep/2", "cat")])
    found = downstream.score("classification", pred, tmp_path / "set")
    assert found.mean == {"top1": 0.5}
    assert found.classes == {"cat": 1.0, "dog": 0.0}


@pytest.fixture
def maps(tmp_path):
    write_map(tmp_path / "gt/x/1_gt_labelTrainIds.png", [[0, 0, 1, 255]])
    write_map(tmp_path / "gt/x/1_gt_labelColor.png", [[[0, 0, 0]] * 4])
    write_map(tmp_path / "gt/y/2_gt_labelTrainIds.png", [[18, 18, 18, 18]])
    write_map(tmp_path / "pred/1_rgb_anon.png", [[0, 1, 1, 7]])
    write_map(tmp_path / "pred/2_rgb_anon.png", [[18, 18, 0, 255]])
    return tmp_path


def test_folders_are_recorded_as_absolute_paths(maps, monkeypatch):
    monkeypatch.chdir(maps)
    found = downstream.score("segmentation", "pred", "gt").facts["data"]
    assert (found["pred"], found["gt"]) == (str(maps / "pred"), str(maps / "gt"))


def test_miou(maps):
    found = downstream.score("segmentation", maps / "pred", maps / "gt")
    # Class 0: 1 of {2 true, 2 predicted, 1 shared}; 1: 1 of 2; 18: 2 of 4.
    expected = {"road": 1 / 3, "sidewalk": 1 / 2, "bicycle": 1 / 2}
    assert found.classes == pytest.approx(expected)
    assert found.mean["miou"] == pytest.approx(np.mean(list(expected.values())))
    assert found.images["1"]["image_miou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found.images["2"]["image_miou"] == pytest.approx((0 + 1 / 2) / 2)
    content = found.to_dict()
    assert content["protocol"] == "segmentation"
    assert content["count"] == 2
    assert set(content["data"]["references"]) == {"1", "2"}


def test_a_palette_holds_class_numbers(maps):
    image = Image.fromarray(np.array([[0, 1, 1, 7]], np.uint8))
    image.putpalette([9] * 768)
    image.save(maps / "pred/1_rgb_anon.png")
    found = downstream.score("segmentation", maps / "pred", maps / "gt")
    assert found.classes["sidewalk"] == pytest.approx(1 / 2)


def test_mistakes_in_maps(maps):
    def message():
        with pytest.raises((ValueError, OSError)) as error:
            downstream.score("segmentation", maps / "pred", maps / "gt")
        return str(error.value)

    file = maps / "pred/1_rgb_anon.png"
    write_map(file, [[0, 33, 1, 1]])
    assert "class number 33; expected the train ids 0 to 18" in message()
    write_map(file, [[0, 1, 1]])
    assert "is 1 x 3 but its label is 1 x 4" in message()
    write_map(file, [[[0, 0, 0]] * 4])
    assert "is a picture of mode RGB" in message()
    file.write_bytes(b"\x89PNG")
    assert "cannot be read" in message()
    write_map(maps / "gt/x/1_gt_labelTrainIds.png", [[255] * 4])
    write_map(file, [[0] * 4])
    assert "has no labelled pixel" in message()
    file.rename(maps / "pred/3.png")
    assert "predictions without a label: 3; labels without a prediction: 1" in message()
    (maps / "pred/a").mkdir()
    write_map(maps / "pred/a/3.png", [[0] * 4])
    assert "have one name" in message()
    for path in maps.rglob("pred/**/*.png"):
        path.unlink()
    assert "holds no PNG files" in message()


def test_mistakes_in_lists(tmp_path):
    gt = write_csv(tmp_path / "gt.csv", [("a", "cat")])

    def message(pred, labels=gt, task="classification"):
        with pytest.raises((ValueError, OSError)) as error:
            downstream.score(task, pred, labels)
        return str(error.value)

    bad = tmp_path / "bad.csv"
    assert "has the columns x, y; expected" in message(write_csv(bad, [], head="x,y"))
    assert "no line below" in message(write_csv(bad, []))
    assert "line 3: 'a' again" in message(write_csv(bad, [("a", "c"), ("a.png", "d")]))
    assert "line 2: no name or no label" in message(write_csv(bad, [("a", " ")]))
    assert "without a label: b" in message(write_csv(bad, [("a", "c"), ("b", "c")]))
    assert "is a folder" in message(tmp_path)
    assert "no images in folders of classes" in message(gt, tmp_path)
    assert "No such file" in message(tmp_path / "absent.csv")
    bad.write_bytes(b"name,label\n\xff,1\n")
    assert "not a CSV file in UTF-8" in message(bad)
    assert "Did you mean 'segmentation'" in message(gt, task="segmentatio")
    assert "There is no folder" in message(gt, task="segmentation")
