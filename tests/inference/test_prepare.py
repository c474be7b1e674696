"""Values computed once change no image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import weights
from llie_jax.inference import enhance, prepare
from llie_jax.models.base import variable_shapes

HOST = {"name": "retinexformer", "width": 4, "num_blocks": (1, 1)}
ADR = {"name": "adr", "width": 3, "conv": {"name": "orthogonal", "embedding_dim": 8}}


@pytest.fixture(scope="module")
def made():
    """A model with ADR and random parameters."""
    model = llie_jax.build({**HOST, "reallocate": ADR})
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        variable_shapes(model),
    )


def random_image(height, width):
    return np.random.default_rng(1).random((height, width, 3), np.float32)


def test_prepared_models_give_the_same_image(made):
    model, variables = made
    prepared = prepare.prepare(model, variables)
    assert set(prepared) == {"params", "cache"}
    place = prepared["cache"]["stage_0"]["denoiser"]["decoder_0"]["block_0"]
    assert set(place["attention"]["reallocate"]["squeeze"]) == {"rows", "projected"}
    image = random_image(8, 12)[None]
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(
        apply(prepared, image).image, apply(variables, image).image, atol=1e-6
    )
    assert prepare.prepare(model, prepared)["cache"] is prepared["cache"]


def test_a_model_without_such_parts_gets_nothing():
    model = llie_jax.build(HOST)
    variables = variable_shapes(model)
    assert prepare.prepare(model, variables) == variables
    image = random_image(8, 12)
    assert prepare.shared_kernels(model, variables, image, pixels=9) == {}


def test_the_cache_is_never_saved(made, tmp_path):
    model, variables = made
    path = tmp_path / "adr.safetensors"
    spec = {**HOST, "reallocate": ADR}
    weights.save(path, spec, variables)
    _, loaded = llie_jax.load(path)
    assert set(loaded) == {"params"}
    chex.assert_trees_all_equal(loaded, variables)
    with pytest.raises(ValueError, match="Unknown names: cache/"):
        weights.save(path, spec, prepare.prepare(model, variables))


def test_kernels_of_the_whole_image(made):
    model, variables = made
    image = random_image(12, 16)
    kernels = prepare.shared_kernels(model, variables, image, pixels=12 * 16)
    whole = jax.jit(model.apply)(variables, image[None]).image
    given = jax.jit(model.apply)({**variables, **kernels}, image[None]).image
    np.testing.assert_allclose(given, whole, atol=1e-5)
    small = prepare.shared_kernels(model, variables, image, pixels=50)
    chex.assert_trees_all_equal_shapes(small, kernels)


def test_tiles_share_the_kernels_if_asked(made):
    model, variables = made
    # Two halves so different that their kernels differ.
    image = np.concatenate([random_image(16, 16) / 10, random_image(16, 16)], axis=1)
    calls = {}
    for shared in (True, False):
        calls[shared] = enhance.enhance(
            model,
            variables,
            image,
            tile=16,
            overlap=4,
            shared_kernels=shared,
            clip=False,
        )
    assert np.abs(calls[True] - calls[False]).max() > 1e-4
