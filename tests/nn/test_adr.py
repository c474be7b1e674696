"""ADR against a computation with explicit bases, and inside its backbones."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import registry
from llie_jax.models.base import variable_shapes
from llie_jax.nn import adr, dynamic_conv
from llie_jax.nn.pog import OrthogonalConv

LAYERS = {"fc1": "mix_in", "fc2": "mix_out", "dec1": "decode_in", "dec2": "decode_out"}
PARTS = {"1": "squeeze", "2": "expand"}


pytestmark = pytest.mark.usefixtures("native_convolutions")


@pytest.fixture(params=["k1", "k3"])
def official(request, golden):
    with np.load(golden / "pog_adr.npz") as file:
        return {
            key[3:]: file[key] for key in file if key.startswith(f"{request.param}/")
        }


def tree(arrays, prefix, dtype):
    """Returns the arrays under a prefix as a tree of ADR's parameters."""
    made = {}
    for number, part in PARTS.items():
        place = f"{prefix}{number}."
        made[part] = {"embedding": jnp.asarray(arrays[f"{place}emb"], dtype)}
        for theirs, ours in LAYERS.items():
            made[part][ours] = {
                "kernel": jnp.asarray(arrays[f"{place}{theirs}_w"].T, dtype),
                "bias": jnp.asarray(arrays[f"{place}{theirs}_b"], dtype),
            }
    return made


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_golden(official, dtype):
    exact = dtype == jnp.float64
    config = json.loads(str(official["config_json"]))
    with jax.enable_x64(exact), jax.default_matmul_precision("highest"):
        module = adr.AttentionDynamicReallocation(
            config["Dm"],
            functools.partial(
                OrthogonalConv,
                embedding_dim=config["De"],
                kernel_size=config["k"],
            ),
            dtype=dtype,
            param_dtype=dtype,
        )
        params = tree(official, "param:", dtype)
        x, cotangent = (
            jnp.asarray(official[key], dtype) for key in ("input", "cotangent")
        )

        @jax.jit
        def run(params, x):
            def apply(params, x):
                return module.apply({"params": params}, x, mutable=["kernels"])

            output, pull, kernels = jax.vjp(apply, params, x, has_aux=True)
            return output, kernels["kernels"], pull(cotangent)

        output, kernels, (gradient, x_gradient) = run(params, x)
        close(output, official["output"], 1e-10 if exact else 2e-5)
        for number, part in PARTS.items():
            expected = official[f"mid:kernel{number}_hwio"]
            close(kernels[part], expected, 1e-10 if exact else 2e-5)
        tolerance = 1e-9 if exact else 1e-4
        close(x_gradient, official["grad:input"], tolerance, relative=True)
        expected = tree(official, "grad:", dtype)
        jax.tree.map(
            lambda a, b: close(a, b, tolerance, relative=True), gradient, expected
        )


def close(found, expected, tolerance, *, relative=False):
    largest = np.abs(expected).max()
    scale = largest if relative else 1 + largest
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8, 12)), jnp.float32)


@pytest.mark.parametrize(
    "conv",
    [OrthogonalConv, dynamic_conv.DynamicConv, dynamic_conv.StaticConv],
    ids=["orthogonal", "dynamic", "static"],
)
def test_it_begins_as_the_identity(conv):
    module = adr.AttentionDynamicReallocation(4, conv)
    variables = module.init(jax.random.key(0), X)
    np.testing.assert_array_equal(module.apply(variables, X), X)

    def loss(params):
        return jnp.sum(module.apply({"params": params}, X) ** 2)

    gradient = jax.grad(loss)(variables["params"])
    chex.assert_tree_all_finite(gradient)
    moved = {key for key, part in gradient.items() if any(map(np.any, leaves(part)))}
    assert moved == {"expand"}  # the other parts move from the next step on


leaves = jax.tree.leaves


def test_one_pass_equals_pooling_the_bottleneck():
    conv = functools.partial(OrthogonalConv, decoder_gain=8.0)
    module = adr.AttentionDynamicReallocation(4, conv)
    variables = randomised(module, X)
    _, kernels = module.apply(variables, X, mutable=["kernels"])
    bottleneck = adr.sample_conv(X, kernels["kernels"]["squeeze"])
    expected = OrthogonalConv(12, decoder_gain=8.0).apply(
        {"params": variables["params"]["expand"]},
        bottleneck.mean((1, 2)),
        method="kernel",
    )
    np.testing.assert_allclose(kernels["kernels"]["expand"], expected, atol=1e-6)


def randomised(module, *inputs):
    variables = module.init(jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), variables
    )


def test_given_kernels_are_used():
    module = adr.AttentionDynamicReallocation(4)
    variables = randomised(module, X)
    whole, kernels = module.apply(variables, X, mutable=["kernels"])
    part = module.apply({**variables, **kernels}, X[:, :3])
    np.testing.assert_allclose(part, whole[:, :3], atol=1e-5)
    # The kernels of one image serve all its tiles.
    first = jax.tree.map(lambda x: x[:1], kernels)
    tiles = jnp.concatenate([X[:1, :3], X[:1, 3:]])
    found = module.apply({**variables, **first}, tiles)
    np.testing.assert_allclose(jnp.concatenate(list(found)), whole[0], atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_sample_conv_against_one_convolution_per_image(size):
    rng = np.random.default_rng(2)
    kernels = jnp.asarray(rng.normal(size=(2, size, size, 12, 5)), jnp.float32)
    found = adr.sample_conv(X, kernels)
    expected = jax.vmap(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
    )(X, kernels)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    one = adr.sample_conv(X, kernels[:1])
    np.testing.assert_allclose(one[0], expected[0], atol=1e-4)


def test_bfloat16_comes_close():
    module = adr.AttentionDynamicReallocation(4)
    variables = randomised(module, X)
    exact = module.apply(variables, X)
    rough = module.clone(dtype=jnp.bfloat16).apply(variables, X.astype(jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough, exact, atol=0.1)


@pytest.mark.parametrize("width", [0, 12, 13])
def test_a_width_that_is_no_bottleneck(width):
    with pytest.raises(ValueError, match=f"width={width} must be a bottleneck of"):
        adr.AttentionDynamicReallocation(width).init(jax.random.key(0), X)


BACKBONES = {
    "restormer": dict(
        width=4,
        num_blocks=(1, 1, 1, 1),
        num_refinement_blocks=1,
        num_heads=(1, 1, 2, 4),
    ),
    "retinexformer": dict(width=4, num_blocks=(1, 1, 1)),
    "cidnet": dict(widths=(4, 4, 8, 8), num_heads=(1, 2, 2, 4)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "retinexformer" else pytest.mark.slow)
        for name in BACKBONES
    ],
)
def test_a_backbone_with_it_begins_as_the_backbone(name):
    """The images are bit-identical."""
    plain = llie_jax.build({"name": name, **BACKBONES[name]})
    slot = {"name": "adr", "width": 3, "conv": {"name": "orthogonal"}}
    model = llie_jax.build({"name": name, **BACKBONES[name], "reallocate": slot})
    image = jnp.asarray(np.random.default_rng(3).random((2, 16, 24, 3)), jnp.float32)
    rng = np.random.default_rng(4)

    def start(path, leaf):
        names = [key.key for key in path]
        zero = "reallocate" in names and names[-3:-1] == ["expand", "decode_out"]
        return jnp.asarray(0.2 * (not zero) * rng.normal(size=leaf.shape), leaf.dtype)

    # Random values everywhere except in the layer that starts at zero.
    variables = jax.tree_util.tree_map_with_path(start, variable_shapes(model))
    assert not np.all([np.any(leaf) for leaf in jax.tree.leaves(variables)])
    alone = {"params": without(variables["params"], "reallocate")}
    found = jax.jit(model.apply)(variables, image).image
    expected = jax.jit(plain.apply)(alone, image).image
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("conv", ["orthogonal", "dynamic", "static"])
def test_the_zero_start_can_be_switched_off(conv):
    make = registry.get(conv, kind="kernel").make
    x = jnp.asarray(np.random.default_rng(5).normal(size=(1, 4, 4, 6)), jnp.float32)
    for zero_start in (True, False):
        module = adr.AttentionDynamicReallocation(2, make, zero_start=zero_start)
        found, _ = module.init_with_output(jax.random.key(0), x)
        assert np.array_equal(found, x) == zero_start


def without(params, name):
    return {
        key: without(value, name) if isinstance(value, dict) else value
        for key, value in params.items()
        if key != name
    }


def test_a_part_of_another_kind_is_refused():
    with pytest.raises(
        ValueError, match=r"reallocation 'with_bias'. It is the name of a norm.*adr, id"
    ):
        llie_jax.build({"name": "restormer", "reallocate": "with_bias"})
    with pytest.raises(ValueError, match=r"kernel 'adr'. It is the name of a realloc"):
        llie_jax.build(
            {"name": "cidnet", "reallocate": {"name": "adr", "width": 2, "conv": "adr"}}
        )


def test_unknown_parts_are_named():
    spec = {"name": "adr", "width": 4, "conv": "orthogonl"}
    with pytest.raises(ValueError, match="Did you mean 'orthogonal'"):
        llie_jax.build({"name": "restormer", "reallocate": spec})
    with pytest.raises(ValueError, match="'adr' needs a value for its field 'width'"):
        llie_jax.build({"name": "restormer", "reallocate": "adr"})
