"""CPGA-Net+, BDSF and CPGA-Net++ against the official code, and what is particular."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import convert, costs
from llie_jax.cli.experiment import load_config
from llie_jax.image.resize import area_downsample, resize_bilinear
from llie_jax.models import base, cpga
from llie_jax.training.experiment import Experiment
from tests.official import WEIGHTS, nhwc, read_golden

SMALL = {"width": 2, "gamma_width": 4, "fusion_width": 2, "num_blocks": 1}
FORMS = [
    {"name": "cpga_plus", **SMALL},
    {"name": "cpga_plus", "efficient": True, **SMALL},
    {"name": "cpga_plusplus", **SMALL},
]
NAMES = ["cpga_plus", "cpga_plusplus"]


def official(golden, name):
    """Returns zeros in the shapes of an official state dict."""
    shapes = json.loads((golden / f"{name}_keys.json").read_text())
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def initialised(spec):
    model = llie_jax.build(spec)
    return model, base.initial_variables(model, jax.random.key(0), (4, 6))


def photo(*shape):
    return jax.random.uniform(jax.random.key(1), shape)


@pytest.fixture(params=WEIGHTS)
def weights(request):
    """Reads golden tensors and arrays by the name of the network."""
    return lambda name: read_golden(request, name, name)


@pytest.mark.parametrize("name", NAMES)
def test_golden(weights, name):
    tensors, arrays = weights(name)
    model, variables = convert.from_torch(tensors)
    assert llie_jax.registry.part_of(type(model)).name == name

    @jax.jit
    def run(variables, image):
        bound = model.bind(variables)
        features, context = bound.encode(image)
        found = {
            "output": bound.decode(features, context).image,
            "gamma": context["gamma"],
            "power": context["values"][0],
            "cp_out": context["values"][1],
            "intersection": bound.fusion.output(features),
        }
        if name == "cpga_plus":
            bdsf = model.with_options({"efficient": 1.0})
            found["output_bdsf"] = bdsf.apply(variables, image).image
        return found

    # Powers of random features near 0 amplify rounding.
    atol = 1e-5 if "seed" in arrays else 2e-6
    for size in ("", "_odd") if "input_odd" in arrays else ("",):
        with jax.default_matmul_precision("highest"):
            found = run(variables, nhwc(arrays[f"input{size}"]))
        compared = [key for key in found if key + size in arrays]
        assert len(compared) >= 4
        for key in compared:
            expected = nhwc(arrays[key + size])
            np.testing.assert_allclose(found[key], expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("spec", "params", "macs"),
    [
        ("cpga_plus", 60_378, 2.505),
        ({"name": "cpga_plus", "efficient": True}, 20_042, 0.576),
        ("cpga_plusplus", 62_304, 3.614),
    ],
)
def test_published_costs(spec, params, macs):
    found = costs.count(spec)
    assert found.params == found.inference_params == params
    assert round(found.macs / 1e9, 3) == macs


def test_the_gamma_estimator_is_a_quarter_of_the_network():
    params = base.variable_shapes(llie_jax.build("cpga_plus"))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params["gamma"])) == 15_239


@pytest.mark.parametrize(("name", "count"), [*zip(NAMES, (193, 344), strict=True)])
def test_official_keys(golden, name, count):
    tensors = official(golden, name)
    assert len(tensors) == count
    assert convert.infer_spec(tensors) == llie_jax.default_spec(name)
    _, variables = convert.from_torch(tensors)
    assert len(jax.tree.leaves(variables)) == count - 6  # a counter per batch norm
    with pytest.raises(ValueError, match=r"Unknown keys: ga_est\.extra"):
        convert.from_torch({**tensors, "ga_est.extra": np.zeros(1)})
    del tensors["cpblks.1.prep_module.0.bias"]
    with pytest.raises(ValueError, match=r"Missing keys: cpblks\.1\.prep_module"):
        convert.from_torch(tensors)


def test_bdsf_reads_the_same_file(golden):
    tensors = official(golden, "cpga_plus")
    model, variables = convert.from_torch(tensors, {"efficient": True})
    assert model == llie_jax.build({"name": "cpga_plus", "efficient": True})
    assert set(variables["params"]) == {"gamma", "fusion"}


def test_other_sizes_are_inferred(golden):
    shapes = {
        "cpblks_pre.a_module.conv1_A.weight": (4, 3, 1, 1),
        "ga_est.conv1_g.weight": (6, 3, 3, 3),
        "iaaf.conv1_post_g.weight": (5, 6, 1, 1),
        "cpblks.2.prep_module.0.bias": (4,),
    }
    expected = {"width": 4, "gamma_width": 6, "fusion_width": 5, "num_blocks": 3}
    assert cpga.infer_spec(shapes, {}) == expected
    with pytest.raises(ValueError, match=r"no 'iaaf\.conv1.*'fusion_width' cannot"):
        cpga.infer_spec(dict(list(shapes.items())[:2]), {})


@pytest.mark.usefixtures("native_convolutions")
def test_a_full_network_runs_as_bdsf():
    image = photo(1, 4, 6, 3)
    model, variables = initialised(FORMS[0])
    option = model.with_options({"efficient": 1.0})
    found = jax.jit(option.apply)(variables, image).image
    alone = llie_jax.build(FORMS[1])
    params = {k: variables["params"][k] for k in ("gamma", "fusion")}
    variables = {**variables, "params": params}
    expected = jax.jit(alone.apply)(variables, image).image
    np.testing.assert_array_equal(found, expected)


def test_powers_of_zero():
    base_, exponent = jnp.asarray([0.0, 0.25, -1.0]), jnp.float32(0.5)
    np.testing.assert_array_equal(cpga.power(base_, exponent), [0, 0.5, 0])
    slopes = jax.jacobian(cpga.power, argnums=(0, 1))(base_, exponent)
    np.testing.assert_allclose(slopes[0], np.diag([0, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(slopes[1], [0, 0.5 * np.log(0.25), 0], rtol=1e-6)


def test_means_of_cells_are_the_authors_bilinear_resizing():
    x = photo(1, 6, 4, 2)
    np.testing.assert_allclose(
        area_downsample(x, 2), resize_bilinear(x, (3, 2)), atol=1e-6
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(FORMS[0], id="plus", marks=pytest.mark.slow),
        pytest.param(FORMS[1], id="bdsf"),
        pytest.param(FORMS[2], id="plusplus", marks=pytest.mark.slow),
    ],
)
def trained(request):
    """Returns the variables of a form, and a training pass with gradients."""
    model, variables = initialised(request.param)

    @jax.jit
    def gradient(params, image):
        def loss(params, image):
            outputs, updated = model.apply(
                {**variables, "params": params},
                image,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.sum((outputs.image - 0.3) ** 2), updated

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, image)

    return variables, gradient


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images(trained):
    variables, gradient = trained
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 4, 6, 3))
    chex.assert_tree_all_finite(gradient(variables["params"], image))
    black = jnp.zeros_like(image)
    chex.assert_tree_all_finite(gradient(variables["params"], black))


@pytest.mark.usefixtures("native_convolutions")
def test_training_reaches_everything(trained):
    """Where no value is clipped and no attention is off."""
    variables, gradient = trained
    rng = np.random.default_rng(0)
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    for key, leaf in params.items():
        value = 0.5 * np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape)
        if "squeeze" in key:
            value = np.abs(value)
        if key.endswith(("output/bias", "project/bias")) or "masking_rate" in key:
            value = np.full_like(value, 0.5)
        params[key] = jnp.asarray(value, jnp.float32)
    (grads, _), updated = gradient(
        traverse_util.unflatten_dict(params, sep="/"), photo(3, 4, 6, 3)
    )
    grads = traverse_util.flatten_dict(grads, sep="/")
    assert {key for key, value in grads.items() if not np.any(value)} == set()
    before = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    after = traverse_util.flatten_dict(updated["batch_stats"], sep="/")
    assert len(before) == 12
    for key, value in before.items():
        assert np.any(after[key] != value), key


@pytest.mark.usefixtures("native_convolutions")
def test_devices_share_statistics():
    image = photo(2, 4, 6, 3)
    model, variables = initialised(FORMS[1])

    def run(model, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])

    whole, updated = jax.jit(lambda x: run(model, x))(image)
    mapped = jax.vmap(lambda x: run(model.with_axis("d"), x), axis_name="d")
    parts, parts_updated = jax.jit(mapped)(image[:, None])
    np.testing.assert_allclose(parts.image[:, 0], whole.image, atol=1e-5)
    for one in range(2):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, one=one: leaf[one], parts_updated),
            updated,
            atol=1e-5,
        )


@pytest.mark.slow
def test_initialisation():
    _, variables = initialised("cpga_plusplus")
    params = variables["params"]
    np.testing.assert_array_equal(params["masking_rates"], [0.5, 0.5])
    np.testing.assert_array_equal(params["masking_rate"], [0.5])
    for key, leaf in traverse_util.flatten_dict(params, sep="/").items():
        if key.endswith("/bias"):
            np.testing.assert_array_equal(leaf, 0)
        if key.endswith("/kernel"):
            *_, inputs, outputs = leaf.shape
            bound = np.sqrt(6 / (leaf[..., 0, 0].size * (inputs + outputs)))
            assert np.abs(leaf).max() <= bound
            if leaf.size > 200:
                assert np.abs(leaf).max() > 0.95 * bound
        if key.endswith(("deep/scale", "up/scale", "down/scale")):
            np.testing.assert_array_equal(leaf, np.float32(1e-6))


def test_lfpv_wraps_the_features_before_the_last_convolution():
    for spec in FORMS:
        model = llie_jax.build({"name": "lfpv", "backbone": spec, "num_nodes": 3})
        assert model.multiple == 4
        shapes = base.variable_shapes(model)
        assert shapes["lfpv"]["c_v"].shape == (3, SMALL["fusion_width"])


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(name):
    model = llie_jax.build(name)
    for shape in ((1, 5, 4, 3), (1, 4, 5, 3)):
        with pytest.raises(ValueError, match=r"multiples of 2\..*pad_to_multiple"):
            model.init(jax.random.key(0), jnp.zeros(shape))
    for field, least in (("width", 1), ("fusion_width", 1), ("num_blocks", 0)):
        bad = model.clone(**{field: least - 1})
        with pytest.raises(ValueError, match=f"{field}={least - 1}; use at least"):
            bad.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))


def test_recipe():
    config = load_config("cpga")
    assert config.model.to_dict() == llie_jax.default_spec("cpga_plus")
    stage = config.stages.s0
    assert stage.steps == 200 * (485 // 16)
    assert (stage.patch_size, stage.batch_size) == (256, 16)
    assert config.data.augment.rotate
    terms = config.loss.terms.to_dict().values()
    weights = {(term["name"], term["weight"]) for term in terms}
    assert weights == {
        ("l1", 1.0),
        ("tonemapped_l1", 1.0),
        ("ssim", 0.1),
        ("vgg16_normalized", 0.0),
    }
    optimizer = config.optimizer
    assert optimizer.name == "adam"
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (optimizer.learning_rate, optimizer.l2, optimizer.clip_norm) == (
        1e-3,
        1e-4,
        0.1,
    )


def test_the_rate_restarts_every_67_epochs():
    rate = jax.jit(Experiment.from_config(load_config("cpga")).schedule)
    epochs = np.arange(200)
    expected = 5e-4 * (1 + np.cos(np.pi * (epochs % 67) / 67))
    found = np.array([rate(30 * epoch + 29) for epoch in epochs])
    # Our last period is one epoch shorter than the others.
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(found[:134], expected[:134], atol=1e-8)
