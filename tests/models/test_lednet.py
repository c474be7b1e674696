"""LEDNet against the official code, and what is specific to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs
from llie_jax.cli.experiment import load_config
from llie_jax.image.resize import resize_bicubic
from llie_jax.losses import WeightedLoss
from llie_jax.models import lednet
from llie_jax.models.base import variable_shapes
from llie_jax.types import Outputs
from tests.official import nhwc

TINY = {"name": "lednet", **lednet.CARD.tiny}


def to_unit(array):
    """Returns a golden image, which is in [-1, 1], in [0, 1]."""
    return (nhwc(array) + 1) / 2


@pytest.fixture(scope="module", params=["lednet_small", "lednet_small_conn"])
def network(request, golden):
    """Returns a golden file's model, variables and arrays."""
    with np.load(golden / f"{request.param}.npz") as file:
        arrays = dict(file)
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    spec = {"name": "lednet", "skips": bool(arrays["config:connection"])}
    return *convert.from_torch(tensors, spec), arrays


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def test_network_golden(network):
    model, variables, arrays = network
    assert list(model.widths) == arrays["config:channels"].tolist()
    outputs = jax.jit(model.apply)(variables, to_unit(arrays["input"]))
    for found, key in ((outputs.image, "output"), (outputs.aux["side"], "side")):
        np.testing.assert_allclose(2 * found - 1, nhwc(arrays[key]), rtol=0, atol=1e-5)


def test_losses_golden(network):
    *_, arrays = network
    target = nhwc(arrays["target"])
    small = nhwc(arrays["side_target"])
    found = resize_bicubic(target, small.shape[1:3])
    np.testing.assert_allclose(found, small, rtol=0, atol=1e-6)

    image, side = to_unit(arrays["output"]), to_unit(arrays["side"])
    target = to_unit(arrays["target"])
    loss = WeightedLoss(load_config("lednet").loss.terms.to_dict())
    batch = {"image": jnp.zeros_like(target), "target": target}
    total, terms = loss(Outputs(image, {"side": side}), batch, {}, 0)
    assert set(terms) == {"pixel", "side"}  # the perceptual ones are off
    np.testing.assert_allclose(terms["pixel"], arrays["loss:l1"], rtol=1e-5)
    np.testing.assert_allclose(terms["side"], arrays["loss:side_l1"], rtol=1e-5)
    np.testing.assert_allclose(total, terms["pixel"] + terms["side"], rtol=1e-6)


def test_official_keys_are_those_of_the_full_model(golden):
    shapes = json.loads((golden / "lednet_keys.json").read_text())
    tensors = {
        key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()
    }
    spec = convert.infer_spec(tensors)
    assert spec == llie_jax.default_spec("lednet")
    _, variables = convert.from_torch(tensors)
    blurs = [key for key in shapes if key.endswith(".filt")]
    assert len(jax.tree.leaves(variables)) + len(blurs) == len(shapes) == 201
    assert sum(tensors[key].size for key in blurs) == 4_032
    with pytest.raises(ValueError, match=r"Unknown keys: E_block1\.body1\.0\.weight"):
        convert.from_torch({**tensors, "E_block1.body1.0.weight": np.zeros(1)})


def test_a_checkpoint_without_its_widths_is_refused():
    with pytest.raises(ValueError, match=r"no E_block1\.0\.bias, .* as 'widths'"):
        convert.infer_spec({"side_out.bias": np.zeros(3)}, "lednet")


def test_published_costs():
    """34.39 G are the convolutions; fvcore would add means and resizes."""
    found = costs.count("lednet")
    assert (found.params, found.inference_params) == (7_408_893, 7_408_893 - 3_459)
    assert found.macs == 34_394_408_960
    assert found.macs_fvcore == 34_435_303_424


def test_parameters_by_part():
    params = variable_shapes(llie_jax.build("lednet"))["params"]
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in params.items()
    }
    assert (
        count["input"] + count["input_prelu"] + count["encoder_1"]
        == 42_981 - (count["down_1"])
    )
    assert count["encoder_2"] + count["down_2"] == 168_132
    assert count["encoder_3"] + count["down_3"] == 639_364
    assert [count[f"pyramid_{i}"] for i in (1, 2, 3)] == [77_829, 311_301, 311_301]
    assert [count[f"curve_{i}"] for i in (1, 2, 3)] == [139_587, 557_699, 557_699]
    assert [count[f"filter_{i}"] for i in (1, 2, 3)] == [214_784, 855_552, 855_552]
    assert count["middle_1"] == count["middle_2"] == 442_754
    assert count["decoder_3"] == 590_338
    assert count["decoder_2"] + count["up_2"] == 786_948
    assert count["decoder_1"] + count["up_1"] == 327_940
    assert count["decoder_0"] + count["up_0"] + count["output"] == 82_919


def test_the_filter_is_a_kernel_for_each_pixel_and_channel():
    """With the bias alone, every pixel has the same kernel: a depthwise filter."""
    module = lednet.DynamicFilter()
    x = jax.random.normal(jax.random.key(0), (1, 6, 7, 2))
    shapes = jax.eval_shape(module.init, jax.random.key(1), x, x)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    taps = np.random.default_rng(2).normal(size=(2, 5, 5)).astype(np.float32)
    variables["params"]["bias"] = taps.reshape(-1)

    padded = np.pad(x[0], ((2, 2), (2, 2), (0, 0)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (0, 1))
    expected = np.einsum("hwcij,cij->hwc", windows, taps)
    expected = np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(module.apply(variables, x, x)[0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def tiny():
    """Returns a tiny model and random variables."""
    model = llie_jax.build(TINY)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32),
        variable_shapes(model),
    )


@pytest.mark.usefixtures("native_convolutions")
def test_value_range(tiny):
    model, variables = tiny
    image = jax.random.uniform(jax.random.key(0), (1, 8, 16, 3))
    found = jax.jit(model.apply)(variables, image)
    unit = model.clone(value_range=(0.0, 1.0))
    expected = jax.jit(unit.apply)(variables, 2 * image - 1)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: 2 * x - 1, found), expected, atol=1e-5
    )


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images(tiny):
    model, variables = tiny
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 8, 8, 3))
    terms = WeightedLoss(load_config("lednet").loss.terms.to_dict())

    @jax.jit
    @jax.grad
    def gradient(variables):
        batch = {"image": image, "target": image[::-1]}
        return terms(model.apply(variables, image), batch, {}, 0)[0]

    zeros = jax.tree.map(jnp.zeros_like, variables)
    for each in (variables, zeros):
        chex.assert_tree_all_finite(gradient(each))


def test_lfpv_sits_at_the_bottleneck():
    model = llie_jax.build({"name": "lfpv", "backbone": TINY})
    assert (model.feature_stride, model.multiple) == (8, 32)
    outputs = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, rngs={"lfpv": jax.random.key(0)}),
        variable_shapes(model),
        jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32),
    )
    shapes = {name: value.shape for name, value in outputs.aux.items()}
    assert shapes == {
        "side": (1, 4, 8, 3),
        "backbone_side": (1, 4, 8, 3),
        "backbone_image": (1, 32, 64, 3),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (4, 8, 8)}, "four numbers"),
        ({"widths": (4, 8, 6, 8)}, "multiples of 4"),
        ({"widths": (0, 8, 8, 8)}, "four numbers from 1"),
        ({"value_range": (1.0, 0.0)}, "the lowest value, then"),
        ({"value_range": (0.0,)}, "the lowest value, then"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(lednet.LEDNet(**fields))


def test_the_authors_recipe():
    config = load_config("lednet")
    stage = config.stages.s0
    assert (stage.steps, stage.patch_size, stage.batch_size) == (500_000, 256, 16)
    augment = config.data.augment
    assert augment.flip_horizontal
    assert augment.flip_vertical
    assert augment.rotate
    assert augment.mixup == 0
    optimizer = config.optimizer
    assert optimizer.name == "adam"
    assert (optimizer.b1, optimizer.b2, optimizer.l2) == (0.9, 0.99, 0)
    rates = optimizer.learning_rate, config.schedule.final_rate
    assert (config.schedule.name, *rates) == ("cosine", 1e-4, 1e-7)
    assert (config.schedule.warmup_steps, config.schedule.hold_steps) == (0, 1)
    assert config.ema.decay == 0
    assert llie_jax.build(config.model.to_dict()) == llie_jax.build("lednet")

    terms = config.loss.terms
    assert terms.pixel.weight == 2  # the L1 of images in [-1, 1]
    assert terms.side.weight == 0.8 * 2
    assert terms.side.resize == terms.side_perceptual.resize == "target_bicubic"
    for term in (terms.perceptual, terms.side_perceptual):
        assert term.layers == ("conv1_2", "conv2_2", "conv3_4", "conv4_4")
        assert term.factors == (1, 1, 1, 1)
        assert (term.normalize, term.signed, term.distance) == (True, False, "l1")
        assert term.weight == 0
    lfpv = load_config("lednet:lfpv=true").loss.terms
    assert lfpv.backbone_side.on == "aux.backbone_side"
