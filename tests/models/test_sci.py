"""SCI against the official code, and what is specific to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs, losses
from llie_jax.models.base import card, initial_variables, variable_shapes
from tests.official import nhwc, random_tensors, split_golden


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


PUBLISHED = ("easy", "medium", "difficult")


@pytest.fixture(
    scope="module",
    params=["random", *(pytest.param(x, marks=pytest.mark.slow) for x in PUBLISHED)],
)
def official(request, golden):
    """Returns the model and variables of official weights, and golden arrays."""
    if request.param in PUBLISHED:
        folder = request.getfixturevalue("shared") / "golden"
        tensors, arrays = split_golden(folder / f"sci_{request.param}.npz")
    else:
        _, arrays = split_golden(golden / "sci_random.npz")
        tensors = random_tensors(golden / "sci_keys.json", int(arrays["seed"]))
        aliases = json.loads((golden / "sci_aliases.json").read_text())
        tensors |= {key: tensors[first] for key, first in aliases.items()}
    return *convert.from_torch(tensors), arrays


def train(model):
    """Returns a jitted training pass, `(variables, image) -> (outputs, updated)`."""
    return jax.jit(
        lambda variables, image: model.apply(
            variables,
            image,
            train=True,
            rngs={"lfpv": jax.random.key(2)},
            mutable=["batch_stats", "lfpv"],
        )
    )


def total_loss(image, illumination, later):
    """Returns the loss of all stages, as the recipe weights it."""
    stages = [(image, illumination), *later]
    return sum(
        1.5 * losses.mse(i, x)[0] + losses.edge_aware_smoothness(i, x)[0]
        for x, i in stages
    )


def test_image_golden(official):
    model, variables, arrays = official
    outputs = jax.jit(model.apply)(variables, nhwc(arrays["input"]))
    np.testing.assert_allclose(outputs.image, nhwc(arrays["output"]), atol=2e-6)
    found = outputs.aux["illumination"]
    np.testing.assert_allclose(found, nhwc(arrays["illumination"]), atol=2e-6)
    assert set(outputs.aux) == {"illumination"}


def test_stages_golden(official):
    model, variables, arrays = official
    image = nhwc(arrays["input"])
    first = nhwc(arrays["stage0_illumination"])

    @jax.jit
    def run(variables, image, first):
        later = model.apply(variables, image, first, method="later_stages")
        return later, total_loss(image, first, later)

    later, total = run(variables, image, first)
    for i, stage in enumerate(later, 1):
        for part, found in zip(("input", "illumination"), stage, strict=True):
            wanted = nhwc(arrays[f"stage{i}_{part}"])
            np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(total, arrays["loss:eval_total"], rtol=1e-4)


def test_training_golden(official):
    model, variables, arrays = official
    image = nhwc(arrays["input"])
    outputs, updated = train(model)(variables, image)
    aux = outputs.aux
    later = [(aux[f"input_{i}"], aux[f"illumination_{i}"]) for i in (1, 2)]
    # Random weights amplify rounding: float32 changes the official result by 3e-6.
    atol = 2e-5 if "seed" in arrays else 2e-6
    np.testing.assert_allclose(
        later[-1][1], nhwc(arrays["train_illumination2"]), atol=atol
    )
    total = jax.jit(total_loss)(image, aux["illumination"], later)
    np.testing.assert_allclose(total, arrays["loss:train_total"], rtol=1e-4)
    new = updated["batch_stats"]
    for norm, name in (
        (new["estimator"]["norm"], "train_bn"),
        (new["calibrator"]["block"]["norm_0"], "train_calib_bn"),
    ):
        for part in ("mean", "var"):
            wanted = arrays[f"{name}_{part}"]
            np.testing.assert_allclose(norm[part], wanted, rtol=1e-5, atol=1e-7)


@pytest.fixture
def tensors(golden):
    """Zeros with the official names and shapes."""
    shapes = json.loads((golden / "sci_keys.json").read_text())
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


def test_official_keys_and_their_aliases(golden, tensors):
    aliases = json.loads((golden / "sci_aliases.json").read_text())
    assert len(tensors) == 83
    assert len(aliases) == 49
    assert convert.infer_spec(tensors) == llie_jax.default_spec("sci")
    for value, (key, first) in enumerate(aliases.items()):
        tensors[first] += value
        tensors[key] = tensors[first]
    for key, first in aliases.items():
        tensors[key] = tensors[first]
    _, variables = convert.from_torch(tensors)
    block = variables["params"]["calibrator"]["block"]
    np.testing.assert_array_equal(
        block["conv_1"]["bias"], tensors["calibrate.convs.3.bias"]
    )
    tensors["calibrate.blocks.2.3.bias"] = tensors["calibrate.convs.3.bias"] + 1
    with pytest.raises(ValueError, match=r"blocks\.2\.3\.bias is not equal to its al"):
        convert.from_torch(tensors)


def test_a_checkpoint_without_its_width_is_refused(tensors):
    del tensors["enhance.in_conv.0.weight"]
    with pytest.raises(ValueError, match="SCI's width cannot be inferred"):
        convert.infer_spec(tensors, "sci")


def test_published_costs():
    found = costs.count("sci")
    assert (found.params, found.inference_params) == (5_877, 258)
    assert found.macs == 15_925_248  # three 3x3 convolutions of three channels


def flat_variables(model):
    """Returns zeros, but biases of 1 before each batch norm, and fresh statistics."""
    variables = jax.tree.map(lambda x: np.zeros(x.shape), variable_shapes(model))
    params = variables["params"]
    for part in (params["estimator"]["conv"], params["calibrator"]["embedding"]):
        part["bias"] += 1.0
    for i in range(2):
        params["calibrator"]["block"][f"conv_{i}"]["bias"] += 1.0
    return {
        "params": params,
        "batch_stats": jax.tree.map_with_path(
            lambda path, x: np.full(x.shape, float(path[-1].key == "var")),
            variables["batch_stats"],
        ),
    }


@pytest.mark.usefixtures("native_convolutions")
def test_by_hand():
    model = llie_jax.build({"name": "sci", "calibrator_width": 4})
    image = jnp.linspace(0, 1, 4 * 5 * 3).reshape(1, 4, 5, 3)
    variables = flat_variables(model)
    outputs, updated = train(model)(variables, image)
    # Without kernels the corrections are sigmoid(0), and the reflectance is that of y.
    illumination = np.minimum(image + 0.5, 1)
    np.testing.assert_allclose(outputs.aux["illumination"], illumination, atol=1e-6)
    np.testing.assert_allclose(outputs.image, image / illumination, atol=1e-6)
    second = image + image / illumination - 0.5
    np.testing.assert_allclose(outputs.aux["input_1"], second, atol=1e-6)
    np.testing.assert_allclose(
        outputs.aux["illumination_1"], np.clip(second + 0.5, 1e-4, 1), atol=1e-6
    )
    # Batches have mean 1 and variance 0, so the statistics count their updates.
    new = updated["batch_stats"]
    block = new["calibrator"]["block"]
    for norm, updates in (
        (new["estimator"]["norm"], 3),
        (new["calibrator"]["norm"], 3),
        (block["norm_0"], 9),
        (block["norm_1"], 9),
    ):
        np.testing.assert_allclose(norm["mean"], 1 - 0.9**updates, rtol=1e-5)
        np.testing.assert_allclose(norm["var"], 0.9**updates, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("native_convolutions")
def test_lfpv_updates_the_statistics_once():
    """LFPV decodes twice; only the encoder has stages."""
    backbone = {"name": "sci", "calibrator_width": 4}
    model = llie_jax.build({"name": "lfpv", "backbone": backbone, "num_nodes": 3})
    image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    alone = llie_jax.build(backbone)
    variables = initial_variables(model, jax.random.key(1), (8, 8))
    own = {name: variables[name]["backbone"] for name in ("params", "batch_stats")}
    outputs, updated = train(model)(variables, image)
    _, wanted = train(alone)(own, image)
    chex.assert_trees_all_close(
        updated["batch_stats"]["backbone"], wanted["batch_stats"], rtol=1e-5
    )
    assert {"backbone_illumination_2", "illumination"} <= set(outputs.aux)


@pytest.mark.usefixtures("native_convolutions")
def test_devices_share_their_statistics():
    model = llie_jax.build({"name": "sci", "calibrator_width": 4})
    images = jax.random.uniform(jax.random.key(0), (4, 6, 5, 3))
    variables = initial_variables(model, jax.random.key(1), (6, 5))
    whole, stats = train(model)(variables, images)
    mapped = jax.vmap(train(model.with_axis("devices")), (None, 0), axis_name="devices")
    parts, found = mapped(variables, images.reshape(2, 2, 6, 5, 3))
    np.testing.assert_allclose(
        parts.image.reshape(whole.image.shape), whole.image, atol=1e-5
    )
    for each in range(2):
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=each: x[i], found), stats, atol=1e-5
        )


def test_initialisation():
    model = llie_jax.build("sci")
    variables = initial_variables(model, jax.random.key(0), (4, 4))
    calibrator = variables["params"]["calibrator"]
    assert 0.018 < np.std(calibrator["block"]["conv_0"]["kernel"]) < 0.022
    np.testing.assert_array_equal(calibrator["block"]["conv_0"]["bias"], 0)
    scale = calibrator["norm"]["scale"]
    assert 0.9 < scale.min() < 1 < scale.max() < 1.1
    for path, value in jax.tree.leaves_with_path(variables["batch_stats"]):
        np.testing.assert_array_equal(value, float(path[-1].key == "var"))


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model = llie_jax.build({"name": "sci", "calibrator_width": 4})
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    images = jnp.broadcast_to(shades, (3, 6, 6, 3))
    variables = initial_variables(model, jax.random.key(0), (6, 6))

    def loss(params, image):
        outputs, _ = model.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        aux = outputs.aux
        later = [(aux[f"input_{i}"], aux[f"illumination_{i}"]) for i in (1, 2)]
        return total_loss(image, aux["illumination"], later) + outputs.image.sum()

    gradient = jax.jit(jax.grad(loss))
    for image in images:
        chex.assert_tree_all_finite(gradient(variables["params"], image[None]))


@pytest.mark.parametrize("field", ["width", "calibrator_width", "num_stages"])
def test_impossible_fields(field):
    model = llie_jax.build({"name": "sci", field: 0})
    with pytest.raises(ValueError, match=f"{field}=0; use at least 1"):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


def test_published_files_are_described():
    records = card("sci").weights
    assert set(records) == {"easy", "medium", "difficult"}
    assert {record.licence for record in records.values()} == {"MIT"}
    assert len({record.sha256 for record in records.values()}) == 3
