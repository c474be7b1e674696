"""Retinexformer against the official code, and what is specific to it."""

import fnmatch
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

import llie_jax
from llie_jax import convert, costs
from llie_jax.models import base, retinexformer
from llie_jax.models.base import variable_shapes
from llie_jax.nn import layers, norms
from llie_jax.types import Dtype
from tests.official import nhwc

SMALL = {"name": "retinexformer", "width": 4, "num_blocks": [1, 1]}


def assert_near(found, expected, tolerance=1e-5):
    """Checks the largest difference against tolerance * (1 + largest reference)."""
    assert found.shape == expected.shape
    difference = np.abs(np.asarray(found, np.float64) - expected).max()
    assert difference <= tolerance * (1 + np.abs(expected).max())


def read(path):
    """Returns a golden file's model and variables, and its other arrays."""
    with np.load(path) as file:
        arrays = dict(file)
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    return *convert.from_torch(tensors), arrays


@pytest.fixture(scope="module")
def one_stage(golden):
    return read(golden / "retinexformer_s1_small.npz")


@pytest.fixture(scope="module")
def two_stages(golden):
    return read(golden / "retinexformer_s2_small.npz")


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("stages", ["one_stage", "two_stages"])
def test_network_golden(request, stages):
    model, variables, arrays = request.getfixturevalue(stages)
    config = json.loads(str(arrays["config_json"]))
    assert model.width == config["n_feat"]
    assert model.num_stages == config["stage"]
    assert list(model.num_blocks) == config["num_blocks"]

    image, expected = nhwc(arrays["input"]), nhwc(arrays["output"])
    batch = jnp.concatenate([image, image[:, ::-1]])
    output = jax.jit(model.apply)(variables, batch).image
    assert np.abs(output[:1] - expected).max() <= 2e-5
    alone = jax.jit(model.apply)(variables, batch[1:]).image
    np.testing.assert_allclose(output[1:], alone, atol=1e-6)


@pytest.mark.parametrize("stages", ["one_stage", "two_stages"])
def test_estimator_golden(request, stages):
    model, variables, arrays = request.getfixturevalue(stages)
    last = model.num_stages - 1
    module = retinexformer.IlluminationEstimator(model.width)
    params = variables["params"][f"stage_{last}"]["estimator"]
    name = f"mid:body.{last}.estimator"
    features, factor = jax.jit(module.apply)(
        {"params": params}, nhwc(arrays[f"{name}|in0"])
    )
    assert_near(features, nhwc(arrays[f"{name}|out0"]))
    assert_near(factor, nhwc(arrays[f"{name}|out1"]))


def as_it_is(array):
    return jnp.asarray(array)


@pytest.mark.parametrize(
    ("name", "place", "module", "layout"),
    [
        (
            "encoder_layers.1.0.blocks.0.0",
            "encoder_1/block_0/attention",
            retinexformer.IlluminationGuidedAttention(num_heads=2),
            as_it_is,
        ),
        (
            "decoder_layers.0.0",
            "up_0",
            layers.ConvTranspose(16),
            nhwc,
        ),
        (
            "decoder_layers.1.2",
            "decoder_1",
            layers.Repeat(functools.partial(retinexformer.Block, 1), 1),
            nhwc,
        ),
    ],
)
def test_module_golden(one_stage, name, place, module, layout):
    _, variables, arrays = one_stage
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    start = f"stage_0/denoiser/{place}/"
    params = {k.removeprefix(start): v for k, v in params.items() if start in k}
    name = f"mid:body.0.denoiser.{name}"
    inputs = [
        layout(arrays[f"{name}|in{i}"]) for i in (0, 1) if f"{name}|in{i}" in arrays
    ]
    output = jax.jit(module.apply)(
        {"params": traverse_util.unflatten_dict(params, sep="/")}, *inputs
    )
    assert_near(output, layout(arrays[f"{name}|out0"]))


def test_feed_forward_golden(one_stage):
    _, variables, arrays = one_stage
    params = variables["params"]["stage_0"]["denoiser"]["bottleneck"]["block_0"]
    name = "mid:body.0.denoiser.bottleneck.blocks.0.1"
    norm = norms.LayerNorm(epsilon=1e-5)
    y = norm.apply({"params": params["norm"]}, as_it_is(arrays[f"{name}|in0"]))
    y = retinexformer.FeedForward().apply({"params": params["feed_forward"]}, y)
    assert_near(y, as_it_is(arrays[f"{name}|out0"]))


def test_denoiser_golden(one_stage):
    model, variables, arrays = one_stage
    module = retinexformer.Denoiser(model.width, model.num_blocks)
    image, illumination, expected = (
        nhwc(arrays[f"mid:body.0.denoiser|{key}"]) for key in ("in0", "in1", "out0")
    )

    @jax.jit
    def run(params, image, illumination):
        apply = module.bind({"params": params})
        return apply.decode(*apply.encode(image, illumination)) + image

    params = variables["params"]["stage_0"]["denoiser"]
    assert_near(run(params, image, illumination), expected)


def test_official_keys_are_those_of_the_full_model(golden):
    shapes = json.loads((golden / "retinexformer_keys.json").read_text())
    tensors = {
        key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()
    }
    spec = convert.infer_spec(tensors)
    assert spec == llie_jax.default_spec("retinexformer")
    variables = variable_shapes(llie_jax.build(spec))
    torch_keys = base.card("retinexformer").torch.patterns
    filled = convert.convert_tensors(tensors, variables, torch_keys)
    assert len(jax.tree.leaves(filled)) == len(shapes) == 122
    with pytest.raises(ValueError, match=r"Unknown keys: body\.0\.denoiser\.extra"):
        convert.convert_tensors(
            {**tensors, "body.0.denoiser.extra": np.zeros(1)}, variables, torch_keys
        )


def test_a_checkpoint_without_its_width_is_refused():
    with pytest.raises(ValueError, match=r"no 'denoiser\.embedding'"):
        convert.infer_spec(
            {"body.0.denoiser.mapping.weight": np.zeros((3, 8, 3, 3))}, "retinexformer"
        )


def test_published_costs():
    found = costs.count("retinexformer")
    assert found == costs.Costs(
        size=(256, 256),
        params=1_605_701,
        inference_params=1_605_701,
        macs=16_656_629_760,
        macs_fvcore=16_715_612_160,
    )


def test_parameters_by_part():
    params = variable_shapes(llie_jax.build("retinexformer"))["params"]["stage_0"]

    def count(prefix, tree):
        parts = [v for k, v in tree.items() if k.startswith(prefix)]
        return sum(leaf.size for leaf in jax.tree.leaves(parts))

    denoiser = params["denoiser"]
    assert count("estimator", params) == 10_363
    assert count("embedding", denoiser) == count("mapping", denoiser) == 1_080
    assert sum(count(k, denoiser) for k in ("encoder", "down", "illum")) == 696_205
    assert count("bottleneck", denoiser) == 632_648
    assert sum(count(k, denoiser) for k in ("up", "fuse", "decoder")) == 264_325


def test_layers_for_redundancy_studies():
    params = variable_shapes(llie_jax.build("retinexformer"))["params"]
    modules = {
        "/".join(path[:end])
        for path in traverse_util.flatten_dict(params)
        for end in range(len(path))
    }
    card = base.card("retinexformer")
    for patterns in (card.attention_layers, card.feed_forward_layers):
        found = [m for m in modules if any(fnmatch.fnmatch(m, p) for p in patterns)]
        assert len(found) == 8


def test_initialisation():
    """Linear layers: normal with deviation 0.02; convolutions: uniform by fan-in."""
    module = retinexformer.Block(num_heads=2)
    x = jnp.zeros((1, 4, 4, 64))
    params = module.init(jax.random.key(0), x, x)["params"]
    for name in ("query", "key", "value", "project"):
        kernel = params["attention"][name]["kernel"]
        assert 0.019 < np.std(kernel) < 0.021
        assert np.abs(kernel).max() > 0.05  # not truncated at two deviations
    assert set(params["attention"]["query"]) == {"kernel"}
    np.testing.assert_array_equal(params["attention"]["project"]["bias"], 0)
    np.testing.assert_array_equal(params["attention"]["scale"], 1)
    expand = np.abs(params["feed_forward"]["expand"]["kernel"])
    assert 0.99 / 8 < expand.max() <= 1 / 8


class Recolour(nn.Module):
    """A part for the slot: one factor per channel of query, key and value."""

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        factor = self.param("factor", nn.initializers.ones, x.shape[-1:])
        return x * factor


def test_the_slot_is_in_every_attention_of_the_decoder():
    model = llie_jax.build("retinexformer").clone(reallocate=Recolour)
    params = traverse_util.flatten_dict(variable_shapes(model)["params"], sep="/")
    slots = {k: v.shape for k, v in params.items() if "/reallocate/" in k}
    assert slots == {
        f"stage_0/denoiser/decoder_{i}/block_{j}/attention/reallocate/factor": (3 * c,)
        for i, j, c in ((0, 0, 80), (0, 1, 80), (1, 0, 40))
    }


def test_the_slot_rewrites_what_the_attention_reads():
    x, illumination = (
        jax.random.normal(jax.random.key(i), (1, 4, 4, 8)) for i in (0, 1)
    )
    plain = retinexformer.IlluminationGuidedAttention(num_heads=2)
    module = plain.clone(reallocate=Recolour)
    variables = module.init(jax.random.key(2), x, illumination)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    factor = jnp.linspace(0.5, 2.0, 24)
    params["reallocate"]["factor"] = factor

    query, key, value = jnp.split(factor, 3)
    expected = {k: v for k, v in params.items() if k != "reallocate"}
    for name, part in (("query", query), ("key", key), ("value", value)):
        expected[name] = {"kernel": params[name]["kernel"] * part}
    # The positional branch reads the rewritten value too.
    np.testing.assert_allclose(
        module.apply({"params": params}, x, illumination),
        plain.apply({"params": expected}, x, illumination),
        atol=1e-5,
    )


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model = llie_jax.build(SMALL)
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 4, 4, 3))
    gradient = jax.jit(
        jax.grad(lambda v, x: jnp.sum(model.apply(v, x).image ** 2), argnums=(0, 1))
    )
    for value in (0.0, 0.1):  # with zero parameters, all features are zero
        variables = jax.tree.map(
            lambda leaf, value=value: jnp.full(leaf.shape, value),
            variable_shapes(model),
        )
        chex.assert_tree_all_finite(gradient(variables, image))


@pytest.mark.slow  # the contract suite has a shorter form
@pytest.mark.usefixtures("native_convolutions")
def test_bfloat16_gives_a_float32_image(two_stages):
    model, variables, arrays = two_stages
    low = model.clone(dtype=jnp.bfloat16)
    output = jax.jit(low.apply)(variables, nhwc(arrays["input"])).image
    assert output.dtype == jnp.float32
    expected = nhwc(arrays["output"])
    # bfloat16 keeps 8 bits; a few rounding errors add up.
    assert np.abs(output - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 6}, "four groups"),
        ({"num_stages": 0}, "at least 1"),
        ({"num_blocks": (1, 0, 1)}, "at least one block per level"),
        ({"num_blocks": ()}, "at least one block per level"),
    ],
)
def test_impossible_fields(fields, message):
    model = retinexformer.Retinexformer(**fields)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
