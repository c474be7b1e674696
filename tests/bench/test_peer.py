import json

import numpy as np
import pytest

from bench import peer
from tests import processes

OFFICIAL = """
import torch

class Pair(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = torch.nn.Conv2d(3, width, 3, padding=1)
        self.second = torch.nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image):
        curve = self.second(self.first(image))
        return curve[:, :, ::2, ::2], image + curve
"""


@pytest.fixture
def official(tmp_path):
    path = tmp_path / "official_pair.py"
    path.write_text(OFFICIAL)
    return path


def test_cases():
    assert peer.parse_case("2x128x96") == (2, 128, 96)


def test_the_image_is_the_largest_output_with_three_channels():
    small, large, again, curves = (
        np.zeros(shape)
        for shape in ((1, 3, 2, 2), (1, 3, 4, 4), (1, 3, 4, 4), (1, 24, 4, 4))
    )
    assert peer.pick_image([small, curves, large, again], None) is large
    assert peer.pick_image({"a": curves, "b": again}, None) is again
    assert peer.pick_image((small, curves), 1) is curves
    assert peer.pick_image(small, None) is small
    with pytest.raises(ValueError, match="use an adapter"):
        peer.pick_image((curves,), None)
    with pytest.raises(ValueError, match="there are 2 outputs"):
        peer.pick_image((small, curves), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--torch-module", "pair.py"], "give FILE:CLASS"),
        (["--torch-module", "missing.py:Pair"], "no file missing.py"),
        (["--forward", "256x256"], "BATCHxHEIGHTxWIDTH"),
        (["--forward", "0x8x8"], "BATCHxHEIGHTxWIDTH"),
        ([], "give --forward or --step"),
    ],
)
def test_errors(arguments, message, official, capsys):
    required = ["--torch-module", f"{official}:Pair", "--model", "zero_dce"]
    assert peer.main([*required, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("what", "case"),
    [("forward", "1x8x12"), pytest.param("step", "2x8x8", marks=pytest.mark.slow)],
)
def test_both_sides_are_measured(official, tmp_path, what, case):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    out = tmp_path / "pair.json"
    arguments = {
        "--torch-module": [f"{official}:Pair"],
        "--torch-args": ['{"width": 4}'],
        "--model": ['{"name": "zero_dce", "width": 2}'],
        f"--{what}": [case],
        "--dtype": ["float32", "bfloat16"],
        "--threads": ["1"],
        "--repeats": ["2"],
        "--out": [out],
    }
    # In its own process, since it restricts the cores.
    flat = [each for option, values in arguments.items() for each in (option, *values)]
    process = processes.start("bench.peer", *flat, devices=1)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "numbers of parameters differ" in error
    found = json.loads(out.read_text())
    assert found["parameters"]["torch"] == 2 * (9 * 3 * 4) + 4 + 3
    assert [(row["what"], row["dtype"]) for row in found["rows"]] == [
        (what, "float32"),
        (what, "bfloat16"),
    ]
    for row in found["rows"]:
        assert row["case"] == [int(part) for part in case.split("x")]
        assert len(row["times_ms"]["torch"]) == len(row["times_ms"]["here"]) == 2
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high
