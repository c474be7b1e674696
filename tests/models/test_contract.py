"""What every registered model promises; a new model is found by itself."""

import fnmatch
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import registry
from llie_jax.models import base
from llie_jax.models.base import variable_shapes

# Other tests register toys of their own, which promise less.
MODELS = [
    name
    for name in llie_jax.list_models()
    if registry.get(name).make.__module__.startswith("llie_jax.")
]


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    """Each model at a small size, every parameter randomised."""
    model = llie_jax.build({"name": request.param, **base.card(request.param).tiny})
    shapes = variable_shapes(model)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    values = [
        jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
    return request.param, model, jax.tree.unflatten(tree, values)


def images(model, batch=2):
    height, width = 2 * model.multiple, 3 * model.multiple
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.random((batch, height, width, 3)), jnp.float32)


def test_outputs(built):
    _, model, variables = built
    image = images(model)
    outputs = jax.jit(model.apply)(variables, image)
    assert isinstance(outputs, llie_jax.Outputs)
    chex.assert_shape(outputs.image, image.shape)
    chex.assert_type(outputs.image, jnp.float32)
    chex.assert_tree_all_finite(outputs)


def test_every_parameter_matters(built):
    """The gradient reaches each parameter through the image or an extra output."""
    name, model, variables = built
    image = images(model, batch=1)
    state = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def gradient(params):
        def loss(params):
            outputs = model.apply({"params": params, **state}, image)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(outputs))

        return jax.grad(loss)(params)

    grads = traverse_util.flatten_dict(gradient(variables["params"]), sep="/")
    card = base.card(name)
    allowed = (*card.unused_parameters, *card.training_only)
    still = [key for key, value in grads.items() if not np.any(value)]
    assert [k for k in still if not any(fnmatch.fnmatch(k, p) for p in allowed)] == []


def test_batches_are_independent_and_compile_once_per_shape(built):
    _, model, variables = built
    chex.clear_trace_counter()  # it counts the lambdas of all models as one
    apply = jax.jit(chex.assert_max_traces(lambda v, x: model.apply(v, x), n=2))
    image = images(model)
    whole = apply(variables, image).image
    alone = apply(variables, image[1:]).image
    np.testing.assert_allclose(whole[1:], alone, atol=2e-4)
    apply(variables, image)
    apply(variables, image[:1])


def test_a_wrong_size_is_refused_before_compiling(built):
    _, model, variables = built
    image = jnp.zeros((1, 2 * model.multiple + 1, 2 * model.multiple, 3))
    with pytest.raises(ValueError, match=f"multiples of {model.multiple}"):
        model.apply(variables, image)
    with pytest.raises(ValueError, match="shape"):
        model.apply(variables, image[..., :1])


def test_geometry_and_split(built):
    _, model, variables = built
    assert model.pad_mode in ("constant", "reflect")
    image = images(model, batch=1)
    if not isinstance(model, base.Backbone):
        return

    @jax.jit
    def split(variables, image):
        features, context = model.apply(variables, image, method="encode")
        chex.assert_rank(features, 4)
        return model.apply(variables, features, context, method="decode")

    whole = jax.jit(model.apply)(variables, image)
    np.testing.assert_allclose(split(variables, image).image, whole.image, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_spec_survives_json(name):
    spec = llie_jax.default_spec(name)
    again = json.loads(json.dumps(spec))
    assert again == spec
    model = llie_jax.build(again)
    assert model == llie_jax.build(spec)
    hash(model)
