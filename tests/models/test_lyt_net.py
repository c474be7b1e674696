"""LYT-Net against the official code, and what is specific to it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs, losses
from llie_jax.cli.experiment import load_config
from llie_jax.models import base, lyt_net
from llie_jax.models.base import variable_shapes
from tests.official import WEIGHTS, nhwc, random_tensors, read_golden

SMALL = {"name": "lyt_net", "width": 8, "num_heads": 2, "reduction": 4}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", params=WEIGHTS)
def official(request):
    """Returns golden arrays, the model and its variables."""
    tensors, arrays = read_golden(request, "lyt_net", "lyt_lol_v1")
    return arrays, *convert.from_torch(tensors)


def small(seed=0):
    """Returns a small model and random variables."""
    model = llie_jax.build(SMALL)
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        variable_shapes(model),
    )


def test_image_golden(official):
    arrays, model, variables = official
    found = jax.jit(model.apply)(variables, nhwc(arrays["input"])).image
    np.testing.assert_allclose(found, nhwc(arrays["output"]), rtol=0, atol=5e-6)


def test_official_names_are_those_of_the_model(golden):
    tensors = random_tensors(golden / "lyt_net_keys.json", seed=0)
    assert len(tensors) == 70
    assert convert.infer_spec(tensors) == llie_jax.default_spec("lyt_net")


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("smooth_l1", losses.smooth_l1),
        ("hist", losses.soft_histogram),
        ("psnr", functools.partial(losses.psnr, best=40.0)),
        ("color", losses.brightness),
    ],
)
def test_loss_golden(official, name, loss):
    arrays, *_ = official
    found = loss(nhwc(arrays["output"]), nhwc(arrays["target"]))
    np.testing.assert_allclose(found, [arrays[f"loss:{name}"]], rtol=1e-5)


def test_published_costs():
    found = costs.count("lyt_net")
    assert found.params == found.inference_params == 44_923
    assert found.macs == 1_819_934_848


def test_tokens_are_neighbouring_pixels_of_one_channel():
    """Written out pixel by pixel, in the order of the authors' buffers."""
    rng = np.random.default_rng(0)
    height, width, channels = 2, 3, 4
    x = rng.standard_normal((1, height, width, channels)).astype(np.float32)
    module = lyt_net.Attention(num_heads=1)
    variables = module.init(jax.random.key(0), jnp.asarray(x))

    buffer = [x[0, i, j, c] for c in range(4) for i in range(2) for j in range(3)]
    tokens = np.array(buffer).reshape(6, channels)
    params = jax.tree.map(np.asarray, variables["params"])

    def linear(name, tokens):
        return tokens @ params[name]["kernel"] + params[name]["bias"]

    query, key, value = (linear(name, tokens) for name in ("query", "key", "value"))
    weights = np.exp(query @ key.T / np.sqrt(channels))
    weights /= weights.sum(-1, keepdims=True)
    expected = linear("project", weights @ value)
    found = module.apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(found.reshape(6, channels), expected, atol=1e-5)


def test_colours_of_primaries():
    """Grey has no colour; the luminance of white is 1."""
    image = jnp.asarray([[[0.0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1], [0, 0, 1]]])[None]
    expected = [[0, 0.5, 0.5], [0.5, 0.5, 0.5], [1, 0.5, 0.5], [0.114, 0.936, 0.39999]]
    np.testing.assert_allclose(lyt_net.rgb_to_yuv(image)[0, 0], expected, atol=1e-5)


@pytest.mark.usefixtures("native_convolutions")
def test_without_parameters_everything_is_grey():
    model, variables = small()
    zeros = jax.tree.map(jnp.zeros_like, variables)
    image = jax.random.uniform(jax.random.key(0), (1, 8, 16, 3))
    np.testing.assert_array_equal(jax.jit(model.apply)(zeros, image).image, 0.5)


def test_initialisation():
    """He and Xavier uniform with biases of 0, but PyTorch's for the embeddings."""
    model = llie_jax.build("lyt_net")
    params = base.initial_variables(model, jax.random.key(0), (8, 8))["params"]
    for kernel, bound in (
        (params["recombine"]["kernel"], np.sqrt(6 / (9 * 64))),
        (params["denoise_u"]["down_1"]["kernel"], np.sqrt(6 / (9 * 16))),
        (params["fusion"]["depthwise"]["kernel"], np.sqrt(6 / 9)),
        (params["fusion"]["squeeze"]["kernel"], np.sqrt(6 / 32)),
        (params["attention"]["query"]["kernel"], np.sqrt(6 / 64)),
        (params["embed_y"]["kernel"], 1 / 3),
    ):
        assert 0.9 * bound < np.abs(kernel).max() <= bound
    for part in (params["recombine"], params["fusion"]["depthwise"], params["guide"]):
        np.testing.assert_array_equal(part["bias"], 0)
    assert np.all(params["embed_y"]["bias"] != 0)


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model, variables = small()
    flat = jnp.stack([jnp.full((8, 8, 3), level) for level in (0.0, 0.5, 1.0)])

    @jax.jit
    def gradient(variables, image):
        def loss(variables, image):
            return jnp.sum(model.apply(variables, image).image ** 2)

        return jax.grad(loss, argnums=(0, 1))(variables, image)

    chex.assert_tree_all_finite(gradient(variables, flat))


def test_lfpv_needs_no_larger_multiple():
    model = llie_jax.build({"name": "lfpv", "backbone": SMALL})
    assert model.multiple == 8
    image = jax.ShapeDtypeStruct((1, 16, 8, 3), jnp.float32)
    variables = variable_shapes(model)
    assert jax.eval_shape(model.apply, variables, image).image.shape == (1, 16, 8, 3)


def test_the_recipe_is_the_authors():
    config = load_config("lyt_net")
    assert config.data.train.name == "lol_v1"
    assert not config.data.augment.flip_horizontal
    assert not config.data.augment.flip_vertical
    assert not config.data.augment.rotate
    stage = config.stages.s0
    assert (stage.patch_size, stage.batch_size) == (256, 1)
    assert stage.steps == 1500 * 485
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 2e-4)
    assert config.schedule.to_dict() == {
        "name": "cosine",
        "warmup_steps": 0,
        "hold_steps": 485,
        "final_rate": 0.0,
    }
    weights = {term.name: term.weight for term in config.loss.terms.values()}
    assert weights == {
        "smooth_l1": 1.0,
        "vgg19": 0.0,  # 0.06 with the weights of VGG19
        "soft_histogram": 0.05,
        "ms_ssim": 0.5,
        "psnr": 0.0083,
        "brightness": 0.25,
    }
    assert config.loss.terms.pixel.beta == 1.0
    perceptual = config.loss.terms.perceptual
    assert tuple(perceptual.layers) == ("relu3_3",)
    assert (perceptual.distance, perceptual.normalize) == ("mse", False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 7}, "width=7 .*must be even"),
        ({"width": 0}, "width=0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"num_heads": 3}, "16 channels do not divide into num_heads=3"),
        ({"reduction": 5}, "reduction=5 does not divide 32 channels"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(lyt_net.LYTNet(**fields))


def test_a_checkpoint_without_its_width_is_refused():
    tensors = {"recombine.weight": np.zeros((8, 16, 3, 3))}
    with pytest.raises(ValueError, match=r"no 'msef\.se_attn\.fc1\.weight'"):
        convert.infer_spec(tensors, "lyt_net")
    spec = convert.infer_spec(tensors, SMALL)
    assert (spec["width"], spec["reduction"]) == (8, 4)


def test_published_weights_are_recorded():
    weights = base.card("lyt_net").weights
    assert len({record.sha256 for record in weights.values()}) == len(weights) == 4
