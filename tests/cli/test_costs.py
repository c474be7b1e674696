import json

import pytest

from llie_jax.cli import main


@pytest.fixture(autouse=True)
def one_subcommand(monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("costs",))


def test_table_and_json(tmp_path, capsys):
    path = tmp_path / "new" / "costs.json"
    assert main.main(["costs", "darkir-l", "--size", "60x64", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["model"]["width"] == 64
    assert found["size"] == [64, 64]
    assert found["params"] == 12_957_254
    assert found["inference_params"] == 12_943_427
    out = capsys.readouterr().out
    assert f"{found['macs']:,}" in out
    assert f"{found['macs'] / 2**30:.2f} x 2^30" in out


def test_spec(capsys):
    spec = (
        '{"name": "darkir", "width": 2, "encoder_blocks": [1], "decoder_blocks": [1]}'
    )
    assert main.main(["costs", spec, "--size", "8x8"]) == 0
    assert "x 10^9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["darkr"], "Did you mean 'darkir'"),
        (["darkir-x"], "Sizes: m, l"),
        (["darkir", "--size", "256"], "HEIGHTxWIDTH"),
        (["darkir", "--size", "0x8"], "size is (0, 8)"),
        (['{"name": "darkir", "widht": 3}'], "Did you mean 'width'"),
        (['{"name": '], "not JSON"),
    ],
)
def test_errors(arguments, message, capsys):
    assert main.main(["costs", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
