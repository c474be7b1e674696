"""`llie-jax verify`, with a checkpoint and images made here."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from llie_jax import convert, data, evaluation, weights
from llie_jax.cli import main
from llie_jax.evaluation import verify
from llie_jax.image import io
from llie_jax.types import Pretrained
from tests.convert.test_convert import SMALL, official


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one official file, the test split of LOL-v1, and its record."""
    monkeypatch.setattr(main, "SUBCOMMANDS", ("verify",))
    rng = np.random.default_rng(0)
    for name, levels in (("low", 60), ("high", 256)):
        place = tmp_path / "lol" / "eval15" / name
        place.mkdir(parents=True)
        for index in range(2):
            image = rng.integers(0, levels, (16, 24, 3)).astype(np.uint8)
            io.write_image(place / f"{index}.png", image)
    (tmp_path / "downloads" / "deep").mkdir(parents=True)
    file = tmp_path / "downloads" / "deep" / "renamed.safetensors"
    tensors = {key: np.ascontiguousarray(x) for key, x in official(SMALL).items()}
    safetensors.numpy.save_file(tensors, file)
    source = data.open_source("lol_v1", root=tmp_path / "lol", split="test")
    scores = evaluation.evaluate(*convert.from_torch(tensors), source).mean
    record = Pretrained(
        spec={"name": "darkir", **SMALL},
        file="official.pth",
        origin="https://example.org",
        licence="MIT",
        trained_on="noise",
        score={"psnr": 12.3456, "ssim": 0.5},
        protocol="theirs",
        sha256=weights.file_sha256(file),
        reference=scores,
    )
    records = {
        "darkir.small": record,
        "sci.missing": dataclasses.replace(record, sha256="0" * 64),
        "iat.unmeasured": dataclasses.replace(record, reference={}),
    }
    monkeypatch.setattr(weights, "published", lambda: records)
    return tmp_path, records


def run(folder, *arguments):
    options = ("--weights-dir", folder / "downloads", "--root", folder / "lol")
    return main.main(["verify", *map(str, (*arguments, *options))])


def test_the_table(folder, capsys):
    folder, records = folder
    page, file = folder / "verified.md", folder / "verified.json"
    assert run(folder, "--out", page, "--json", file) == 0
    out = capsys.readouterr().out
    assert "sci.missing: -: not found" in out
    assert "iat.unmeasured" not in out
    found, missing = json.loads(file.read_text())
    assert missing["verdict"] == "not found"
    assert found["verdict"] == "verified"
    assert found["measured"] == records["darkir.small"].reference
    row = next(line for line in page.read_text().splitlines() if "darkir.small" in line)
    assert "12.346 / 0.5000 (theirs)" in row
    assert row.endswith("| +0.000 | verified |")
    assert "Not at hand when this was written: sci.missing" in page.read_text()


@pytest.mark.parametrize(
    ("metric", "far"), [("psnr", 0.011), ("psnr", -0.011), ("ssim", 3e-4)]
)
def test_a_difference(folder, capsys, metric, far):
    folder, records = folder
    record = records["darkir.small"]
    reference = {**record.reference, metric: record.reference[metric] + far}
    records["darkir.small"] = dataclasses.replace(record, reference=reference)
    assert run(folder, "darkir") == 1
    assert capsys.readouterr().out.endswith(": differs\n")
    near = {**record.reference, metric: record.reference[metric] + far / 2}
    found = verify.Verification(
        "x", dataclasses.replace(record, reference=near), record.reference
    )
    assert found.verdict == "verified"


def test_a_score_on_crops(folder, capsys):
    folder, records = folder
    record = records["darkir.small"]
    records["darkir.small"] = dataclasses.replace(record, crop_multiple=5)
    page = folder / "verified.md"
    assert run(folder, "darkir", "--out", page) == 1  # 15 x 20 of 16 x 24
    assert "on crops to multiples of 5: differs" in capsys.readouterr().out
    assert "on crops to multiples of 5 |" in page.read_text()


def test_mistakes(folder, capsys):
    folder, _ = folder
    assert run(folder, "darkr") == 2
    assert "No checkpoint 'darkr' can be verified. Did" in capsys.readouterr().err
    assert run(folder, "sci") == 2
    assert "holds none of the official files: official.pth" in capsys.readouterr().err
    assert run(folder, "--weights-dir", folder / "none") == 0  # the later one counts
    assert main.main(["verify", "--weights-dir", str(folder / "none")]) == 2
