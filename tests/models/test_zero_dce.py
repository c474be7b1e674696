"""Zero-DCE and Zero-DCE++ against the official code, and what is specific to them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs
from llie_jax.models.base import card, initial_variables, variable_shapes
from tests.official import nhwc

MODELS = ("zero_dce", "zero_dce_pp")
KEYS = {"zero_dce": "zerodce_keys.json", "zero_dce_pp": "zerodcepp_keys.json"}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def assert_golden(path, scale=1):
    """Checks a file's model at one scale, and returns its outputs."""
    arrays = dict(np.load(path))
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    model, variables = convert.from_torch(tensors)
    if scale > 1:
        model = model.with_options({"scale": float(scale)})
    outputs = jax.jit(model.apply)(variables, nhwc(arrays["input"]))
    found = {
        "output": outputs.image,
        "curves": outputs.aux["curves"],
        "output_half": outputs.aux["half"],
    }
    end = f"_scale{scale}" if f"output_scale{scale}" in arrays else ""
    compared = [key for key in found if f"{key}{end}" in arrays]
    for key in compared:
        np.testing.assert_allclose(found[key], nhwc(arrays[key + end]), atol=2e-6)
    return compared


def test_random_weights(golden):
    found = assert_golden(golden / "zerodce_random.npz")
    assert found == ["output", "curves", "output_half"]


def test_random_weights_at_a_quarter_of_the_size(golden):
    assert assert_golden(golden / "zerodcepp_random.npz", 4) == ["output", "curves"]


@pytest.mark.parametrize(
    ("file", "scale"), [("zerodce", 1), ("zerodcepp", 1), ("zerodcepp", 12)]
)
def test_published_weights(shared, file, scale):
    path = shared / "golden" / f"{file}_epoch99.npz"
    assert {"output", "curves"} <= set(assert_golden(path, scale))


@pytest.mark.parametrize("name", MODELS)
def test_official_keys_are_those_of_the_model(golden, name):
    shapes = json.loads((golden / KEYS[name]).read_text())
    tensors = {
        key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()
    }
    model, variables = convert.from_torch(tensors)
    assert convert.infer_spec(tensors) == llie_jax.default_spec(name)
    assert model == llie_jax.build(name)
    assert len(jax.tree.leaves(variables)) == len(shapes)
    with pytest.raises(ValueError, match=r"Unknown keys: e_conv8\.weight"):
        convert.from_torch({**tensors, "e_conv8.weight": np.zeros(1)}, name)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("zero_dce", 79_416, 5_190_451_200), ("zero_dce_pp", 10_561, 660_275_200)],
)
def test_published_costs(name, params, macs):
    found = costs.count(name)
    assert (found.params, found.inference_params, found.macs) == (params, params, macs)


def test_other_sizes_are_inferred():
    shapes = {
        "e_conv1.weight": np.zeros((5, 3, 3, 3)),
        "e_conv7.weight": np.zeros((12, 10, 3, 3)),
    }
    found = convert.infer_spec(shapes, "zero_dce")
    assert (found["width"], found["num_iterations"]) == (5, 4)
    del shapes["e_conv7.weight"]
    with pytest.raises(ValueError, match=r"no 'e_conv7\.weight', so num_iterations"):
        convert.infer_spec(shapes, "zero_dce")
    given = {"name": "zero_dce", "num_iterations": 3}
    assert convert.infer_spec(shapes, given)["num_iterations"] == 3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("native_convolutions")
def test_curves_by_hand(name):
    """With zero kernels, the last bias determines the maps."""
    model = llie_jax.build({"name": name, "width": 2, "num_iterations": 2})
    variables = jax.tree.map(lambda x: np.zeros(x.shape), variable_shapes(model))
    image = jnp.linspace(0, 1, 2 * 4 * 3).reshape(1, 2, 4, 3)
    np.testing.assert_array_equal(model.apply(variables, image).image, image)

    last = variables["params"]["conv_6"]
    bias = last["bias"] if name == "zero_dce" else last["pointwise"]["bias"]
    bias[:] = np.linspace(-1, 0.5, bias.size)
    first, second = np.tanh(bias[:3]), np.tanh(bias[-3:])  # equal for one map
    half = image + first * (image**2 - image)
    wanted = half + second * (half**2 - half)
    found = model.apply(variables, image)
    np.testing.assert_allclose(found.image, wanted, atol=1e-6)
    np.testing.assert_allclose(found.aux["half"], half, atol=1e-6)


@pytest.mark.usefixtures("native_convolutions")
def test_the_scale_is_for_inference():
    model = llie_jax.build({"name": "zero_dce_pp", "width": 4})
    image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    variables = initial_variables(model, jax.random.key(1), (8, 8))
    scaled = model.with_options({"scale": 4.0})
    assert (model.multiple, scaled.multiple) == (1, 4)
    plain = jax.jit(model.apply)(variables, image).image
    trained = jax.jit(lambda v, x: scaled.apply(v, x, train=True).image)
    np.testing.assert_array_equal(trained(variables, image), plain)
    small = jax.jit(scaled.apply)(variables, image).image
    assert np.abs(small - plain).max() > 1e-4
    with pytest.raises(ValueError, match="8 x 6; this ZeroDCEPlusPlus needs mult"):
        scaled.apply(variables, image[:, :, :6])
    for value in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"scale={value}; use a whole number"):
            model.with_options({"scale": value}).apply(variables, image)


def test_initialisation():
    def kernels(name):
        model = llie_jax.build(name)
        variables = initial_variables(model, jax.random.key(0), (4, 4))
        return variables["params"]["conv_4"]

    plain = kernels("zero_dce")
    assert 0.019 < np.std(plain["kernel"]) < 0.021
    assert 0.9 / 24 < np.abs(plain["bias"]).max() <= 1 / 24  # PyTorch's, by fan-in
    separable = kernels("zero_dce_pp")
    assert 0.9 / 3 < np.abs(separable["depthwise"]["kernel"]).max() <= 1 / 3
    assert 0.9 / 8 < np.abs(separable["pointwise"]["kernel"]).max() <= 1 / 8


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("field", ["width", "num_iterations"])
def test_impossible_fields(name, field):
    model = llie_jax.build({"name": name, field: 0})
    with pytest.raises(ValueError, match=f"{field}=0; use at least 1"):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


@pytest.mark.parametrize("name", MODELS)
def test_published_files_are_described(name):
    record = card(name).weights["sice"]
    assert record.licence == "CC-BY-NC-4.0"
    assert len(record.sha256) == 64
    assert record.reference["psnr"] > 14


def test_the_score_at_scale_12_is_of_crops():
    weights = card("zero_dce_pp").weights
    record = weights["sice_scale12"]
    assert record.sha256 == weights["sice"].sha256
    assert record.crop_multiple == llie_jax.build(record.spec).multiple == 12
