import dataclasses
import json
import types

import jax
import numpy as np
import pytest

import llie_jax
from llie_jax import costs, registry, weights
from llie_jax.cli import main, models
from llie_jax.models.base import Trained


@pytest.fixture(autouse=True)
def one_subcommand(monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("models",))


def test_tables_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "darkir.lol_blur.safetensors").touch()

    def counted(spec, size):
        # Other tests of this process may have registered toys, not all of which run.
        name = spec["name"]
        ours = registry.get(name, kind="model").make.__module__.startswith("llie_jax.")
        assert not ours, f"the card of {name} does not state the costs of {spec}"
        return types.SimpleNamespace(params=0, inference_params=0, macs=0)

    monkeypatch.setattr(costs, "count", counted)
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
    path = tmp_path / "a.json"
    assert main.main(["models", pattern, "--json", str(path)]) == 0
    assert set(json.loads(path.read_text())["weights"]) == expected


@pytest.mark.parametrize("pattern", ["zero_dce", "bright*"])
def test_weights_that_ship(pattern, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights.shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(weights.shipped, "DEFAULT", "bright")
    spec = {"name": "zero_dce", "width": 2, "num_iterations": 1}
    variables = llie_jax.build(spec).init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
    facts = dict(trained_on="my pairs", protocol="default", licence="CC0-1.0")
    path = tmp_path / "bright.safetensors"
    weights.save(path, spec, variables, score={"psnr": 21.0}, **facts)
    found = models.list_models(pattern)["shipped"]["bright"]
    assert found["spec"] == registry.complete_spec(spec)
    assert found == facts | {
        "default": True,
        "spec": found["spec"],
        "score": {"psnr": 21.0},
        "path": str(path),
    }
    assert main.main(["models", pattern]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in ("bright (default)", "my pairs", "psnr 21.00", "CC0-1.0"):
        assert text in out
    assert models.list_models("darkir")["shipped"] == {}


def test_a_size_whose_card_states_no_costs_is_counted(monkeypatch):
    card = registry.get("zero_dce").card
    counted = models.list_models("zero_dce")["models"]["zero_dce"]["sizes"]
    assert counted == card.costs
    monkeypatch.setitem(vars(card), "costs", {})
    assert models.list_models("zero_dce")["models"]["zero_dce"]["sizes"] == counted


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
    get = registry.get
    monkeypatch.setattr(
        registry,
        "get",
        lambda name, **options: changed if name == "darkir" else get(name, **options),
    )
    assert models.list_models("darkir")["models"]["darkir"]["trained"] == trained
    assert main.main(["models", "darkir"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("toy on lol_v1") == 1
    assert "psnr 21.00" in out


def test_no_match(capsys):
    assert main.main(["models", "darkr"]) == 2
    assert "Did you mean 'darkir'" in capsys.readouterr().err
