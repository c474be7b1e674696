"""RUAS against the official code, and what is specific to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs, losses
from llie_jax.models import ruas
from llie_jax.models.base import card, initial_variables
from tests.official import nhwc


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def official(golden):
    """Returns the model, its variables and golden arrays."""
    arrays = dict(np.load(golden / "ruas_random.npz"))
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    return *convert.from_torch(tensors), arrays


@pytest.mark.parametrize("size", ["", "_odd"])
def test_golden(official, size):
    model, variables, arrays = official
    outputs = jax.jit(model.apply)(variables, nhwc(arrays[f"input{size}"]))
    for name, found in (
        ("output", outputs.image),
        ("denoised", outputs.image),
        ("u2", outputs.aux["enhanced"]),
        ("t2", outputs.aux["illumination"]),
    ):
        np.testing.assert_allclose(found, nhwc(arrays[name + size]), atol=2e-6)


def test_every_stage(official):
    _, variables, arrays = official
    image, enhanced = nhwc(arrays["input"]), None

    @jax.jit
    def run(params, image, enhanced):
        return ruas.IlluminationStage().apply({"params": params}, image, enhanced)

    for i in range(3):
        params = variables["params"][f"stage_{i}"]
        illumination, enhanced = run(params, image, enhanced)
        np.testing.assert_allclose(illumination, nhwc(arrays[f"t{i}"]), atol=2e-6)
        np.testing.assert_allclose(enhanced, nhwc(arrays[f"u{i}"]), atol=2e-6)


def enhance_loss(outputs, image):
    """Returns the loss of the illumination, as the recipe weights it."""
    illumination = outputs.aux["illumination"]
    fidelity = 0.5 * losses.mse(illumination, image)
    return fidelity + losses.edge_aware_smoothness(
        illumination, image, separate_means=True
    )


def denoise_loss(outputs):
    """Returns the loss of the denoiser, as the recipe weights it."""
    denoised, given = outputs.aux["denoised"], outputs.aux["denoiser_input"]
    return 1e-7 * losses.mse(denoised, given) + losses.total_variation(denoised)


def test_golden_losses(official):
    model, variables, arrays = official

    @jax.jit
    def run(variables, image):
        outputs = model.apply(variables, image, train=True)
        return enhance_loss(outputs, image)[0], denoise_loss(outputs)[0]

    enhance, denoise = run(variables, nhwc(arrays["input"]))
    np.testing.assert_allclose(enhance, arrays["loss:enhance"], rtol=1e-5)
    np.testing.assert_allclose(denoise, arrays["loss:denoise"], rtol=1e-5)


def test_official_keys_are_those_of_the_model(golden):
    shapes = json.loads((golden / "ruas_random_keys.json").read_text())
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    assert convert.infer_spec(tensors) == llie_jax.default_spec("ruas")
    for spec in (None, {"denoise": 0.0}):
        _, variables = convert.from_torch(tensors, spec)
        assert len(jax.tree.leaves(variables)) == len(shapes)
    del tensors["denoise_net.stem.bias"]
    with pytest.raises(ValueError, match=r"Missing keys: denoise_net\.stem\.bias"):
        convert.from_torch(tensors)


def test_published_costs():
    found = costs.count("ruas")
    assert (found.params, found.inference_params) == (3_438, 3_438)
    assert found.macs == 214_106_112
    assert costs.count({"name": "ruas", "denoise": 0.0}).macs < found.macs


@pytest.fixture(scope="module")
def small():
    """Returns the model, random variables and an image."""
    model = llie_jax.build("ruas")
    image = jax.random.uniform(jax.random.key(0), (1, 6, 7, 3))
    return model, initial_variables(model, jax.random.key(1), (6, 7)), image


@pytest.mark.usefixtures("native_convolutions")
def test_the_denoiser_is_optional(small):
    model, variables, image = small
    denoised = jax.jit(model.apply)(variables, image)
    plain = jax.jit(model.with_options({"denoise": 0.0}).apply)(variables, image)
    np.testing.assert_allclose(plain.image, denoised.aux["enhanced"], atol=1e-6)
    assert np.abs(plain.image - denoised.image).max() > 1e-3
    with pytest.raises(ValueError, match=r"denoise=0\.5; use 1 to denoise, 0 not to"):
        model.with_options({"denoise": 0.5}).apply(variables, image)


@pytest.mark.usefixtures("native_convolutions")
def test_the_parts_learn_from_their_own_losses(small):
    model, variables, image = small

    def objectives(params):
        outputs = model.apply({"params": params}, image, train=True)
        return jnp.stack(
            [
                enhance_loss(outputs, image)[0],
                denoise_loss(outputs)[0],
                outputs.image.sum(),
            ]
        )

    jacobian = jax.jit(jax.jacrev(objectives))(variables["params"])
    chex.assert_tree_all_finite(jacobian)

    def trained(row):
        """Returns the parts that an objective has a gradient for."""
        return {
            part
            for part, tree in jacobian.items()
            if any(np.any(leaf[row]) for leaf in jax.tree.leaves(tree))
        }

    stages = {"stage_0", "stage_1", "stage_2"}
    assert trained(0) == stages
    assert trained(1) == {"denoiser"}
    assert trained(2) == {*stages, "denoiser"}


def test_the_local_maximum_looks_down_and_right():
    x = jnp.asarray([[0.1, 0.4, 0.2], [0.3, 0.0, 0.5]])[None, :, :, None]
    found = ruas._local_maximum(x)[0, :, :, 0]
    np.testing.assert_allclose(found, [[0.4, 0.5, 0.5], [0.3, 0.5, 0.5]])
    # Zeros outside count too.
    np.testing.assert_array_equal(ruas._local_maximum(-x)[0, 1], 0)


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images(small):
    model, variables, _ = small

    def loss(params, image):
        outputs = model.apply({"params": params}, image, train=True)
        return jnp.sum(enhance_loss(outputs, image) + denoise_loss(outputs))

    gradient = jax.jit(jax.grad(loss))
    for shade in (0.0, 0.5, 1.0):
        image = jnp.full((1, 6, 6, 3), shade)
        chex.assert_tree_all_finite(gradient(variables["params"], image))


def test_an_unknown_operation():
    with pytest.raises(ValueError, match=r"Unknown operation 'conv5'"):
        ruas.Operation("conv5").init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


def test_published_files_are_described():
    records = card("ruas").weights
    assert records["lol"].spec == {"name": "ruas"}
    for name in ("upe", "dark"):
        assert records[name].spec == {"name": "ruas", "denoise": 0.0}
    assert len({record.sha256 for record in records.values()}) == 3
