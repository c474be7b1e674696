"""IAT against the official code, and what is particular to it."""

import fnmatch

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import convert, costs
from llie_jax.cli.experiment import load_config
from llie_jax.convert import names
from llie_jax.inference.enhancer import Enhancer
from llie_jax.models import base, iat
from llie_jax.models.base import variable_shapes
from tests.official import WEIGHTS, nhwc, random_tensors, read_golden

TINY = {"name": "iat", **base.card("iat").tiny}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", params=WEIGHTS)
def official(request):
    """The model and its variables with official weights, and the arrays."""
    tensors, arrays = read_golden(request, "iat", "iat_lol_v1")
    return *convert.from_torch(tensors), arrays


@pytest.fixture
def tensors(golden):
    return random_tensors(golden / "iat_keys.json", seed=0)


@pytest.fixture(scope="module")
def tiny():
    """A tiny model, and random variables with variances above zero."""
    model = llie_jax.build(TINY)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype),
        variable_shapes(model),
    )
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: 0.5 + jnp.abs(leaf), variables["batch_stats"]
    )
    return model, variables


def images(batch=2, height=12, width=16):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.random((batch, height, width, 3)), jnp.float32)


def test_network_golden(official):
    model, variables, arrays = official
    for suffix in ("", "_odd") if "input_odd" in arrays else ("",):
        outputs = jax.jit(model.apply)(variables, nhwc(arrays[f"input{suffix}"]))
        found = {"output": outputs.image, **outputs.aux}
        for name in ("output", "mul", "add"):
            expected = nhwc(arrays[f"{name}{suffix}"])
            assert np.abs(found[name] - expected).max() <= 5e-6, name


def test_conversion_names_what_does_not_match(tensors):
    assert convert.infer_spec(tensors) == llie_jax.default_spec("iat")
    assert len(tensors) == 161
    without = {k: v for k, v in tensors.items() if "mul_end" not in k}
    with pytest.raises(ValueError, match=r"Missing keys: .*local_net\.mul_end\.0"):
        convert.from_torch(without)
    with pytest.raises(ValueError, match=r"Unknown keys: local_net\.extra"):
        convert.from_torch({**tensors, "local_net.extra": np.zeros(1)})


def test_every_variable_has_an_official_key_of_its_own():
    shapes = variable_shapes(llie_jax.build("iat"))
    paths = [
        path
        for tree in shapes.values()
        for path in traverse_util.flatten_dict(tree, sep="/")
    ]
    keys = {names.torch_key(path, iat.TORCH_KEYS) for path in paths}
    assert None not in keys
    assert len(keys) == len(paths) == 161 - 2  # without the counters of batch norms
    assert "local_net.add_blocks.2.norm1.color" in keys
    assert "global_net.conv_large.proj.4.running_var" in keys


def test_inferred_fields():
    shapes = {
        "local_net.conv1.weight": np.zeros((8, 3, 3, 3)),
        "global_net.conv_large.proj.3.weight": np.zeros((32, 16, 3, 3)),
        "local_net.mul_blocks.1.gamma_1": np.zeros((1, 8, 1, 1)),
    }
    spec = convert.infer_spec(shapes, "iat")
    assert (spec["width"], spec["global_width"]) == (8, 32)
    assert tuple(spec["drop_rates"]) == (0.0, 0.0)
    del shapes["local_net.conv1.weight"]
    with pytest.raises(ValueError, match=r"local_net\.conv1\.weight.* width cannot"):
        convert.infer_spec(shapes, "iat")


def test_published_costs():
    found = costs.count("iat")
    assert found.params == found.inference_params == 91_154
    assert round(found.macs / 1e9, 3) == 1.639


@pytest.mark.slow
@pytest.mark.usefixtures("native_convolutions")
def test_the_start_is_the_local_network_alone():
    """The attention's values start at zero: gamma is 1 and the colours stay."""
    model, image = llie_jax.build(TINY), images()
    variables = base.initial_variables(model, jax.random.key(0), (8, 8))
    outputs = jax.jit(model.apply)(variables, image)
    expected = image * outputs.aux["mul"] + outputs.aux["add"]
    np.testing.assert_allclose(
        outputs.image, jnp.clip(expected, 1e-8, 1.0), rtol=1e-6, atol=1e-7
    )


def test_the_composition_by_hand(tiny):
    model, _ = tiny
    image = images()
    rng = np.random.default_rng(2)
    features = jnp.asarray(rng.standard_normal((2, 12, 16, 8)), jnp.float32)
    colour = np.zeros((2, 3, 3), np.float32)
    colour[0] = [[0, 1, 0], [0, 0, 1], [2, 0, 0]]  # rows are the outputs
    colour[1] = np.eye(3)
    context = {"image": image, "gamma": jnp.asarray([0.5, 2.0]), "colour": colour}
    variables = base.initial_variables(model, jax.random.key(0), (8, 8))
    outputs = model.apply(variables, features, context, method="decode")
    mixed = np.asarray(image * outputs.aux["mul"] + outputs.aux["add"])
    first = np.stack([mixed[0, ..., 1], mixed[0, ..., 2], 2 * mixed[0, ..., 0]], -1)
    expected = [np.clip(first, 1e-8, 1) ** 0.5, np.clip(mixed[1], 1e-8, 1) ** 2]
    np.testing.assert_allclose(outputs.image, np.stack(expected), atol=1e-6)


@pytest.mark.usefixtures("native_convolutions")
def test_initialisation():
    block = iat.Block()
    image = jnp.zeros((1, 4, 4, 64))
    params = jax.jit(block.init)(jax.random.key(0), image)["params"]
    deviations = {
        "position": np.sqrt(2 / 9),
        "mixing": np.sqrt(2 / 25),
        "mixing_in": np.sqrt(2 / 64),
        "expand": np.sqrt(2 / 256),
        "contract": np.sqrt(2 / 64),
    }
    for name, expected in deviations.items():
        assert np.std(params[name]["kernel"]) == pytest.approx(expected, rel=0.1)
        np.testing.assert_array_equal(params[name]["bias"], 0)
    np.testing.assert_array_equal(params["mixing_norm"]["kernel"], np.eye(64))
    np.testing.assert_allclose(params["feed_forward_scale"], 1e-4)

    net = iat.GlobalNet(width=64, num_heads=4)
    params = jax.jit(net.init)(jax.random.key(0), image[..., :3])["params"]
    np.testing.assert_array_equal(params["attention"]["query"], np.ones((10, 64)))
    np.testing.assert_array_equal(params["attention"]["value"]["kernel"], 0)
    assert 0.019 < np.std(params["expand"]["kernel"]) < 0.021


def test_stochastic_depth_drops_whole_samples():
    module = iat.StochasticDepth(0.25)
    x = jnp.ones((4000, 1, 2, 3))
    y = module.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    per_sample = np.asarray(y).reshape(4000, -1)
    assert np.all(per_sample == per_sample[:, :1])
    np.testing.assert_allclose(np.unique(per_sample), [0, 1 / 0.75], rtol=1e-6)
    assert np.mean(per_sample) == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(module.apply({}, x, train=False), x)


def test_both_branches_have_the_papers_rates():
    blocks = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, iat.StochasticDepth):
            blocks.append(context.module.rate)
        return call(*args, **kwargs)

    with iat.nn.intercept_methods(record):
        variable_shapes(llie_jax.build("iat"))
    assert blocks == 2 * [0.01, 0.01, 0.05, 0.05, 0.1, 0.1]


@pytest.mark.usefixtures("native_convolutions")
def test_devices_share_the_statistics_of_a_batch(tiny):
    model, variables = tiny
    image = images(batch=4)

    def train(model, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])

    mapped = model.with_axis("devices")
    whole, statistics = jax.jit(lambda image: train(model, image))(image)
    apart = jax.jit(jax.vmap(lambda part: train(mapped, part), axis_name="devices"))
    outputs, split = apart(image.reshape(2, 2, *image.shape[1:]))
    np.testing.assert_allclose(
        outputs.image.reshape(image.shape), whole.image, atol=1e-5
    )
    for i in (0, 1):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], split), statistics, atol=1e-5
        )
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()),
        statistics["batch_stats"],
        variables["batch_stats"],
    )
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.usefixtures("native_convolutions")
def test_every_parameter_matters_where_there_are_several_tokens(tiny):
    """The contract suite's image has only one, so the card excuses many of them."""
    model, variables = tiny
    image = images()

    def loss(params):
        outputs, _ = model.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.square(outputs.image))

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    sizes = {
        name: float(np.abs(value).max())
        for name, value in traverse_util.flatten_dict(gradient, sep="/").items()
    }
    still = {name for name, size in sizes.items() if size < 1e-5 * max(sizes.values())}
    assert still == set(fnmatch.filter(sizes, "global_net/down_?/bias"))


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images(tiny):
    model, variables = tiny
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 8, 8, 3))

    @jax.jit
    def gradient(params, image):
        def loss(params, image):
            outputs, _ = model.apply(
                {**variables, "params": params},
                image,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.sum(jnp.abs(outputs.image - 0.3))

        return jax.grad(loss, argnums=(0, 1))(params, image)

    zeros = jax.tree.map(jnp.zeros_like, variables["params"])
    for params in (variables["params"], zeros):
        chex.assert_tree_all_finite(gradient(params, image))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width=0; use at least 1"),
        ({"global_width": 6, "num_heads": 4}, "global_width=6 and num_heads=4"),
        ({"global_width": 9, "num_heads": 3}, "an even width"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"drop_rates": (0.0, 1.0)}, "from 0 to below 1"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        iat.IAT(**fields).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.slow
@pytest.mark.usefixtures("native_convolutions")
def test_lfpv_on_iat_never_pads():
    """Padding changes gamma and the colours, and LFPV's patches need multiples of 4."""
    model = llie_jax.build({"name": "lfpv", "backbone": TINY, "num_nodes": 3})
    assert model.multiple == 4
    variables = base.initial_variables(model, jax.random.key(0), (8, 8))
    enhance = Enhancer(model, variables)
    assert enhance(images(1, 8, 12)[0]).shape == (8, 12, 3)
    with pytest.raises(ValueError, match="multiples of 4 and does not allow padding"):
        enhance(images(1, 7, 12)[0])


def test_the_recipe():
    config = load_config("iat")
    crops, whole = config.stages.s0, config.stages.s1
    assert (crops.patch_size, crops.patch_width, crops.batch_size) == (256, 0, 8)
    assert (whole.patch_size, whole.patch_width, whole.batch_size) == (400, 600, 8)
    assert (crops.steps, whole.steps) == (200 * 4850 // 8, 400 * 485 // 8)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.l2) == (
        "adam",
        2e-4,
        4e-4,
    )
    assert (optimizer.b1, optimizer.b2) == (0.9, 0.999)
    assert config.schedule.name == "cosine"
    assert {k: (v.name, v.weight) for k, v in config.loss.terms.items()} == {
        "pixel": ("l1", 1.0)
    }
    augment = config.data.augment
    assert (augment.flip_horizontal, augment.flip_vertical, augment.rotate) == (
        True,
        True,
        False,
    )
