"""Restormer against the official code, and what is specific to it."""

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
from llie_jax.models import restormer
from llie_jax.models.base import variable_shapes
from tests.official import nhwc

SMALL = {"name": "restormer", **restormer.SIZES["small"], "width": 4}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def read(path):
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module", params=["restormer_small", "restormer_biasfree_small"])
def official(request, golden):
    """Returns a golden file's model, its variables and the file."""
    arrays = read(golden / f"{request.param}.npz")
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    model, variables = convert.from_torch(tensors)
    return model, variables, arrays


def test_fields_are_found(official):
    model, _, arrays = official
    config = json.loads(str(arrays["config_json"]))
    assert model.width == config["dim"]
    assert model.num_blocks == tuple(config["num_blocks"])
    assert model.num_refinement_blocks == config["num_refinement_blocks"]
    assert model.num_heads == tuple(config["heads"])
    bias_free = config.get("LayerNorm_type") == "BiasFree"
    assert (model.norm is restormer.BiasFreeNorm) == bias_free
    assert model.use_bias == config.get("bias", False)


def test_image_golden(official):
    model, variables, arrays = official
    image = nhwc(arrays["input"])
    output = jax.jit(model.apply)(variables, image).image
    np.testing.assert_allclose(output, nhwc(arrays["output"]), atol=2e-5)


PLACES = {
    "encoder_level1.0.norm1": "encoder_0/block_0/norm1",
    "encoder_level1.0.attn": "encoder_0/block_0/attention",
    "encoder_level1.0.ffn": "encoder_0/block_0/feed_forward",
    "down1_2": "downs_0",
    "decoder_level2.0.attn": "decoder_1/block_0/attention",
    "decoder_level2.0": "decoder_1/block_0",
    "up2_1": "ups_2",
}


def test_modules_golden(official):
    model, variables, arrays = official

    @jax.jit
    def run(variables, image):
        return model.apply(
            variables, image, capture_intermediates=True, mutable=["intermediates"]
        )

    _, inside = run(variables, nhwc(arrays["input"]))
    inside = traverse_util.flatten_dict(inside["intermediates"], sep="/")
    paths = [key[4:].partition("|")[0] for key in arrays if key.startswith("mid:")]
    assert paths
    for path in paths:
        found = inside[f"{PLACES[path]}/__call__"][0]
        expected = nhwc(arrays[f"mid:{path}|out0"])
        tolerance = 1e-5 * (1 + np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(
    ("fields", "params", "macs", "macs_fvcore"),
    [({}, 26_126_644, 154_882_031_616, 154_882_031_616)],
)
def test_published_costs(fields, params, macs, macs_fvcore):
    found = costs.count({"name": "restormer", **fields})
    assert (found.params, found.inference_params) == (params, params)
    assert (found.macs, found.macs_fvcore) == (macs, macs_fvcore)
    assert f"{found.macs_fvcore / 2**30:.2f}" == "144.25"


def test_parts_have_the_published_sizes():
    params = variable_shapes(llie_jax.build("restormer"))["params"]
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in params.items()
    }
    assert sizes == {
        "embedding": 1_296,
        "encoder_0": 125_116,
        "downs_0": 10_368,
        "encoder_1": 707_232,
        "downs_1": 41_472,
        "encoder_2": 2_738_112,
        "downs_2": 165_888,
        "latent": 14_370_448,
        "ups_0": 2_654_208,
        "fuse_0": 73_728,
        "decoder_0": 2_738_112,
        "ups_1": 663_552,
        "fuse_1": 18_432,
        "decoder_1": 707_232,
        "ups_2": 165_888,
        "decoder_2": 471_484,
        "refinement": 471_484,
        "output": 2_592,
    }


def test_official_names_fill_the_full_size(golden):
    shapes = json.loads((golden / "restormer_keys.json").read_text())
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    assert convert.infer_spec(tensors) == llie_jax.default_spec("restormer")
    model, variables = convert.from_torch(tensors)
    assert model == llie_jax.build("restormer")
    assert len(jax.tree.leaves(variables)) == len(shapes) == 494
    with pytest.raises(ValueError, match=r"Unknown keys: refinement\.2\.extra"):
        convert.from_torch({**tensors, "refinement.2.extra": np.zeros(1)})
    del tensors["refinement.2.ffn.project_in.weight"]
    with pytest.raises(ValueError, match=r"refinement\.2\.ffn\.project_in\.weight"):
        convert.from_torch(tensors)


def test_the_slot_is_in_the_decoder_only():
    """20 of the 44 attentions have it."""

    class Marked(restormer.attention.Identity):
        @nn.compact
        def __call__(self, x):
            self.param("mark", jax.nn.initializers.zeros, ())
            return x

    def marks(model):
        paths = traverse_util.flatten_dict(variable_shapes(model)["params"], sep="/")
        return [path for path in paths if path.endswith("reallocate/mark")]

    found = marks(restormer.Restormer(reallocate=Marked))
    assert len(found) == 20
    assert {path.partition("/")[0] for path in found} == {
        "decoder_0",
        "decoder_1",
        "decoder_2",
        "refinement",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_blocks": (1, 1, 1)}, "need four numbers each"),
        ({"num_refinement_blocks": 0}, "must be at least 1"),
        ({"num_heads": (1, 2, 4, 5)}, "32 channels of level 4 .* 5 heads"),
        ({"width": 5}, "use an even number"),
        ({"norm": "none"}, "Unknown norm 'none'.*bias_free, with_bias"),
        ({"expansion": 0.01}, "leaves no hidden channel"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(llie_jax.build({**SMALL, **fields}))


@pytest.mark.usefixtures("native_convolutions")
@pytest.mark.parametrize("norm", ["with_bias", "bias_free"])
def test_gradients_are_finite_on_flat_images(norm):
    model = llie_jax.build({**SMALL, "norm": norm})
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 8, 8, 3))
    gradient = jax.jit(
        jax.grad(lambda v, x: jnp.sum(model.apply(v, x).image ** 2), argnums=(0, 1))
    )
    rng = np.random.default_rng(0)
    for scale in (0.0, 0.2):  # with zero parameters, all features are zero
        variables = jax.tree.map(
            lambda leaf, scale=scale: jnp.asarray(
                scale * rng.normal(size=leaf.shape), leaf.dtype
            ),
            variable_shapes(model),
        )
        chex.assert_tree_all_finite(gradient(variables, image))


@pytest.mark.slow  # the contract suite has a shorter form
@pytest.mark.usefixtures("native_convolutions")
def test_bfloat16_comes_close():
    model = llie_jax.build(SMALL)
    image = jnp.asarray(np.random.default_rng(0).random((1, 16, 24, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    exact = jax.jit(model.apply)(variables, image).image
    rough = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, image).image
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.1)
