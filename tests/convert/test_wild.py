"""Checkpoints as people have them: wrapped, nested, damaged, or something else."""

import collections
import io
import json
import zipfile

import numpy as np
import pytest
import safetensors.numpy

import llie_jax
from llie_jax import convert, messages
from llie_jax.convert import names
from llie_jax.models import base
from llie_jax.weights import fit

SMALL = {"name": "zero_dce_pp", "width": 4}  # quick to trace
BIAS = "e_conv1.point_conv.bias"


def official(rng):
    """Random tensors with the official names."""
    patterns = base.card(SMALL["name"]).torch.patterns
    shapes = fit.flat(base.variable_shapes(llie_jax.build(SMALL)))
    tensors = {}
    for path, leaf in shapes.items():
        shape = leaf.shape
        if path.endswith("kernel"):
            shape = (shape[3], shape[2], *shape[:2])
        key = names.torch_key(path.partition("/")[2], patterns)
        tensors[key] = rng.standard_normal(shape, np.float32)
    return tensors


TENSORS = official(np.random.default_rng(0))
OTHER = {key: value + 1 for key, value in TENSORS.items()}


def kernel(variables):
    return np.asarray(variables["params"]["conv_0"]["pointwise"]["kernel"])


EXPECTED = kernel(convert.from_torch(TENSORS)[1])


def under(prefix, tensors=TENSORS):
    return {prefix + key: value for key, value in tensors.items()}


@pytest.mark.parametrize(
    "checkpoint",
    [
        under("module."),
        under("_orig_mod."),
        under("model."),
        under("net."),
        under("net_g."),
        under("module.module."),
        under("module._orig_mod.net_g."),
        under("a.strange.prefix."),
        {"model": under("module.")},
        {"generator": TENSORS, "discriminator": {"conv.weight": np.ones((9, 9))}},
        {"net_g": TENSORS, "net_d": {"conv.weight": np.ones((9, 9))}},
        {"state_dict": under("model."), "epoch": 3, "callbacks": {"a": np.ones(3)}},
        {"checkpoint": {"network": {"weights": TENSORS}}, "args": {"lr": 1}},
        {"state_dict": under("model.") | under("criterion.", {"v": np.ones(3)})},
        {"state": TENSORS, "optimizer_state": {"exp_avg": under("o.")}},
        collections.OrderedDict(under("module.")),
    ],
)
def test_the_prefix_that_fits_is_found(checkpoint):
    model, variables = convert.from_torch(checkpoint)
    assert model == llie_jax.build(SMALL)
    np.testing.assert_array_equal(kernel(variables), EXPECTED)


@pytest.mark.parametrize(
    "both",
    [
        {"params": OTHER, "params_ema": TENSORS},
        {"state_dict": OTHER, "state_dict_ema": TENSORS},
        {"model": OTHER, "model_ema": under("module.")},
        {"model": OTHER, "ema": TENSORS, "optimizer": {}},
        under("model.", OTHER) | under("ema_model."),
        {"state_dict": under("net.", OTHER) | under("net_ema.")},
    ],
)
def test_averaged_weights_are_chosen_with_a_note(both):
    with pytest.warns(messages.Note, match="averaged ones are used.*--use raw"):
        _, variables = convert.from_torch(both)
    np.testing.assert_array_equal(kernel(variables), EXPECTED)
    for use, expected in (("ema", EXPECTED), ("raw", EXPECTED + 1)):
        _, variables = convert.from_torch(both, use=use)
        np.testing.assert_array_equal(kernel(variables), expected)


def test_what_is_left_out_is_named():
    wrapped = under("net.") | {"teacher.conv.weight": np.ones((3, 3))}
    with pytest.warns(messages.Note, match=r"'net\.' are left out: teacher\.conv"):
        convert.from_torch(wrapped)
    with pytest.warns(messages.Note, match="left out of the checkpoint: epoch, optim"):
        convert.from_torch({"params": TENSORS, "epoch": 3, "optimizer": {}})


def test_the_user_sets_the_prefix_or_leaves_keys_out():
    both = under("a.") | under("b.", OTHER)
    _, variables = convert.from_torch(both, key_prefix="b.")
    np.testing.assert_array_equal(kernel(variables), EXPECTED + 1)
    with pytest.raises(ValueError, match=r"No key starts with 'c\.'.*Prefixes: a\."):
        convert.from_torch(both, key_prefix="c.")
    more = TENSORS | {"head.weight": np.ones(3), "head.bias": np.ones(3)}
    with pytest.raises(ValueError, match=r"head\.bias.*--ignore PATTERN"):
        convert.from_torch(more)
    convert.from_torch(more, ignore=["head.*"])
    with pytest.raises(ValueError, match=r"'heads\.\*' to ignore matches no key"):
        convert.from_torch(more, ignore=["heads.*"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_size(dtype):
    tensors = {key: value.astype(dtype) for key, value in TENSORS.items()}
    _, variables = convert.from_torch(tensors)
    expected = kernel(convert.from_torch(TENSORS)[1]).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(kernel(variables), expected)


def test_rounding_to_float32_is_said():
    tensors = {**TENSORS, BIAS: np.full(4, 1 / 3)}
    with pytest.warns(messages.Note, match=r"1 tensors are rounded.*point_conv\.bias"):
        convert.from_torch(tensors)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            np.full(4, np.nan, np.float32),
            r"not finite: .*point_conv\.bias \(4 of 4 values\)",
        ),
        (
            np.float32([1, np.inf, 0, 0]),
            r"not finite: .*point_conv\.bias \(1 of 4 values\)",
        ),
        (np.ones(4, np.int8), r"conv1\.point_conv\.bias has int8 values, not floats"),
        (np.ones(4, np.complex64), r"conv1\.point_conv\.bias has complex64 values"),
    ],
)
def test_values_that_are_no_weights_are_named(value, words):
    with pytest.raises(ValueError, match=words):
        convert.from_torch({**TENSORS, BIAS: value})


def archive(*inside):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in inside:
            file.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty.*repeat"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page.*download"),
        (b"\n  <html>", "web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "LFS pointer.*git lfs pull",
        ),
        (b'{"error": "quota exceeded"}', "JSON text"),
        (b"\x1f\x8b" + bytes(9), "gzip archive: unpack"),
        (b"\x89PNG\r\n", "picture"),
        (b"\x89HDF\r\n", "HDF5"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_named(tmp_path, content, words, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a{suffix}.*{words}"):
        convert.read_checkpoint(path)


def test_safetensors_by_content(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "a.pth")
    assert convert.read_checkpoint(tmp_path / "a.pth").keys() == TENSORS.keys()


def test_bfloat16_in_safetensors(tmp_path):
    exact = (np.arange(6, dtype=np.float32) / 4).reshape(2, 3)
    halves = (exact.view(np.uint32) >> 16).astype(np.uint16)
    header = {
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [12, 36]},
    }
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + halves.tobytes()
    (tmp_path / "a.safetensors").write_bytes(content + exact.tobytes())
    found = convert.read_checkpoint(tmp_path / "a.safetensors")
    for key in ("a", "b"):
        np.testing.assert_array_equal(found[key], exact)


class TestWithTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="needs the extra `torch`")

    def save(self, torch, path, content):
        torch.save(content, path)
        return convert.read_checkpoint(path)

    def test_numbers_of_numpy(self, torch, tmp_path):
        content = {"params": {"a": torch.ones(3)}, "best": np.float64(28.3)}
        assert list(self.save(torch, tmp_path / "a.pth", content)) == ["a"]

    def test_objects_are_named(self, torch, tmp_path):
        content = {"params": {"a": torch.ones(3)}, "config": tmp_path}
        with pytest.raises(ValueError, match=r"a\.pth contains Python objects.*athlib"):
            self.save(torch, tmp_path / "a.pth", content)

    @pytest.mark.parametrize("kind", ["sparse", "quantised", "meta"])
    def test_tensors_without_plain_values(self, torch, tmp_path, kind):
        tensor = {
            "sparse": lambda: torch.eye(3).to_sparse(),
            "quantised": lambda: torch.quantize_per_tensor(
                torch.ones(3), 0.1, 0, torch.qint8
            ),
            "meta": lambda: torch.ones(3, device="meta"),
        }[kind]()
        with pytest.raises(ValueError, match=r"conv\.weight cannot be read"):
            convert.state_dict({"conv.weight": tensor, "b": torch.ones(2)})

    def test_archives(self, torch, tmp_path):
        for inside, words in (
            (("a/weights.pth", "a/README.md"), r"archive with weights\.pth, README"),
            (("m/constants.pkl", "m/data.pkl"), "TorchScript program"),
        ):
            (tmp_path / "a.pt").write_bytes(archive(*inside))
            with pytest.raises(ValueError, match=words):
                convert.read_checkpoint(tmp_path / "a.pt")

    def test_half_a_download(self, torch, tmp_path):
        path = tmp_path / "a.pth"
        torch.save({"a": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match="is the download complete"):
            convert.read_checkpoint(path)


def test_mappings_that_never_end():
    endless: dict = {}
    endless["model"] = endless
    deep: dict = {"a": np.ones(1)}
    for _ in range(300):
        deep = {"model": deep}
    for checkpoint in (endless, deep):
        with pytest.raises(ValueError, match=r"nested|no tensors"):
            convert.state_dict(checkpoint)
