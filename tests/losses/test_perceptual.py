import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.features import vgg
from llie_jax.losses import NormalizedVGGPerceptual, VGGPerceptual, WeightedLoss
from llie_jax.types import Outputs
from tests.features.test_vgg import golden_tensors, save
from tests.losses.test_basic import nhwc


@pytest.fixture(scope="module")
def data(golden):
    data = np.load(golden / "darkir_vggloss_tiny.npz")
    images = ("pred", "target", "grad_pred")
    return {key: nhwc(data[key]) for key in images} | {"loss": data["loss_w001"]}


@pytest.fixture(scope="module")
def params(golden):
    return vgg.from_torch(golden_tensors(golden), taps=("relu5_1",))


def test_golden_loss_and_gradient(data, params, tmp_path):
    path = save(tmp_path / "tiny.safetensors", params)
    spec = {"name": "vgg19", "weight": 0.01, "weights": str(path)}
    loss = WeightedLoss({"perceptual": spec})
    constants = loss.load_constants()
    batch = {"image": data["pred"], "target": data["target"]}

    def objective(prediction):
        return loss(Outputs(prediction), batch, constants, 0)[0]

    with jax.default_matmul_precision("highest"):
        value, grad = jax.jit(jax.value_and_grad(objective))(data["pred"])
    assert abs(value - data["loss"]) / data["loss"] < 1e-5
    worst = np.max(np.abs(data["grad_pred"]))
    assert np.max(np.abs(grad - data["grad_pred"])) / worst < 1e-4


def test_target_has_no_gradient_and_equal_images_score_zero(data, params):
    loss = VGGPerceptual(layers=("relu1_1", "conv2_1"), factors=(1.0, 0.5))
    value, grad = jax.value_and_grad(
        lambda target: loss(data["pred"], target, params).sum()
    )(data["target"])
    assert value > 0
    assert not grad.any()
    np.testing.assert_array_equal(loss(data["pred"], data["pred"], params), [0.0])


def test_normalize_and_sum(data, params):
    layer = {"layers": ("relu1_1",), "factors": (1.0,)}
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    by_hand = VGGPerceptual(**layer)(
        (data["pred"] - mean) / std, (data["target"] - mean) / std, params
    )
    normalized = VGGPerceptual(**layer, normalize=True)
    value = normalized(data["pred"], data["target"], params)
    np.testing.assert_allclose(value, by_hand, rtol=1e-5)
    total = VGGPerceptual(**layer, normalize=True, reduce="sum")
    np.testing.assert_allclose(
        total(data["pred"], data["target"], params), value * 32 * 48 * 4, rtol=1e-5
    )


def test_signed_images_and_squares(data, params):
    """HVI-CIDNet's form: layers before their ReLU, squares, range shifted first."""
    layers = {"layers": ("conv1_2", "conv2_2"), "factors": (1.0, 1.0)}
    official = VGGPerceptual(**layers, normalize=True, signed=True, distance="mse")
    value = official(data["pred"], data["target"], params)
    shifted = [(data[key] + 1) / 2 for key in ("pred", "target")]
    by_hand = VGGPerceptual(**layers, normalize=True, distance="mse")(*shifted, params)
    np.testing.assert_allclose(value, by_hand, rtol=1e-5)

    trunk = vgg.VGG(taps=layers["layers"], width=4)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    first, second = (trunk.apply({"params": params}, (x - mean) / std) for x in shifted)
    assert any(np.any(first[layer] < 0) for layer in first)
    expected = sum(
        ((first[layer] - second[layer]) ** 2).mean((1, 2, 3)) for layer in first
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_gradient_is_finite_on_black(params):
    black = jnp.zeros((1, 16, 16, 3))
    loss = VGGPerceptual()
    grad = jax.jit(jax.grad(lambda p: loss(p, black, params).sum()))(black)
    assert np.isfinite(grad).all()


def test_terms_share_one_file(params, tmp_path):
    path = str(save(tmp_path / "tiny.safetensors", params))
    spec = {"name": "vgg19", "weights": path}
    loss = WeightedLoss({"image": spec, "guide": {**spec, "on": "aux.guide"}})
    assert len(loss.load_constants()) == 1


def test_shapes_without_a_file():
    loss = WeightedLoss({"perceptual": "vgg19"})
    (shapes,) = loss.constants_shapes().values()
    assert shapes["conv5_1"]["kernel"].shape == (3, 3, 512, 512)
    assert len(shapes) == 13


def test_user_mistakes(params):
    with pytest.raises(ValueError, match="5 layers but 1 factors"):
        VGGPerceptual(factors=(1.0,))
    with pytest.raises(ValueError, match="no distance 'l2'"):
        VGGPerceptual(distance="l2")
    with pytest.raises(ValueError, match="no layer 'relu1-1'"):
        VGGPerceptual(layers=("relu1-1",), factors=(1.0,))
    with pytest.raises(ValueError, match="equal shapes"):
        VGGPerceptual()(jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 17, 3)), params)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        WeightedLoss(
            {"p": {"name": "vgg19", "weights": "nowhere.safetensors"}}
        ).load_constants()


def test_normalized_features_by_hand(data):
    """CPGA-Net+'s form: blue first, minus Caffe's mean, VGG16, instance norm."""
    taps = ("conv2_1",)
    trunk = vgg.VGG(taps, vgg.VGG16, width=4)
    constants = trunk.init(jax.random.key(0), data["pred"])["params"]
    found = []
    for image in (data["pred"], data["target"]):
        blue_first = 255 * np.asarray(image)[..., ::-1] - [103.939, 116.779, 123.68]
        x = np.asarray(trunk.apply({"params": constants}, blue_first)["conv2_1"])
        mean, variance = x.mean((1, 2)), x.var((1, 2))
        found.append((x - mean) / np.sqrt(variance + 1e-5))
    loss = NormalizedVGGPerceptual(layer="conv2_1")
    value = loss(data["pred"], data["target"], constants)
    np.testing.assert_allclose(value, [np.mean((found[0] - found[1]) ** 2)], rtol=1e-4)
    # A gain of all features changes nothing.
    gained = jax.tree.map(lambda leaf: leaf, constants)
    gained["conv2_1"] = {k: 3 * v for k, v in constants["conv2_1"].items()}
    again = loss(data["pred"], data["target"], gained)
    np.testing.assert_allclose(again, value, rtol=1e-4)


def test_normalized_features_of_the_published_network():
    loss = WeightedLoss({"perceptual": "vgg16_normalized"})
    (shapes,) = loss.constants_shapes().values()
    assert len(shapes) == 13
    assert shapes["conv5_3"]["kernel"].shape == (3, 3, 512, 512)
    with pytest.raises(ValueError, match="no layer 'conv3_4'"):  # VGG19's
        NormalizedVGGPerceptual(layer="conv3_4")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        NormalizedVGGPerceptual(weights="nowhere.safetensors").load_constants()
