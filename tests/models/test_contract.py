"""The contract of every registered model; new models are found automatically.

Sizes are the `tiny` ones of the cards; all parameters are random.
"""

import dataclasses
import fnmatch
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import export

import llie_jax
from llie_jax import costs, registry, weights
from llie_jax.models import base
from llie_jax.nn import conv_kernels, norms

# Other tests register toy models, which do not meet the whole contract.
MODELS = [
    name
    for name in llie_jax.list_models()
    if registry.get(name).make.__module__.startswith("llie_jax.")
]


@dataclasses.dataclass(frozen=True)
class Built:
    """A model with its card, its variables and its jitted `apply`."""

    name: str
    spec: dict
    model: base.Model
    card: base.ModelCard
    variables: dict
    apply: object

    @property
    def state(self):
        return {k: v for k, v in self.variables.items() if k != "params"}


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    card = base.card(request.param)
    spec = {"name": request.param, **card.tiny}
    model = llie_jax.build(spec)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = 0.2 * rng.standard_normal(leaf.shape)
        if path[0].key == norms.STATISTICS and path[-1].key == "var":
            values = 1 + np.abs(values)  # no variance is negative
        return jnp.asarray(values, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, base.variable_shapes(model))
    chex.clear_trace_counter()  # it counts all models' lambdas as one function
    # All tests give images of one shape, since compiling takes most of the time.
    apply = jax.jit(chex.assert_max_traces(lambda v, x: model.apply(v, x), n=1))
    yield Built(request.param, spec, model, card, variables, apply)
    jax.clear_caches()


def images(model, batch=2):
    height, width = 2 * model.multiple, 3 * model.multiple
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.random((batch, height, width, 3)), jnp.float32)


def matching(names, patterns):
    return {n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)}


def test_outputs(built):
    image = images(built.model)
    outputs = built.apply(built.variables, image)
    assert isinstance(outputs, llie_jax.Outputs)
    chex.assert_shape(outputs.image, image.shape)
    chex.assert_type(outputs.image, jnp.float32)
    chex.assert_tree_all_finite(outputs)


def test_images_of_a_batch_are_independent_and_compile_once(built):
    image = images(built.model)
    found = built.apply(built.variables, image).image
    others = image.at[0].set(1 - image[0] ** 2)
    again = built.apply(built.variables, others).image  # a second trace would raise
    np.testing.assert_allclose(found[1], again[1], atol=2e-4)
    assert np.any(found[0] != again[0])


@pytest.fixture(scope="module")
def training_pass(built):
    """Returns outputs, updated collections and gradients of one training pass."""
    image = images(built.model, batch=1)
    streams = ("dropout", "noise", *built.model.shared_streams)
    rngs = {name: jax.random.key(i) for i, name in enumerate(streams)}

    def loss(params):
        outputs, updated = built.model.apply(
            {"params": params, **built.state},
            image,
            target=1 - image,
            train=True,
            rngs=rngs,
            mutable=list(built.state),
        )
        total = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(outputs))
        return total, (outputs, updated)

    # The choice of implementation is tested elsewhere; native convolutions compile
    # fast.
    with conv_kernels.use_implementation("lax"):
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, aux), grads = gradient(built.variables["params"])
    return *aux, grads


def test_a_training_pass(built, training_pass):
    outputs, updated, _ = training_pass
    chex.assert_shape(outputs.image, images(built.model, batch=1).shape)
    chex.assert_tree_all_finite((outputs, updated))
    for name, tree in updated.items():
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, built.variables[name])


def test_every_parameter_matters(built, training_pass):
    """The gradient reaches each parameter through the image or an extra output."""
    *_, grads = training_pass
    chex.assert_tree_all_finite(grads)
    flat = traverse_util.flatten_dict(grads, sep="/")
    still = {name for name, value in flat.items() if not np.any(value)}
    assert still <= matching(flat, built.card.unused_parameters)


def test_a_wrong_size_is_refused_before_compiling(built):
    model = built.model
    image = jnp.zeros((1, 2 * model.multiple + 1, 2 * model.multiple, 3))
    if model.multiple > 1:
        with pytest.raises(ValueError, match=f"multiples of {model.multiple}"):
            model.apply(built.variables, image)
    with pytest.raises(ValueError, match="shape"):
        model.apply(built.variables, image[..., :1])


def test_geometry_and_split(built):
    model = built.model
    assert model.pad_mode in ("constant", "reflect")
    assert set(model.options) == set(model.test_options) or isinstance(
        model, base.Wrapper
    )
    if not isinstance(model, base.Backbone):
        return
    assert type(model).__call__ is base.Backbone.__call__  # decode of encode
    image = images(model, batch=1)
    features, _ = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="encode"), built.variables, image
    )
    stride = model.feature_stride
    size = image.shape[1] // stride, image.shape[2] // stride
    chex.assert_shape(features, (1, *size, None))


def test_bfloat16_comes_close(built):
    low = built.model
    if isinstance(low, base.Wrapper):
        low = low.clone(backbone=low.backbone.clone(dtype=jnp.bfloat16))
    else:
        low = low.clone(dtype=jnp.bfloat16)
    image = images(built.model)
    with conv_kernels.use_implementation("lax"):
        found = jax.jit(low.apply)(built.variables, image).image
    chex.assert_type(found, jnp.float32)
    wanted = built.apply(built.variables, image).image
    # With random weights, agreement to one grey level cannot be expected.
    scale = float(jnp.max(jnp.abs(wanted - image)))
    assert float(jnp.mean(jnp.abs(found - wanted))) < 0.05 * max(scale, 1)


def test_costs(built):
    found = costs.count(built.spec, (2 * built.model.multiple,) * 2)
    learned = {k: v for k, v in built.variables.items() if k in built.model.learned}
    sizes = {
        name: leaf.size
        for tree in learned.values()
        for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }
    assert found.params == sum(sizes.values())
    without = matching(sizes, (*built.card.training_only, *built.card.unused_layers))
    assert found.params - found.inference_params == sum(map(sizes.get, without))
    assert 0 < found.macs <= found.macs_fvcore


def test_a_release_file_holds_the_model(built, tmp_path):
    path = tmp_path / "a.safetensors"
    weights.save(path, built.spec, built.variables, trained_on="noise")
    model, variables = weights.load(path)
    assert model == built.model.for_inference()
    image = images(model)
    apply = built.apply if model == built.model else jax.jit(model.apply)
    np.testing.assert_array_equal(
        apply(variables, image).image, built.apply(built.variables, image).image
    )


def test_symbolic_sizes_lower_for_a_tpu(built):
    """Uses native convolutions, as an export does."""
    model = built.model
    size = export.symbolic_shape(f"{model.multiple}*h, {model.multiple}*w")
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    run = jax.jit(lambda variables, image: model.apply(variables, image).image)
    with conv_kernels.use_implementation("lax"):
        exported = export.export(run, platforms=["tpu"])(built.variables, image)
    assert exported.platforms == ("tpu",)
    assert exported.out_avals[0].shape == image.shape


@pytest.mark.slow
def test_numpy_parameters_without_jit(built):
    image = images(built.model)
    as_numpy = jax.tree.map(np.asarray, built.variables)
    found = built.model.apply(as_numpy, np.asarray(image)).image
    wanted = built.apply(built.variables, image).image
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_spec_survives_json(name):
    spec = llie_jax.default_spec(name)
    again = json.loads(json.dumps(spec))
    assert again == spec
    model = llie_jax.build(again)
    assert model == llie_jax.build(spec)
    hash(model)
