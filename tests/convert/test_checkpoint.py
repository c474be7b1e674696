import argparse

import numpy as np
import pytest
import safetensors.numpy

from llie_jax import convert

TENSORS = {"intro.weight": np.ones((2, 3)), "intro.bias": np.zeros(2)}


@pytest.mark.parametrize(
    "checkpoint",
    [
        TENSORS,
        {"params": TENSORS, "epoch": 3},
        {"state_dict": {"params": TENSORS}},
        {"model_state_dict": {f"module.{k}": v for k, v in TENSORS.items()}, "loss": 1},
        {"params": {"other": np.ones(1)}, "params_ema": TENSORS},
        {"net": TENSORS, "optimizer": {"state": {0: {"exp_avg": np.ones(9)}}}},
        {f"_orig_mod.module.{k}": v for k, v in TENSORS.items()},
        {"lr": np.ones(()), "net": TENSORS},
    ],
)
def test_state_dict_finds_the_tensors(checkpoint):
    found = convert.state_dict(checkpoint)
    assert found.keys() == TENSORS.keys()
    assert np.array_equal(found["intro.weight"], TENSORS["intro.weight"])


def test_state_dicts_of_several_networks():
    networks = {"model_R": TENSORS, "model_L": TENSORS}
    found = convert.state_dict({"state_dict": networks, "epoch": 3})
    assert list(found) == [f"{name}.{key}" for name in networks for key in TENSORS]


def test_one_key_with_the_prefix_keeps_it():
    assert list(convert.state_dict({"module.a": np.ones(1), "b": np.ones(1)})) == [
        "module.a",
        "b",
    ]


@pytest.mark.parametrize("checkpoint", [{}, {"epoch": 3}, [1, 2], {"a": {"b": {}}}])
def test_no_tensors(checkpoint):
    with pytest.raises(ValueError, match=r"tensors"):
        convert.state_dict(checkpoint)


def test_read_safetensors(tmp_path):
    path = tmp_path / "official.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    assert convert.read_checkpoint(path).keys() == TENSORS.keys()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        convert.read_checkpoint(path)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        convert.read_checkpoint(tmp_path / "no.pth")


class TestWithTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="needs the extra `torch`")

    def test_read(self, torch, tmp_path):
        tensors = {key: torch.from_numpy(value) for key, value in TENSORS.items()}
        tensors["half"] = torch.ones(3, dtype=torch.bfloat16)
        torch.save({"params": tensors, "epoch": 1}, tmp_path / "a.pth")
        found = convert.read_checkpoint(tmp_path / "a.pth")
        assert np.array_equal(found["intro.weight"], TENSORS["intro.weight"])
        assert found["half"].dtype == np.float32

    def test_options_of_a_command_line(self, torch, tmp_path):
        tensors = {"model_R": {"weight": torch.ones(2)}}
        options = argparse.Namespace(lr=1e-4, milestones=[3])
        torch.save({"state_dict": tensors, "opts": options}, tmp_path / "a.pth")
        assert list(convert.read_checkpoint(tmp_path / "a.pth")) == ["model_R.weight"]

    def test_objects_are_not_run(self, torch, tmp_path):
        torch.save({"params": {}, "object": Exploding()}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="Python objects"):
            convert.read_checkpoint(tmp_path / "a.pth")

    def test_damaged(self, torch, tmp_path):
        for content in (b"", b"hello", b"PK\x03\x04" + bytes(100)):
            (tmp_path / "a.pth").write_bytes(content)
            with pytest.raises(ValueError, match=r"a\.pth"):
                convert.read_checkpoint(tmp_path / "a.pth")


class Exploding:
    def __reduce__(self):
        return exec, ("raise AssertionError('was run')",)
