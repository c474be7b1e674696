"""MIRNet against the official code, and what is specific to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs
from llie_jax.cli.experiment import load_config
from llie_jax.convert import names
from llie_jax.losses import WeightedLoss
from llie_jax.models import mirnet
from llie_jax.models.base import variable_shapes
from llie_jax.types import Outputs
from tests.official import nhwc

TINY = {"name": "mirnet", **mirnet.CARD.tiny}


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "mirnet_small.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tensors(arrays):
    return {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def test_network_golden(arrays, tensors):
    model, variables = convert.from_torch(tensors)
    fields = "config:n_feat", "config:n_RRG", "config:n_MSRB"
    found = model.width, model.num_groups, model.num_blocks
    assert found == tuple(int(arrays[key]) for key in fields)
    output = jax.jit(model.apply)(variables, nhwc(arrays["input"])).image
    np.testing.assert_allclose(output, nhwc(arrays["output"]), rtol=0, atol=5e-6)


def test_loss_golden(arrays):
    output, target = nhwc(arrays["output"]), nhwc(arrays["target"])
    loss = WeightedLoss(load_config("mirnet").loss.terms.to_dict())
    found, _ = loss(Outputs(output), {"image": target, "target": target}, {}, 0)
    np.testing.assert_allclose(found, arrays["loss:charbonnier_mean"], rtol=1e-5)


def test_official_keys_are_those_of_the_full_model(golden):
    shapes = json.loads((golden / "mirnet_keys.json").read_text())
    zeros = {
        key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()
    }
    assert convert.infer_spec(zeros) == llie_jax.default_spec("mirnet")
    _, variables = convert.from_torch(zeros)
    aliases = json.loads((golden / "mirnet_aliases.json").read_text())
    blurs = [key for key in shapes if key.endswith(".filt")]
    assert sum(zeros[key].size for key in blurs) == 41_472
    assert sum(value.size for value in zeros.values()) == 42_280_770
    assert len(shapes) == 797
    assert len(jax.tree.leaves(variables)) + len(aliases) + len(blurs) == 797


def test_aliases_name_the_same_parameter(golden):
    aliases = json.loads((golden / "mirnet_aliases.json").read_text())
    assert len(aliases) == 143
    for alias, key in aliases.items():
        same = {
            path
            for path in names.variable_paths(alias, mirnet.TORCH_KEYS)
            if names.torch_key(path, mirnet.TORCH_KEYS) == key
        }
        assert same, alias


@pytest.mark.parametrize(
    "alias",
    [
        "body.0.body.1.blocks.2.1.SA.spatial.conv.weight",  # the second column
        "body.0.body.1.blocks.2.1.body.1.weight",  # the PReLU of all units
    ],
)
def test_aliases_must_be_equal(tensors, alias):
    changed = {**tensors, alias: tensors[alias] + 1}
    with pytest.raises(ValueError, match=f"{alias} is not equal to its alias"):
        convert.from_torch(changed)


def test_a_checkpoint_without_its_width_is_refused():
    key = "body.0.body.0.conv_out.weight"
    with pytest.raises(ValueError, match=r"no 'conv_in', .* as 'width'"):
        convert.infer_spec({key: np.zeros((8, 8, 3, 3))}, "mirnet")


def test_published_costs():
    """479.9 G are the convolutions; fvcore would add means and resizes."""
    found = costs.count("mirnet")
    assert found.params == found.inference_params == 31_787_419
    assert found.macs == 479_945_527_296
    assert found.macs_fvcore == 481_210_109_952


def test_parameters_by_part():
    params = variable_shapes(llie_jax.build("mirnet"))["params"]

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(params["activation"]) == 1
    assert count(params["group_0"]["body_1"]) == 5_278_895
    assert count(params["group_2"]["body_2"]) == 36_864
    assert count(params["input"]) == count(params["output"]) == 1_728


def test_fusion_weighs_its_inputs_by_a_softmax():
    module = mirnet.SelectiveFusion()
    inputs = [jnp.full((1, 2, 2, 8), value) for value in (1.0, 2.0, 6.0)]
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    np.testing.assert_allclose(module.apply(variables, *inputs), 3.0, rtol=1e-6)


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model = llie_jax.build(TINY)
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 4, 4, 3))
    terms = WeightedLoss(load_config("mirnet").loss.terms.to_dict())

    @jax.jit
    @jax.grad
    def gradient(variables):
        batch = {"image": image, "target": image[::-1]}
        return terms(model.apply(variables, image), batch, {}, 0)[0]

    shapes = variable_shapes(model)
    for value in (0.0, 0.1):
        variables = jax.tree.map(lambda leaf, v=value: jnp.full(leaf.shape, v), shapes)
        chex.assert_tree_all_finite(gradient(variables))


def test_lfpv_sits_before_the_last_convolution():
    model = llie_jax.build({"name": "lfpv", "backbone": TINY})
    assert (model.feature_stride, model.multiple) == (1, 4)
    outputs = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, rngs={"lfpv": jax.random.key(0)}),
        variable_shapes(model),
        jax.ShapeDtypeStruct((1, 8, 12, 3), jnp.float32),
    )
    assert outputs.aux["backbone_image"].shape == outputs.image.shape == (1, 8, 12, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 4}, "a multiple of 8"),
        ({"width": 20}, "a multiple of 8"),
        ({"num_groups": 0}, "at least 1"),
        ({"num_blocks": 0}, "at least 1"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(mirnet.MIRNet(**fields))


def test_the_authors_recipe():
    config = load_config("mirnet")
    assert (config.stages.s0.patch_size, config.stages.s0.batch_size) == (128, 16)
    augment = config.data.augment
    assert augment.flip_horizontal
    assert augment.flip_vertical
    assert augment.rotate
    assert augment.mixup == 1.2
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adam", 2e-4)
    assert (optimizer.b1, optimizer.b2, optimizer.l2) == (0.9, 0.999, 1e-8)
    epoch = 485 // 16
    schedule = config.schedule
    assert (schedule.name, schedule.final_rate) == ("cosine", 1e-6)
    assert (schedule.warmup_steps, schedule.hold_steps) == (3 * epoch, epoch)
    pixel = config.loss.terms.pixel
    assert (pixel.name, pixel.eps, pixel.clip) == ("charbonnier", 1e-3**2, True)
    assert llie_jax.build(config.model.to_dict()) == llie_jax.build("mirnet")
