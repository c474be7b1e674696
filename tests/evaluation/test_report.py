import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest

from llie_jax.evaluation import report
from llie_jax.evaluation.scores import Picture, Scores, plain
from llie_jax.metrics import protocol as protocols
from llie_jax.weights.run import read_log

VOID = {"meta", "img", "input", "line", "polyline"}


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


def some_scores(count=3, side=40, names=None):
    rng = np.random.default_rng(0)
    names = names or [f"photo {index}" for index in range(count)]
    images = [rng.integers(0, 256, (side, side + 8, 3), np.uint8) for _ in range(3)]
    return Scores(
        protocol=protocols.get("default"),
        images={name: {"psnr": 20.0 + i, "ssim": 0.8} for i, name in enumerate(names)},
        inputs={name: {"psnr": 7.0, "ssim": 0.2} for name in names},
        facts={"model": {"name": "darkir"}, "device": "1 x cpu"},
        pictures=[Picture(name, *images) for name in names],
    )


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [
        {"step": s, "stage": "s0", "loss": math.exp(-s / 100), "psnr": 10 + s / 100}
        for s in range(0, 2000)
    ]
    lines += [{"step": s, "validation_psnr": 9 + s / 100} for s in (500, 1000)]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 20')  # killed
    return path


def write(tmp_path, **options):
    path = tmp_path / "report.html"
    report.write(path, title="A & B", **options)
    return path.read_text(encoding="utf-8")


def test_everything_is_in_one_file(tmp_path, log):
    text = write(
        tmp_path,
        scores=some_scores(),
        log=log,
        settings={"optimizer": {"learning_rate": 5e-4}},
    )
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|<link|src=\"(?!data:)", text)
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert len(page.all("img")) == 9
    assert len(page.all("polyline")) == 3
    assert len(page.all("circle")) == 2  # the validations
    assert "A & B" in page.words
    assert {"optimizer.learning_rate", "0.0005", "model.name", "darkir"} <= set(
        page.words
    )
    assert "21.00" in page.words  # the mean
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_curves_have_few_points_and_are_finite(log):
    with pytest.warns(UserWarning, match="1 line is left out"):
        lines = read_log(log)
    assert len(lines) == 2002
    chart = report._curves([*lines, {"step": 2001, "loss": math.nan}])
    points = [p for line in re.findall(r'points="(.*?)"', chart) for p in line.split()]
    assert len(points) <= 2 * 400 + 2
    coordinates = np.array([p.split(",") for p in points], float)
    assert np.isfinite(coordinates).all()
    assert coordinates.min() >= 0
    assert coordinates[:, 0].max() <= 480
    assert coordinates[:, 1].max() <= 270


EXTREMES = [math.nan, math.inf, -math.inf, 1e308, -1e308, 10**400, 5e-324, "nan", None]


@pytest.mark.parametrize("value", EXTREMES, ids=lambda value: str(value)[:8])
def test_what_cannot_be_drawn_is_left_out(tmp_path, value):
    lines = [{"step": s, "loss": 1.0 + s, "psnr": 20.0} for s in range(1000)]
    for step in range(0, 1000, 7):
        lines[step]["loss"] = value
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(plain(line)) + "\n" for line in lines))
    text = write(tmp_path, log=path)
    points = [p for line in re.findall(r'points="(.*?)"', text) for p in line.split()]
    assert len(points) == 2 * 400
    assert np.isfinite(np.array([p.split(",") for p in points], float)).all()
    path.write_text(json.dumps(plain({"step": 1, "loss": value})) + "\n")
    Page(write(tmp_path, log=path))


def test_a_single_point_and_constant_values():
    Page(report._curves([{"step": 1, "loss": 0.5}]))
    Page(report._curves([{"step": s, "loss": 0.0} for s in range(3)]))


def test_parts_may_be_missing(tmp_path):
    assert Page(write(tmp_path, log=tmp_path / "absent.jsonl"))
    text = write(tmp_path, settings={"seed": 3})
    assert "seed" in Page(text).words
    assert "<svg" not in text
    assert "<img" not in text


def test_pictures_without_references(tmp_path):
    scores = some_scores()
    pictures = [dataclasses.replace(p, target=None) for p in scores.pictures]
    page = Page(write(tmp_path, scores=dataclasses.replace(scores, pictures=pictures)))
    assert len(page.all("img")) == 6
    assert [image.get("class") for image in page.all("img")] == 3 * [None, "input"]
    assert all(box["type"] == "range" for box in page.all("input"))
    assert not page.all("label")
    assert len(Page(write(tmp_path, scores=scores)).all("label")) == 3


def test_names_cannot_break_the_page(tmp_path):
    name = "<b>\"x\" & 'y'</b>"
    text = write(tmp_path, scores=some_scores(names=[name]))
    page = Page(text)
    assert '<b>"x"' not in text
    assert name in page.words
    assert page.all("img")[0]["alt"] == f"output for {name}"


def test_pictures_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURE_BYTES", 50_000)
    text = write(tmp_path, scores=some_scores(count=40))
    assert len(text) < 80_000
    shown = len(Page(text).all("figure"))
    assert 0 < shown < 40
    assert f"{shown} of 40 images" in text


def test_infinite_scores_and_other_definitions(tmp_path):
    scores = some_scores(count=1)
    scores.images["photo 0"]["psnr"] = math.inf
    other = {
        "protocols": {"cidnet": {"psnr": 20.5, "ssim": 0.7}},
        "metrics": {"y_float": 22.25},
    }
    scores = Scores(**{**vars(scores), "other": other})
    text = write(tmp_path, scores=scores)
    page = Page(text)
    assert {"inf", "protocol cidnet", "20.50 / 0.7000", "22.25"} <= set(page.words)
    assert 'data-value="Infinity"' in text


def test_plain_values_are_json():
    values = {1: [math.inf, -math.inf], "a": (math.nan, np.float64("nan"), 0.5, None)}
    expected = {"1": ["inf", "-inf"], "a": ["nan", "nan", 0.5, None]}
    assert plain(values) == expected
    json.dumps(plain(values), allow_nan=False)
