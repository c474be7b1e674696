"""CIDNet against the official code, and what is specific to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import convert, costs
from llie_jax.convert import convert_tensors
from llie_jax.losses import WeightedLoss
from llie_jax.models import cidnet
from llie_jax.models.base import variable_shapes
from tests.official import nhwc

SMALL = {"name": "cidnet", "widths": (4, 4, 8, 8), "num_heads": (1, 2, 2, 4)}


def read(path):
    with np.load(path) as file:
        return dict(file)


def tensors_of(arrays, prefix=""):
    start = f"param:{prefix}"
    return {k[len(start) :]: v for k, v in arrays.items() if k.startswith(start)}


def randomised(spec, scale=0.2):
    """Returns a model with random parameters and the default exponent."""
    model = llie_jax.build(spec)
    leaves, tree = jax.tree.flatten(variable_shapes(model))
    rng = np.random.default_rng(0)
    variables = jax.tree.unflatten(
        tree,
        [
            jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)
            for leaf in leaves
        ],
    )
    variables["params"]["density_k"] = jnp.array([0.2])
    return model, variables


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def small(golden):
    """Returns the golden file's model, jitted `apply` and variables, and the file."""
    arrays = read(golden / "cidnet_small.npz")
    model, variables = convert.from_torch(tensors_of(arrays))
    return model, jax.jit(model.apply), variables, arrays


def test_network_golden(small):
    model, apply, variables, arrays = small
    assert (model.widths, model.num_heads) == ((8, 8, 16, 32), (1, 2, 4, 8))
    outputs = apply(variables, nhwc(arrays["input"]))
    assert np.max(np.abs(outputs.image - nhwc(arrays["output"]))) <= 2e-5
    assert outputs.aux["density_k"] == arrays["param:trans.density_k"]


def test_network_golden_with_norms_and_saturation(golden):
    arrays = read(golden / "cidnet_gated_small.npz")
    model, variables = convert.from_torch(tensors_of(arrays), {"saturation": 1.3})
    assert model.norm
    image = nhwc(arrays["input"])
    output = jax.jit(model.apply)(variables, image).image
    assert np.max(np.abs(output - nhwc(arrays["output"]))) <= 2e-5
    down = cidnet.Downsample(8, norm=True)
    check_module(arrays, "HVE_block1", down, cidnet.TORCH_DOWN_KEYS)


def check_module(arrays, name, module, keys, part=""):
    """Checks a module against its inputs and output in a golden file."""
    inputs = [
        nhwc(arrays[key])
        for i in (0, 1)
        if (key := f"mid:{name}{part}|in{i}") in arrays
    ]
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    prefix = f"{part[1:]}." if part else ""
    keys = {
        key.removeprefix(prefix): value.rpartition("/")[2] if part else value
        for key, value in keys.items()
        if key.startswith(prefix)
    }
    variables = convert_tensors(tensors_of(arrays, f"{name}{part}."), shapes, keys)
    output = jax.jit(module.apply)(variables, *inputs)
    expected = nhwc(arrays[f"mid:{name}{part}|out0"])
    bound = 1e-5 * (1 + np.max(np.abs(expected)))
    assert np.max(np.abs(output - expected)) <= bound


@pytest.mark.parametrize(
    ("name", "module", "keys"),
    [
        ("HVE_block1", cidnet.Downsample(8), cidnet.TORCH_DOWN_KEYS),
        ("HVD_block3", cidnet.Upsample(16), cidnet.TORCH_UP_KEYS),
    ],
)
def test_resampler_golden(small, name, module, keys):
    check_module(small[-1], name, module, keys)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("I_LCA1", cidnet.LightenCrossAttention(2, residual=True)),
        ("HV_LCA1", cidnet.LightenCrossAttention(2, residual=False)),
        ("I_LCA5", cidnet.LightenCrossAttention(4, residual=True)),
        ("HV_LCA5", cidnet.LightenCrossAttention(4, residual=False)),
    ],
)
def test_block_golden(small, name, module):
    check_module(small[-1], name, module, cidnet.TORCH_LCA_KEYS)


@pytest.mark.parametrize(
    ("part", "module"),
    [
        (".ffn", cidnet.CrossAttention(2)),
        (".gdfn", cidnet.IntensityEnhancement()),
    ],
)
def test_part_of_a_block_golden(small, part, module):
    check_module(small[-1], "HV_LCA1", module, cidnet.TORCH_LCA_KEYS, part)


def test_first_convolution_golden(small):
    check_module(small[-1], "HVE_block0", cidnet.EdgeConv(8), {"1": "conv"})


@pytest.mark.usefixtures("native_convolutions")
def test_a_batch_of_two_equals_two_of_one(small):
    _, apply, variables, arrays = small
    image = nhwc(arrays["input"])
    image = jnp.concatenate([image, image[:, ::-1]])
    whole = apply(variables, image).image
    single = [apply(variables, image[i : i + 1]).image[0] for i in (0, 1)]
    np.testing.assert_allclose(whole, jnp.stack(single), atol=1e-5)


def test_every_official_key_is_used_once(golden):
    shapes = json.loads((golden / "cidnet_keys.json").read_text())
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    model, variables = convert.from_torch(tensors)
    assert model == llie_jax.build(llie_jax.default_spec("cidnet"))
    assert len(jax.tree.leaves(variables)) == len(shapes) == 191
    del tensors["HVE_block0.1.weight"]
    with pytest.raises(ValueError, match=r"HVE_block0\.1\.weight"):
        convert.from_torch(tensors)


def test_published_costs():
    found = costs.count("cidnet", (256, 256))
    assert found.params == 1_975_569
    assert found.params - found.inference_params == 70_960  # i_lca5
    assert found.macs == 7_878_279_168
    assert found.macs_fvcore == 7_912_488_960


def test_the_discarded_block_has_parameters_and_no_effect(small):
    _, apply, variables, arrays = small
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    unused = [key for key in flat if key.startswith("intensity/lca_5/")]
    assert len(unused) == 13
    image = nhwc(arrays["input"])
    whole = apply(variables, image).image
    changed = {key: v + 1 if key in unused else v for key, v in flat.items()}
    changed = {"params": traverse_util.unflatten_dict(changed, sep="/")}
    np.testing.assert_array_equal(apply(changed, image).image, whole)


@pytest.mark.usefixtures("native_convolutions")
def test_test_options_do_not_reach_training(small):
    model, apply, variables, arrays = small
    assert set(model.test_options) == {"saturation", "alpha", "gamma"}
    image = jnp.clip(nhwc(arrays["input"]), 0, 1)
    plain = apply(variables, jnp.concatenate([image, image**0.7])).image

    @jax.jit
    def both_ways(variables, image):
        bright = model.clone(gamma=0.7, alpha=0.8)
        vivid = bright.clone(saturation=1.3)
        training = vivid.apply(variables, image, train=True)
        return bright.apply(variables, image).image, training.image

    bright, training = both_ways(variables, image)
    np.testing.assert_allclose(bright[0], 0.8 * plain[1], atol=1e-5)
    np.testing.assert_allclose(training[0], plain[0], atol=1e-5)


FULL_LOSS = {
    f"{space}{name}": {"name": loss, "weight": weight, "space": space}
    for space in ("", "hvi")
    for name, loss, weight in (
        ("pixel", "l1", 1.0),
        ("ssim", "ssim", 0.5),
        ("edge", "edge", 50.0),
    )
}


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_of_a_block_are_finite_without_input():
    block = cidnet.LightenCrossAttention(2, residual=False)
    x = jnp.zeros((1, 2, 2, 4))
    variables = block.init(jax.random.key(0), x, x)

    @jax.jit
    def gradient(variables, x, y):
        return jax.grad(
            lambda *args: jnp.sum(jnp.sin(block.apply(*args))), argnums=(0, 1, 2)
        )(variables, x, y)

    chex.assert_tree_all_finite(gradient(variables, x, x))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_finite_on_flat_images(dtype):
    model, variables = randomised({**SMALL, "dtype": dtype})
    loss = WeightedLoss(FULL_LOSS)
    shades = [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 1, 1)]
    image = jnp.asarray(shades, jnp.float32)[:, None, None]
    image = jnp.broadcast_to(image, (5, 8, 8, 3))

    @jax.jit
    def gradient(variables, image, target):
        def objective(variables, image):
            outputs = model.apply(variables, image, train=True)
            return loss(outputs, {"image": image, "target": target}, {}, 0)[0]

        return jax.grad(objective, argnums=(0, 1))(variables, image)

    for target in (image, image[::-1]):
        chex.assert_tree_all_finite(gradient(variables, image, target))


@pytest.mark.usefixtures("native_convolutions")
def test_bfloat16_keeps_the_colour_space_in_float32(small):
    model, _, variables, arrays = small
    low = model.clone(dtype=jnp.bfloat16)
    image = nhwc(arrays["input"])
    outputs = jax.jit(low.apply)(variables, image)
    assert outputs.image.dtype == outputs.aux["density_k"].dtype == jnp.float32
    assert np.max(np.abs(outputs.image - nhwc(arrays["output"]))) < 0.05


def test_slots_are_in_the_decoder():
    spec = {**SMALL, "reallocate": {"name": "adr", "width": 2}}
    params = traverse_util.flatten_dict(variable_shapes(llie_jax.build(spec))["params"])
    found = {path[:-2] for path in params if "reallocate" in path}
    blocks = {
        f"{branch}/lca_{i}" for branch in ("intensity", "colour") for i in (4, 5, 6)
    }
    assert {"/".join(path[:2]) for path in found} == blocks
    assert {path[2:4] for path in found} == {("attention", "reallocate")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (4, 4, 8)}, "one number for each"),
        ({"num_heads": (1, 2, 3, 4)}, "must divide"),
        ({"widths": (0, 4, 8, 8)}, "at least 1"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(llie_jax.build({**SMALL, **fields}))
