"""The three files, from score files and images on disk."""

import html
import json
import re

import numpy as np
import pytest

from llie_jax.evaluation import comparison
from llie_jax.evaluation import scores as score_files
from llie_jax.image import io
from tests.evaluation.comparison import toys
from tests.evaluation.test_report import VOID, Page

VOID |= {"polygon", "br"}


@pytest.fixture
def scored(tmp_path):
    """Two models on three pairs, with saved outputs, and a third one without."""
    rng = np.random.default_rng(0)
    references = {}
    for name in "123":
        target = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        references[name] = score_files.pixels_hash(target)
        for folder, image in (
            ("pairs/low", target // 4),
            ("pairs/high", target),
            ("a/images", target // 2),
            ("b/images", target // 3),
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            io.write_image(tmp_path / folder / f"{name}.png", image)
    data = {
        "name": "paired_folder",
        "split": "all",
        "root": str(tmp_path / "pairs"),
        "references": references,
    }
    for model, values in (("a", (20, 25, 30)), ("b", (24, 23, 22)), ("c", (9, 9, 9))):
        toys.write(
            tmp_path / model / "scores.json",
            dict(zip("123", map(float, values), strict=True)),
            data=data,
            weights_sha256=model,
            weights={"weights": f"w/{model}.safetensors"},
        )
    return tmp_path


def write(folder, *models, **options):
    paths = [folder / model for model in models]
    page, markdown, latex = comparison.compare(paths, folder / "out", **options)
    return page.read_text(), markdown.read_text(), latex.read_text()


def test_everything_is_in_one_page(scored):
    text, markdown, latex = write(scored, "a", "b")
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|<link|src=\"(?!data:)", text)
    words = " ".join(page.words)
    assert "2 models compared" in words
    assert "3 images decide little" in words
    assert "25.00" in page.words  # the mean of a
    assert "+2.00" in page.words  # a - b
    assert "better : worse" in page.words
    assert "worst of a" in words
    for each in (markdown, latex):
        assert "25.00" in each
    assert not list((scored / "out").glob(".*"))

    # Input, both outputs and the reference, for the worst and best of either.
    figures = text.split("<figure>")[1:]
    assert len(figures) == 2
    options = re.findall(r"<option[^>]*>(.*?)</option>", figures[0])
    assert options == 2 * ["input", "a", "b", "reference"]
    assert figures[0].count('class="left"') == 1
    assert '<img class="right"' in figures[0]
    assert "worst of a, best of b" in figures[0]
    assert "<i>input</i><i>a</i>" in figures[0]


def test_models_without_pictures_are_named(scored):
    text, _, _ = write(scored, "a", "c")
    assert "Without pictures: c; `llie-jax eval --save-images`" in html.unescape(text)
    only, _, _ = write(scored, "c")
    assert "<img" not in only
    assert "Without pictures: c" in html.unescape(only)


def test_other_references_are_not_shown(scored):
    """The folder has changed since: it no longer holds what was scored with."""
    for path in (scored / "pairs" / "high").iterdir():
        io.write_image(path, np.zeros((12, 16, 3), np.uint8))
    text, _, _ = write(scored, "a")
    assert ">reference</option>" not in text
    assert ">input</option>" in text


def test_data_that_are_gone(scored):
    (scored / "pairs").rename(scored / "elsewhere")
    text, _, _ = write(scored, "a", "b")
    assert "Inputs and references were not found" in text
    assert re.findall(r"<option[^>]*>(.*?)</option>", text)[:2] == ["a", "b"]


def test_one_model_alone(scored):
    content = json.loads((scored / "a" / "scores.json").read_text())
    rows = {name: {"psnr": 7.0, "ssim": 0.1} for name in "123"}
    content["input"] = {"mean": {"psnr": 7.0, "ssim": 0.1}, "images": rows}
    (scored / "a" / "scores.json").write_text(json.dumps(content))
    text, markdown, _ = write(scored, "a")
    Page(text)
    assert "<h1>a</h1>" in text
    assert "unchanged input" in text
    assert "Differences" not in markdown
    assert "Bold" not in markdown
    assert "**" not in markdown


def test_marks_and_missing_images_stand_at_the_number(scored):
    path = scored / "b" / "scores.json"
    content = json.loads(path.read_text())
    content["options"] = {"selected_on_test": True}
    del content["images"]["3"]
    path.write_text(json.dumps(content))
    text, markdown, latex = write(scored, "a", "b", "c")
    assert "<div>23.50<small>selected on the test split</small>" in text
    assert "<small>2 of 3 images</small>" in text
    assert "23.50 [selected on the test split, 2 of 3 images]" in markdown
    assert r"23.50 \\ \scriptsize selected on the test split" in latex
    assert "**25.00**" in markdown  # of those that compare
    assert "+0.50 [2 of 3 images]" not in markdown
    assert "−1.00 [2 of 3 images]" in markdown  # (20 + 25) / 2 - (24 + 23) / 2


def test_columns_with_gt_mean_are_marked(scored):
    for model in "ab":
        path = scored / model / "scores.json"
        content = json.loads(path.read_text())
        for row in (content["mean"], *content["images"].values()):
            row["psnr_gt_mean"] = row["psnr"] + 4
        content["columns"] = {
            "psnr_gt_mean": {"metric": "gtmean", "unit": "dB", "uses_reference": True}
        }
        content["options"]["gt_mean"] = ["psnr_gt_mean"]
        content["options"]["constants"] = {"x": "y"}
        path.write_text(json.dumps(content))
    _, markdown, _ = write(scored, "a", "b")
    (row,) = (line for line in markdown.splitlines() if line.startswith("| a |"))
    assert row.split(" | ")[1:] == [
        "**25.00**",
        "**0.5000**",
        "**29.00** [uses the reference (GT mean)] |",
    ]
    assert "PSNR GT mean (dB), uses the reference: mean" in markdown


def test_missing_metrics_and_infinite_values(scored):
    path = scored / "b" / "scores.json"
    content = json.loads(path.read_text())
    rows = {name: {"psnr": "inf"} for name in "123"}
    path.write_text(json.dumps(content | {"images": rows, "mean": {"psnr": "inf"}}))
    text, markdown, _ = write(scored, "a", "b")
    Page(text)
    assert "| b | **inf** | – |" in markdown
    assert "0 : 3" in markdown


def test_names_cannot_break_the_files(scored):
    name = "<b>\"x' & _^{"
    path = scored / "b" / "scores.json"
    content = json.loads(path.read_text())
    content["weights"] = {"weights": f"{name}.safetensors"}
    content["images"] = {f"{name}{k}": row for k, row in content["images"].items()}
    path.write_text(json.dumps(content))
    text, _, latex = write(scored, "a", "b")
    page = Page(text)
    assert "<b>\"x'" not in text
    assert any(name in word for word in page.words)
    assert r"\textless{}b\textgreater{}" in latex


def test_pictures_are_bounded(scored, monkeypatch):
    monkeypatch.setattr(comparison.page, "PICTURE_BYTES", 6000)
    text, _, _ = write(scored, "a", "b")
    shown = text.count("<figure>")
    assert shown < 2
    if shown:
        assert "1 of 2 images are shown" in text


def test_printed_numbers(scored):
    for model, spec in (("a", {"name": "sci"}), ("b", {"name": "zero_dce"})):
        path = scored / model / "scores.json"
        content = json.loads(path.read_text())
        content["data"] |= {"name": "lol_v1", "split": "test"}
        path.write_text(json.dumps(content | {"model": spec}))
    _, markdown, _ = write(scored, "a", "b")
    rows = [line for line in markdown.splitlines() if line.startswith("| b |")]
    assert "14.86" in rows[1]
    assert "14.8607 | 0.5624" in rows[1]
    assert "25.16" not in markdown
    assert "10^9 MACs" in markdown.replace("\\", "")
    _, everyone, _ = write(scored, "a", "b", published="all")
    assert "27.18 [uses the reference (GT mean)]" in everyone
    assert "printed: retinexformer: PSNR" in everyone.replace("\\", "")
    _, nobody, _ = write(scored, "a", "b", published="none")
    assert "14.86" not in nobody


def test_an_unknown_choice(scored):
    with pytest.raises(ValueError, match="accepted: ours, all, none"):
        write(scored, "a", published="some")
