import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from llie_jax.features import vgg, weights

RELU = tuple(f"relu{block}_1" for block in range(1, 6))


def golden_tensors(golden):
    """Returns the tiny network's tensors under torchvision's names."""
    data = np.load(golden / "darkir_vggloss_tiny.npz")
    return {
        "features." + key.split(".", 2)[2]: data[key]
        for key in data.files
        if key.startswith("param:")
    }


def random_tensors(convolutions, width=2):
    """Returns all tensors of a narrow torchvision network, classifier included."""
    rng = np.random.default_rng(0)
    tensors = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    channels = 3
    for index, name in enumerate(vgg.layer_names(convolutions)):
        if name.startswith("conv"):
            out = width * min(2 ** (int(name[4]) - 1), 8)
            shape = (out, channels, 3, 3)
            tensors[f"features.{index}.weight"] = rng.normal(size=shape)
            tensors[f"features.{index}.bias"] = rng.normal(size=out)
            channels = out
    return tensors


def save(path, params):
    flat = traverse_util.flatten_dict({"params": params}, sep="/")
    safetensors.numpy.save_file(flat, path)
    return path


def test_layers_are_at_torchvision_s_places():
    vgg19 = vgg.layer_names(vgg.VGG19)
    assert len(vgg19) == 37
    assert [vgg19.index(name) for name in RELU] == [1, 6, 11, 20, 29]
    assert vgg19[34] == "conv5_4"
    vgg16 = vgg.layer_names(vgg.VGG16)
    assert len(vgg16) == 31
    assert vgg16[28] == "conv5_3"


def test_golden_features(golden):
    data = np.load(golden / "darkir_vggloss_tiny.npz")
    params = vgg.from_torch(golden_tensors(golden), taps=RELU)
    with jax.default_matmul_precision("highest"):
        features = vgg.VGG(taps=RELU, width=4).apply(
            {"params": params}, jnp.asarray(data["pred"].transpose(0, 2, 3, 1))
        )
    assert list(features) == list(RELU)
    for index, value in enumerate(features.values()):
        expected = data[f"inter:feat{index}"].transpose(0, 2, 3, 1)
        error = np.max(np.abs(value - expected)) / np.max(np.abs(expected))
        assert error < 1e-5, index


def test_published_size():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)

    def count(taps, convolutions):
        trunk = vgg.VGG(taps=taps, convolutions=convolutions)
        shapes = jax.eval_shape(trunk.init, jax.random.key(0), image)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(("conv5_4",), vgg.VGG19) == 20_024_384
    assert count(("conv5_3",), vgg.VGG16) == 14_714_688


def test_tap_before_relu_and_odd_sizes():
    trunk = vgg.VGG(taps=("conv1_2", "relu1_2", "relu2_1"), width=2)
    image = jnp.asarray(np.random.default_rng(0).random((1, 7, 5, 3), np.float32))
    features, variables = trunk.init_with_output(jax.random.key(0), image)
    np.testing.assert_array_equal(
        features["relu1_2"], np.maximum(features["conv1_2"], 0)
    )
    assert features["conv1_2"].min() < 0
    assert features["relu2_1"].shape == (1, 3, 2, 4)
    assert set(variables["params"]) == {"conv1_1", "conv1_2", "conv2_1"}


def test_user_mistakes():
    image = jnp.zeros((1, 15, 40, 3))
    with pytest.raises(ValueError, match=r"at least 16 x 16 .*'relu5_1'.* 15 x 40"):
        vgg.VGG(taps=RELU).init(jax.random.key(0), image)
    with pytest.raises(ValueError, match=r"no layer 'relu5_9'\. Did you mean 'relu5_"):
        vgg.VGG(taps=("relu5_9",)).init(jax.random.key(0), image)
    with pytest.raises(ValueError, match="at least one tap"):
        vgg.VGG(taps=()).init(jax.random.key(0), image)


def test_from_torch_lists_missing_and_unknown_keys():
    tensors = random_tensors(vgg.VGG16)
    assert "conv5_3" in vgg.from_torch(tensors, convolutions=vgg.VGG16)
    with pytest.raises(ValueError, match=r"missing .*\.16\.weight.*unknown .*\.17"):
        vgg.from_torch(tensors)
    full = random_tensors(vgg.VGG19)
    assert len(vgg.from_torch(full)) == 16
    assert len(vgg.from_torch(full, taps=RELU)) == 13


def test_load_finds_release_files(tmp_path, monkeypatch):
    params = vgg.from_torch(random_tensors(vgg.VGG19))
    cache = tmp_path / ".cache" / "llie_jax"
    monkeypatch.setattr(weights, "cache", lambda: cache)
    with pytest.raises(FileNotFoundError) as error:
        vgg.load()
    for part in (
        str(cache / "vgg19.safetensors"),
        "vgg19-dcbb9e9d.pth",
        "IMAGENET1K_V1",
        "llie-jax features fetch vgg19-dcbb9e9d.pth",
        "LLIE_JAX_WEIGHTS",
    ):
        assert part in str(error.value)

    cache.mkdir(parents=True)
    save(cache / "vgg19.safetensors", params)
    loaded = vgg.load()
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))
    assert "conv5_2" not in vgg.load(taps=RELU)

    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("LLIE_JAX_WEIGHTS", str(tmp_path / "weights"))
    assert weights.find(name="vgg19") == cache / "vgg19.safetensors"
    nearer = save(tmp_path / "weights" / "vgg19.safetensors", params)
    assert weights.find(name="vgg19") == nearer
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.safetensors"):
        vgg.load(tmp_path / "elsewhere.safetensors")
    with pytest.raises(TypeError, match="`weight`"):
        vgg.load(0.01)


def test_load_refuses_damaged_and_foreign_files(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"damaged\.safetensors cannot be read"):
        vgg.load(damaged)
    foreign = save(tmp_path / "foreign.safetensors", {"a": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match=r"foreign\.safetensors does not hold vgg19"):
        vgg.load(foreign)


def test_pth_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    path.write_bytes(b"")
    with pytest.raises(ImportError, match=r"llie-jax\[torch\]"):
        vgg.load(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_pth_with_pytorch(tmp_path, new_format):
    torch = pytest.importorskip("torch", reason="reading .pth needs PyTorch")
    tensors = random_tensors(vgg.VGG19)
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    state = {key: torch.nn.Parameter(torch.tensor(x)) for key, x in tensors.items()}
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    loaded = vgg.load(path)
    expected = vgg.from_torch(tensors)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, expected))
    for content in (b"", b"nothing of the kind", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"vgg19-dcbb9e9d\.pth is not a file"):
            vgg.load(path)
