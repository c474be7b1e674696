"""The inputs of `shared/cases`, which users reported, and what they expect of each."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import llie_jax.weights
from llie_jax import data, metrics
from llie_jax.cli import main
from llie_jax.image import io
from tests.inference import toys


@pytest.fixture
def cases(shared):
    return shared / "cases"


@pytest.fixture
def enhance(monkeypatch, tmp_path, capsys):
    """Enhances with a model that doubles; returns status, results and messages."""
    monkeypatch.setattr(llie_jax.weights, "load", lambda weights: (toys.Gain(), {}))

    def run(*sources, suffix=".png"):
        arguments = [*map(str, sources), "--out", str(tmp_path / "out")]
        if suffix:
            arguments += ["--format", suffix[1:]]
        status = main.main(["enhance", *arguments, "--weights", "toy"])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run


def score(capsys, pred, gt, protocol="default"):
    folders = ["--pred", str(pred), "--gt", str(gt), "--protocol", protocol]
    assert main.main(["score", *folders]) == 0
    return capsys.readouterr()


def test_16bit_pairs(cases):
    record = data.open_source(cases / "16bit_pairs/p16")[0]
    assert len(np.unique(record["image"])) == 601
    assert record["image"].max() == 600
    assert record["target"].max() > 60_000
    image = io.read_rgb(cases / "16bit_pairs/s16/pred/1.png")
    target = io.read_rgb(cases / "16bit_pairs/s16/gt/1.png")
    assert image.dtype == np.uint8
    assert metrics.compute("rgb_float", image, target) == pytest.approx(58.96, abs=0.01)


def test_16bit_pairs_as_scores(cases, capsys):
    folder = cases / "16bit_pairs/s16"
    out = score(capsys, folder / "pred", folder / "gt", "retinexformer").out
    assert "58.96" in out


def test_16bit_tiff(cases, enhance):
    deep, tiff = (
        io.read_rgb(cases / "16bit_tiff" / f"dark.{e}") for e in ("png", "tif")
    )
    assert deep.dtype == tiff.dtype == np.uint16
    np.testing.assert_array_equal(deep, tiff)
    results = []
    for ending in ("png", "tif"):
        _, (path,), _ = enhance(cases / "16bit_tiff" / f"dark.{ending}")
        results.append(np.asarray(Image.open(path)))
        pathlib.Path(path).unlink()
    np.testing.assert_array_equal(*results)


def test_whiteiszero16(cases):
    import tifffile

    path = cases / "whiteiszero16/miniswhite16.tif"
    stored = tifffile.imread(path)
    assert (io.read_rgb(path)[..., 0] == 65535 - stored).all()


def test_big_text_png(cases, enhance):
    status, out, err = enhance(cases / "big_text_png")
    assert status == 0
    assert len(out) == 2
    assert err.count("without text that is too long") == 2


def test_exif_pairs(cases):
    for record in data.open_source(cases / "exif_pairs/or3"):
        image, target = (record[key].astype(float) for key in ("image", "target"))
        upright, turned = (
            np.corrcoef(image.ravel(), other.ravel())[0, 1]
            for other in (target, target[::-1, ::-1])
        )
        assert upright > 0.9 > turned


def test_score_exif3(cases, tmp_path, capsys):
    folder = cases / "score_exif3"
    for place in ("gt", "gt_or3"):
        result = tmp_path / f"{place}.json"
        options = ["--pred", str(folder / "pred"), "--gt", str(folder / place)]
        assert main.main(["score", *options, "--json", str(result)]) == 0
        psnr = json.loads(result.read_text())["mean"]["psnr"]
        assert psnr == pytest.approx(35.98, abs=0.01)


@pytest.mark.parametrize("name", ["jf", "tifmix"])
def test_tif_skipped(cases, name, recwarn):
    count = {"jf": 4, "tifmix": 6}[name]
    assert len(data.open_source(cases / "tif_skipped" / name)) == count
    assert not recwarn.list


def test_tif_skipped_scores(cases, capsys):
    folder = cases / "tif_skipped/mix"
    captured = score(capsys, folder / "pred", folder / "gt")
    assert "mean of 2" in captured.out
    assert captured.err == ""


def test_heic_skipped(cases, enhance, monkeypatch):
    from llie_jax.image import formats

    base = tuple(e for e in formats.READ if e not in (*formats.HEIF, *formats.RAW))
    monkeypatch.setattr(formats, "READ", base)
    status, out, err = enhance(cases / "heic_skipped")
    assert status == 0
    assert [path.rpartition("/")[2] for path in out] == ["a.png", "plain.png"]
    assert (
        "2 files not read: 1 .dng (install llie-jax[raw]), 1 .heic (install "
        "llie-jax[heic])"
    ) in err


def test_gamma_cicp(cases, enhance):
    status, out, err = enhance(cases / "gamma_cicp")
    assert (status, err) == (0, "")
    for path in map(pathlib.Path, out):
        with Image.open(path) as image:
            assert ("gamma" in image.info) == ("gama" in path.name)
        assert (b"cICP" in path.read_bytes()) == ("cicp" in path.name)
    _, _, err = enhance(cases / "gamma_cicp", suffix=".jpg")
    assert "gama_linear.jpg: without the gamma value (gAMA)" in err
    assert "cicp_p3.jpg: without colour information (cICP)" in err


def test_metadata(cases, enhance):
    status, out, err = enhance(cases / "metadata", suffix="")
    assert (status, err) == (0, "")
    with Image.open(out[0]) as image:
        assert image.info["dpi"] == (300, 300)
        assert image.info["comment"] == b"hello"
        assert image.info["xmp"]
        assert image.info["icc_profile"]
    with Image.open(out[1]) as image:
        assert image.info["Description"] == "my photo"
        assert image.info["parameters"] == "prompt ..."


def test_multiframe(cases, enhance, capsys):
    for path in sorted((cases / "multiframe").iterdir()):
        _, (result,), err = enhance(path)
        assert f"{result}: without 1 of its pictures" in err
        pathlib.Path(result).unlink()
