"""Every kind of file through every command, against a plain PNG of its picture."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import llie_jax.weights
from llie_jax import data
from llie_jax.cli import main
from tests.image import files, kinds
from tests.inference import toys

KINDS = {pathlib.PurePath(kind.name).stem: kind for kind in kinds.every()}


def unit(pixels):
    top = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    return pixels.astype(np.float64) / top


def plain(pixels) -> bytes:
    """A PNG with 16 bits per channel: exact for integers of 8 and 16 bits."""
    return files.png(np.rint(65535 * unit(pixels)).astype(np.uint16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs: files of all kinds as inputs, plain PNGs as references."""
    root = tmp_path_factory.mktemp("kinds")
    for place in ("low", "high"):
        (root / place).mkdir()
    for name, kind in KINDS.items():
        (root / "low" / kind.name).write_bytes(kind.data)
        (root / "high" / f"{name}.png").write_bytes(plain(kind.pixels))
    return root


def test_there_are_enough_kinds_under_different_names():
    assert len(KINDS) == len(kinds.every()) > 60


def test_training_pairs(folder):
    source = data.open_source(folder)
    assert sorted(source.names) == sorted(KINDS)
    for record in source:
        kind = KINDS[record["name"]]
        assert record["image"].shape == record["target"].shape
        difference = np.abs(unit(record["image"]) - unit(kind.pixels))
        if kind.exact:
            depth = kind.pixels.dtype if kind.pixels.dtype != np.float16 else "f4"
            assert record["image"].dtype == depth, kind.name
            assert difference.max() < 1e-6, kind.name
        else:
            assert difference.mean() < 0.01, kind.name


def test_data_check(folder, capsys):
    assert main.main(["data", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"pairs    {len(KINDS)}" in out
    assert f"{kinds.HEIGHT} x {kinds.WIDTH} ({len(KINDS)})" in out
    assert "problem" not in out


def test_scores(folder, tmp_path, capsys):
    result = tmp_path / "scores.json"
    arguments = ["--pred", str(folder / "low"), "--gt", str(folder / "high")]
    options = ["--protocol", "retinexformer", "--json", str(result)]
    assert main.main(["score", *arguments, *options]) == 0
    scores = json.loads(result.read_text())["images"]
    for name, kind in KINDS.items():
        psnr = float(scores[name]["psnr"])
        # A float reference is rounded to 16 bits, above 100 dB.
        assert psnr > (100 if kind.exact else 38), (kind.name, psnr)
        if kind.exact and kind.pixels.dtype.kind == "u":
            assert psnr == np.inf, kind.name


def test_enhance(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(llie_jax.weights, "load", lambda weights: (toys.Gain(), {}))
    out = tmp_path / "out"
    arguments = [str(folder / "low"), "--out", str(out), "--format", "png"]
    assert main.main(["enhance", *arguments, "--weights", "toy"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == len(KINDS)
    for name, kind in KINDS.items():
        with Image.open(out / f"{name}.png") as image:
            image.load()
            assert image.getexif().get(files.ORIENTATION, 1) == 1
            found = np.asarray(image.convert("RGB")).astype(float)
        expected = np.rint(255 * np.minimum(2 * unit(kind.pixels), 1))
        difference = np.abs(found - expected)
        if kind.exact:
            # Rounding may differ where a value lies between two levels.
            assert difference.max() <= 1, kind.name
            assert (difference > 0).mean() < 0.01, kind.name
        else:
            assert difference.mean() < 4, kind.name
        if kind.pixels.dtype != np.uint8:
            assert f"{name}.png: without" in captured.err
    for name, frames in (("png animated", 1), ("tif pages", 1)):
        assert f"{name}.png: without {frames} of its pictures" in captured.err
