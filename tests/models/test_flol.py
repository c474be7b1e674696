"""FLOL against the official code, and what is specific to it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs
from llie_jax.cli.experiment import load_config
from llie_jax.image.resize import resize_bilinear
from llie_jax.image.snr import box_blur, gaussian_blur
from llie_jax.inference import padding
from llie_jax.models import base, flol
from llie_jax.models.base import variable_shapes
from tests.official import WEIGHTS, nhwc, random_tensors, read_golden

SMALL = {"name": "flol", **base.card("flol").tiny}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", params=WEIGHTS)
def official(request):
    """Returns golden arrays, the model and its variables."""
    tensors, arrays = read_golden(request, "flol", "flol_lolv2")
    return arrays, *convert.from_torch({"params": tensors})


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
    outputs = jax.jit(model.apply)(variables, nhwc(arrays["input"]))
    for found, name in (
        (outputs.image, "output_canonical"),
        (outputs.aux["amplitude_image"], "amplitude_image_canonical"),
    ):
        np.testing.assert_allclose(found, nhwc(arrays[name]), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_golden_of_a_size_that_only_the_second_stage_pads(official):
    """The authors' second stage pads by reflection; ours never does."""
    arrays, model, variables = official

    @jax.jit
    def run(variables, image):
        bound = model.bind(variables)
        brightened = bound.amplitude(image)
        (image, size), (brightened, _) = (
            padding.pad_to_multiple(x, 8, "reflect") for x in (image, brightened)
        )
        outputs = bound.decode(*bound.extract(image, brightened))
        return padding.crop(outputs.image, size), brightened

    for found, name in zip(
        run(variables, nhwc(arrays["input_odd"])),
        ("output_odd_canonical", "amplitude_image_odd_canonical"),
        strict=True,
    ):
        np.testing.assert_allclose(found, nhwc(arrays[name]), rtol=0, atol=1e-4)


def test_official_names_are_those_of_the_model(golden):
    tensors = random_tensors(golden / "flol_keys.json", seed=0)
    assert len(tensors) == 182
    assert convert.infer_spec(tensors) == llie_jax.default_spec("flol")


def test_published_costs():
    """The spectra are not counted, nor the blur of the signal-to-noise map."""
    found = costs.count("flol")
    assert found.params == found.inference_params == 94_518
    assert found.macs == 1_019_445_248


@pytest.mark.parametrize("size", [(4, 6), (6, 5), (5, 4)])
def test_angles_of_real_frequencies_do_not_depend_on_rounding(size):
    """They are 0 or pi, and never -pi; other frequencies stay as they are."""
    height, width = size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, height, width, 3)).astype(np.float32) - 1
    spectrum = np.asarray(flol.canonical_spectrum(jnp.asarray(x)))
    expected = np.fft.rfft2(x, axes=(1, 2))
    np.testing.assert_allclose(spectrum, expected, atol=1e-5)
    real = np.zeros(spectrum.shape, bool)
    for row in {0, height // 2} if height % 2 == 0 else {0}:
        for column in {0, width // 2} if width % 2 == 0 else {0}:
            real[:, row, column] = True
    assert np.all(spectrum.imag[real] == 0)
    assert not np.signbit(spectrum.imag[real]).any()
    assert np.all(spectrum.imag[~real] != 0)
    _, angle = flol.polar(jnp.asarray(spectrum))
    np.testing.assert_allclose(angle[0, 0, 0], np.pi, rtol=1e-6)  # the negative mean


def test_polar_gradients_are_finite_at_zero():
    values = np.array([0, 1e-30, 1e-17j, -1, 3 + 4j], np.complex64)
    real, imaginary = jnp.asarray(values.real), jnp.asarray(values.imag)

    def total(real, imaginary):
        return sum(
            jnp.sum(part) for part in flol.polar(jax.lax.complex(real, imaginary))
        )

    amplitude, angle = flol.polar(jnp.asarray(values))
    np.testing.assert_allclose(amplitude, np.abs(values), rtol=1e-6)
    np.testing.assert_allclose(angle, [0, 0, np.pi / 2, np.pi, np.angle(3 + 4j)], 1e-6)
    gradients = jax.grad(total, argnums=(0, 1))(real, imaginary)
    chex.assert_tree_all_finite(gradients)
    np.testing.assert_array_equal([part[0] for part in gradients], 0)
    np.testing.assert_allclose(gradients[0][4], 3 / 5 - 4 / 25, rtol=1e-5)


def test_amplitudes_are_divided_in_the_full_spectrum():
    """The half spectrum gives what the authors compute in the whole one."""
    module = flol.AmplitudeStage(width=4)
    rng = np.random.default_rng(1)
    image = jnp.asarray(rng.random((1, 6, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    # Without weights the map is the sigmoid of a bias: everywhere 1/2.
    found = module.apply(zeros, image)
    np.testing.assert_allclose(found, 2 * image, atol=1e-5)

    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), jnp.float32),
        shapes,
    )
    found, state = module.apply(
        variables, image, capture_intermediates=lambda part, _: part.name == "output"
    )
    (half,) = state["intermediates"]["output"]["__call__"]
    factor = np.asarray(jax.nn.sigmoid(resize_bilinear(half, (6, 8))), np.float64)
    spectrum = np.fft.fft2(np.asarray(image, np.float64), axes=(1, 2))
    amplitude = np.abs(spectrum) / (factor + 1e-8)
    spectrum = amplitude * np.exp(1j * np.angle(spectrum))
    expected = np.fft.ifft2(spectrum, axes=(1, 2)).real
    assert np.ptp(factor) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gaussian_blur():
    image = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1.0)
    taps = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)
    taps /= taps.sum()
    blurred = gaussian_blur(image)
    np.testing.assert_allclose(blurred[0, 2:7, 2:7, 0], np.outer(taps, taps), atol=1e-7)
    np.testing.assert_allclose(gaussian_blur(image, 1e3), box_blur(image), atol=1e-6)


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model, variables = small()
    flat = jnp.stack([jnp.full((8, 8, 3), level) for level in (0.0, 0.5, 1.0)])

    @jax.jit
    def gradient(variables, image):
        def loss(variables, image):
            outputs = model.apply(variables, image)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(outputs))

        return jax.grad(loss, argnums=(0, 1))(variables, image)

    chex.assert_tree_all_finite(gradient(variables, flat))
    zeros = jax.tree.map(jnp.zeros_like, variables)
    chex.assert_tree_all_finite(gradient(zeros, flat))


def test_lfpv_needs_patches_of_the_features():
    model = llie_jax.build({"name": "lfpv", "backbone": SMALL})
    assert model.multiple == 16
    variables = variable_shapes(model)
    image = jax.ShapeDtypeStruct((1, 32, 16, 3), jnp.float32)
    outputs = jax.eval_shape(model.apply, variables, image)
    assert outputs.image.shape == outputs.aux["amplitude_image"].shape == image.shape


def test_the_recipe():
    """Ours: no training code is published."""
    config = load_config("flol")
    assert {term.name: term.weight for term in config.loss.terms.values()} == {"l1": 1}
    assert (config.optimizer.name, config.schedule.name) == ("adam", "cosine")
    assert (config.stages.s0.patch_size, config.stages.s0.batch_size) == (256, 8)


def test_the_score_on_lol_v1_is_marked_as_unfair():
    record = base.card("flol").weights["lol_v2_real"]
    assert record.reference
    assert "probably contains the test images of LOL-v1" in record.trained_on


@pytest.mark.parametrize("field", ["width", "amplitude_width", "spectral_blocks"])
def test_impossible_fields(field):
    with pytest.raises(ValueError, match=f"{field}=0; use at least 1"):
        variable_shapes(flol.FLOL(**{field: 0}))


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("conv_first_1.weight", "width"),
        ("AmpNet.0.conv_init.weight", "amplitude_width"),
    ],
)
def test_a_checkpoint_without_a_width_is_refused(key, field):
    shapes = {
        "conv_first_1.weight": (16, 6, 3, 3),
        "AmpNet.0.conv_init.weight": (8, 3, 1, 1),
    }
    assert flol.infer_spec(shapes, {})["width"] == 16
    del shapes[key]
    with pytest.raises(ValueError, match=f"FLOL's {field} cannot be inferred"):
        flol.infer_spec(shapes, {})
    assert field not in flol.infer_spec(shapes, {field: 4})
