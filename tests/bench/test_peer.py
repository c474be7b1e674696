import json

import numpy as np
import pytest

from bench import peer

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


def test_both_sides_are_measured(official, tmp_path, capfd):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    out = tmp_path / "pair.json"
    status = peer.main(
        ["--torch-module", f"{official}:Pair", "--torch-args", '{"width": 4}']
        + ["--model", '{"name": "zero_dce", "width": 2}', "--forward", "1x8x12"]
        + ["--step", "2x8x8", "--dtype", "float32", "bfloat16"]
        + ["--threads", "1", "--repeats", "2", "--out", str(out)]
    )
    captured = capfd.readouterr()
    assert status == 0, captured.err
    found = json.loads(out.read_text())
    assert found["parameters"]["torch"] == 2 * (9 * 3 * 4) + 4 + 3
    assert "numbers of parameters differ" in captured.err
    assert [(row["what"], row["case"], row["dtype"]) for row in found["rows"]] == [
        (what, case, dtype)
        for what, case in (("forward", [1, 8, 12]), ("step", [2, 8, 8]))
        for dtype in ("float32", "bfloat16")
    ]
    for row in found["rows"]:
        assert len(row["times_ms"]["torch"]) == len(row["times_ms"]["here"]) == 2
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high
