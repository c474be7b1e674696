"""DarkIR against the official code, and what is specific to it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import convert
from llie_jax.convert import convert_tensors, names
from llie_jax.convert import tensors as layouts
from llie_jax.inference import padding
from llie_jax.models import darkir
from llie_jax.models.base import variable_shapes
from tests.official import nhwc

TINY = {
    "name": "darkir",
    "width": 8,
    "encoder_blocks": (1, 1, 1),
    "middle_encoder_blocks": 1,
    "middle_decoder_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}
SMALL = {**TINY, "width": 4, "encoder_blocks": (1,), "decoder_blocks": (1,)}


def error(found, expected):
    """Returns the largest difference over the largest reference value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def read(path):
    with np.load(path) as file:
        return dict(file)


def params_of(arrays, module, x, keys):
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    return convert_tensors(tensors, shapes, keys)


def gradient_errors(arrays, grads, keys):
    """Returns the errors of all gradients in the golden file, by official name."""
    errors = {}
    for path, value in traverse_util.flatten_dict(grads, sep="/").items():
        key = names.torch_key(path, keys)
        if f"grad:{key}" in arrays:
            leaf = path.rpartition("/")[2]
            expected = layouts.to_flax(arrays[f"grad:{key}"], leaf, value.shape)
            errors[key] = error(value, expected)
    assert len(errors) == sum(k.startswith("grad:") for k in arrays)
    return errors


def check_module(arrays, module, keys):
    """Checks the output and gradients of a module against a golden file."""
    x, cotangent = nhwc(arrays["input"]), nhwc(arrays["cot"])
    variables = params_of(arrays, module, x, keys)

    @jax.jit
    def run(variables, x):
        output, pull = jax.vjp(lambda v, x: module.apply(v, x), variables, x)
        return output, pull(cotangent)

    output, (grads, grad_input) = run(variables, x)
    assert error(output, nhwc(arrays["output"])) < 1e-5
    assert error(grad_input, nhwc(arrays["grad_input"])) < 5e-5
    for key, value in gradient_errors(arrays, grads["params"], keys).items():
        assert value < 5e-5, key
    return variables


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def test_frequency_mlp_golden(golden):
    arrays = read(golden / "darkir_fremlp.npz")
    keys = {"process1.0": "expand", "process1.2": "contract"}
    module = darkir.FrequencyMLP()
    variables = check_module(arrays, module, keys)
    for i in (1, 2, 3):  # odd widths and heights
        output = module.apply(variables, nhwc(arrays[f"input_{i}"]))
        assert error(output, nhwc(arrays[f"output_{i}"])) < 1e-5


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("darkir_eblock", darkir.EncoderBlock()),
        ("darkir_eblock_plain", darkir.EncoderBlock(extra_depthwise=False)),
        ("darkir_dblock", darkir.DecoderBlock()),
        (
            "darkir_dblock_plain",
            darkir.DecoderBlock(dilations=(1,), extra_depthwise=False),
        ),
    ],
)
def test_block_golden(golden, file, module):
    encodes = isinstance(module, darkir.EncoderBlock)
    keys = darkir.TORCH_ENCODER_KEYS if encodes else darkir.TORCH_DECODER_KEYS
    check_module(read(golden / f"{file}.npz"), module, keys)


@pytest.fixture(scope="module")
def tiny(golden):
    """Returns the golden file's model, its variables and the file."""
    arrays = read(golden / "darkir_tiny.npz")
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    model, variables = convert.from_torch(tensors)
    return model, variables, arrays


def test_network_golden(tiny):
    model, variables, arrays = tiny
    image, target = nhwc(arrays["input"]), nhwc(arrays["target"])

    def loss(variables, image):
        bound = model.bind(variables)
        encoded = bound.encode(image)
        outputs = bound.decode(*encoded)
        value = jnp.mean((outputs.image - target) ** 2)
        value += 0.1 * jnp.mean(outputs.aux["guide"] ** 2)
        return value, (encoded, outputs)

    (value, (encoded, outputs)), (grads, grad_input) = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    )(variables, image)
    features, context = encoded
    assert error(features, nhwc(arrays["inter:middle_enc"])) < 1e-5
    for i, skip in enumerate(context["skips"]):
        assert error(skip, nhwc(arrays[f"inter:encoder{i}"])) < 1e-5
    assert error(outputs.image, nhwc(arrays["output"])) < 1e-5
    assert error(outputs.aux["guide"], nhwc(arrays["side"])) < 1e-5
    assert abs(value - arrays["loss"]) < 1e-5 * arrays["loss"]
    assert error(grad_input, nhwc(arrays["grad_input"])) < 1e-4
    found = gradient_errors(arrays, grads["params"], darkir.TORCH_KEYS)
    for key, value in found.items():
        assert value < 1e-4, key


def test_network_golden_at_odd_size_and_batch_two(tiny):
    model, variables, arrays = tiny
    image = nhwc(arrays["input_1"])
    padded, size = padding.pad_to_multiple(image, model.multiple, model.pad_mode)
    outputs = jax.jit(model.apply)(variables, padded)
    output = padding.crop(outputs.image, size)
    assert error(output, nhwc(arrays["output_1"])) < 1e-5
    assert error(outputs.aux["guide"], nhwc(arrays["side_1"])) < 1e-5


@pytest.mark.parametrize(
    ("width", "parameters", "inference"),
    [(32, 3_321_638, 3_314_723), (64, 12_957_254, 12_943_427)],
)
def test_published_parameter_counts(width, parameters, inference):
    model = llie_jax.build({"name": "darkir", "width": width})
    params = variable_shapes(model)["params"]
    head = sum(leaf.size for leaf in jax.tree.leaves(params["guide_head"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert parameters - head == inference


def test_a_fresh_network_changes_features_only_at_its_ends():
    """With beta = gamma = 0, every block is the identity."""
    block = darkir.DecoderBlock()
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    variables = block.init(jax.random.key(1), x)
    np.testing.assert_array_equal(block.apply(variables, x), x)


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model = llie_jax.build(SMALL)
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    image = jnp.broadcast_to(shades, (3, 8, 8, 3))
    variables = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, 0.1), variable_shapes(model)
    )

    @jax.jit
    def gradient(variables, image):
        return jax.grad(
            lambda v, x: jnp.sum(model.apply(v, x).image ** 2), argnums=(0, 1)
        )(variables, image)

    chex.assert_tree_all_finite(gradient(variables, image))


def test_frequency_mlp_is_finite_where_amplitudes_vanish():
    module = darkir.FrequencyMLP()
    x = jnp.zeros((1, 6, 5, 2))
    variables = module.init(jax.random.key(0), x)
    gradient = jax.jit(
        jax.grad(lambda v, x: jnp.sum(module.apply(v, x)), argnums=(0, 1))
    )
    for value in (0.0, 1e-30, 1e-12):
        chex.assert_tree_all_finite(gradient(variables, x.at[0, 2, 3].set(value)))


@pytest.mark.usefixtures("native_convolutions")
def test_bfloat16_keeps_float32_islands(tiny):
    model, variables, arrays = tiny
    low = model.clone(dtype=jnp.bfloat16)
    image = nhwc(arrays["input"])
    traced = jax.jit(low.apply).trace(variables, image)
    outputs = traced.lower().compile()(variables, image)
    assert outputs.image.dtype == outputs.aux["guide"].dtype == jnp.float32
    # bfloat16 keeps 8 bits; a few rounding errors add up.
    assert error(outputs.image, nhwc(arrays["output"])) < 0.05
    text = str(traced.jaxpr)
    assert "bf16" in text
    assert "c64" in text  # the Fourier transform stays in complex64


@pytest.mark.parametrize(
    "fields",
    [{"frequency_gate": False}, {"dilations": (1,)}, {"extra_depthwise": False}],
)
def test_ablations_remove_parameters_and_run(fields):
    full = variable_shapes(llie_jax.build(TINY))
    model = llie_jax.build({**TINY, **fields})
    shapes = variable_shapes(model)
    assert set(traverse_util.flatten_dict(shapes)) < set(
        traverse_util.flatten_dict(full)
    )
    outputs = jax.eval_shape(
        model.apply, shapes, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    )
    assert outputs.image.shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_blocks": (1, 1)}, "one number per level"),
        ({"dilations": ()}, "at least one dilation"),
        ({"width": 0}, "at least 1"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(llie_jax.build({**TINY, **fields}))
