import dataclasses
import json

import pytest

from llie_jax import costs, registry, weights
from llie_jax.cli import main, models
from llie_jax.models.base import Trained


@pytest.fixture(autouse=True)
def one_subcommand(monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("models",))


def test_tables_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "darkir.lol_blur.safetensors").touch()
    count = costs.count

    def count_one(spec):  # the others take a while
        if spec == {"name": "darkir"}:
            return count(spec)
        return costs.Costs((8, 8), 1, 1, 1, 1)

    monkeypatch.setattr(costs, "count", count_one)
    assert main.main(["models", "--json", str(tmp_path / "models.json")]) == 0
    found = json.loads((tmp_path / "models.json").read_text())
    assert list(found["models"]) == registry.list_models()
    assert list(found["weights"]) == list(weights.published())
    assert found["models"]["darkir"]["sizes"]["m"]["params"] == 3_321_638
    assert found["weights"]["darkir.lol_blur"]["path"] is not None
    out = capsys.readouterr().out
    assert found["models"]["pairlie"]["options"] == ["exponent"]
    assert found["models"]["mirnet"]["official_weights"] == "none exist"
    for text in ("darkir-m", "3,321,638", "7.10", "darkir.multi_task", "27.00"):
        assert text in out


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("darkir", {"darkir.lol_blur", "darkir.lol_blur_l", "darkir.multi_task"}),
        ("darkir.m*", {"darkir.multi_task"}),
        ("blur_l", {"darkir.lol_blur_l"}),
    ],
)
def test_pattern(pattern, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "count", lambda spec: costs.Costs((8, 8), 1, 1, 1, 1))
    path = tmp_path / "a.json"
    assert main.main(["models", pattern, "--json", str(path)]) == 0
    assert set(json.loads(path.read_text())["weights"]) == expected


def test_what_was_trained(monkeypatch, capsys):
    record = {
        "config": "toy",
        "data": "lol_v1",
        "protocol": "default",
        "score": {"psnr": 21.0, "ssim": 0.8},
    }
    trained = {"l": record}
    part = registry.get("darkir")
    card = dataclasses.replace(part.card, trained={"l": Trained(**record)})
    changed = dataclasses.replace(part, card=card)
    monkeypatch.setattr(registry, "get", lambda name: changed)
    monkeypatch.setattr(costs, "count", lambda spec: costs.Costs((8, 8), 1, 1, 1, 1))
    assert models.list_models("darkir")["models"]["darkir"]["trained"] == trained
    assert main.main(["models", "darkir"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("toy on lol_v1") == 1
    assert "psnr 21.00" in out


def test_no_match(capsys):
    assert main.main(["models", "darkr"]) == 2
    assert "Did you mean 'darkir'" in capsys.readouterr().err
