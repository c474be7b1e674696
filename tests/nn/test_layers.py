"""The layers against XLA's own convolution, Flax, and reference arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from llie_jax.image import maximum
from llie_jax.nn import conv_kernels, layers, norms, pixelwise


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def relative_error(value, reference):
    value, reference = (np.asarray(a, np.float64) for a in (value, reference))
    return np.max(np.abs(value - reference)) / np.max(np.abs(reference))


def value_and_gradients(function, *args, seed=9):
    """Returns the value of `function` and its gradients at a random cotangent."""

    def run(*args):
        y, pullback = jax.vjp(function, *args)
        return y, pullback(normal(seed, *y.shape).astype(y.dtype))

    return jax.jit(run)(*args)


def assert_close(actual, expected, tolerance=2e-6):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert relative_error(a, b) < tolerance


# Odd sizes, sizes below the dilation, several images, several blocks of rows.
CASES = {
    "depthwise": ((2, 7, 9, 6), 6, 1, (1,)),
    "depthwise_dilated": ((1, 11, 6, 3), 3, 1, (4,)),
    "depthwise_beyond_the_image": ((2, 5, 3, 4), 4, 1, (9,)),
    "depthwise_one_row": ((1, 1, 4, 2), 2, 1, (1,)),
    "sum": ((2, 10, 9, 4), 4, 1, (1, 4, 9)),
    "pairs": ((2, 7, 5, 8), 4, 2, (1,)),
    "pairs_dilated": ((1, 6, 7, 4), 2, 2, (3,)),
}


@pytest.mark.parametrize("case", CASES)
def test_shifts_equal_plain_convolution(case):
    shape, groups, group_inputs, dilations = CASES[case]
    x = normal(0, *shape)
    kernels = [normal(1 + d, 3, 3, group_inputs, shape[-1]) for d in dilations]

    def conv(implementation):
        def run(x, kernels):
            if len(kernels) > 1:
                return conv_kernels.summed_depthwise(
                    x, kernels, dilations=dilations, implementation=implementation
                )
            return conv_kernels.grouped_conv(
                x,
                kernels[0],
                groups=groups,
                dilation=dilations[0],
                implementation=implementation,
            )

        return value_and_gradients(run, x, kernels)

    plain = conv("lax")
    assert_close(conv("shifts"), plain)
    assert_close(conv(None), plain)  # on CPU, lowering chooses the shifts
    if group_inputs == 2:
        assert_close(conv("dense"), plain)  # as on TPU


@pytest.mark.parametrize(
    "layer",
    [
        layers.DepthwiseConv(),
        layers.PairedConv(),
        layers.GroupedConv(8, groups=2),
        layers.DepthwiseSum((1, 2)),
        layers.Conv(4, (2, 2), strides=2, padding=0),
        layers.Conv(3),
    ],
)
def test_native_convolutions_can_be_forced(layer):
    """Values and gradients agree, and the program has no loop and no choice."""
    x = normal(0, 1, 6, 8, 8)
    variables = layer.init(jax.random.key(0), x)

    def both(x):
        value, pull = jax.vjp(lambda x: layer.apply(variables, x), x)
        return value, pull(jnp.cos(value))

    chosen = jax.jit(both)(x)
    with conv_kernels.use_implementation("lax"):
        # A new function: JAX keeps the trace of one that it has seen.
        program = str(jax.make_jaxpr(lambda x: both(x))(x))
        native = jax.jit(lambda x: both(x))(x)
    assert_close(chosen, native)
    assert "platform_index" not in program
    assert "while" not in program
    with (
        pytest.raises(ValueError, match="Unknown implementation 'fast'"),
        conv_kernels.use_implementation("fast"),
    ):
        pass


def test_a_convolution_in_pairs_is_a_grouped_one():
    x = normal(0, 2, 5, 6, 4)
    pairs, groups = layers.PairedConv(), layers.GroupedConv(4, groups=2)
    variables = pairs.init(jax.random.key(0), x)
    np.testing.assert_array_equal(pairs.apply(variables, x), groups.apply(variables, x))


def test_kernels_that_are_not_square():
    x, kernel = normal(0, 1, 6, 8, 2), normal(1, 1, 5, 1, 2)

    def conv(name):
        def run(x, kernel):
            return conv_kernels.grouped_conv(x, kernel, groups=2, implementation=name)

        return value_and_gradients(run, x, kernel)

    assert_close(conv("shifts"), conv("lax"))


@pytest.mark.parametrize(("group_inputs", "convs_on_cpu"), [(4, 2), (2, 1)])
def test_other_groups(group_inputs, convs_on_cpu):
    """CPU splits larger groups; three outputs of two inputs are not covered."""
    x, kernel = normal(0, 1, 4, 5, 2 * group_inputs), normal(1, 3, 3, group_inputs, 6)

    def conv(name):
        def run(x, kernel):
            return conv_kernels.grouped_conv(x, kernel, groups=2, implementation=name)

        return run

    traced = jax.jit(conv(None)).trace(x, kernel)
    for platform, number in (("tpu", 1), ("cpu", convs_on_cpu)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert convolutions(text) == number
    assert conv(None)(x, kernel).shape == (1, 4, 5, 6)
    assert_close(
        *(value_and_gradients(conv(name), x, kernel) for name in (None, "lax"))
    )


@pytest.mark.parametrize("group_inputs", [1, 2])
def test_gradients_equal_finite_differences(group_inputs):
    x, kernel = normal(0, 1, 4, 3, 4), normal(1, 3, 3, group_inputs, 4)
    check_grads(
        lambda x, kernel: conv_kernels.grouped_conv(
            x, kernel, groups=4 // group_inputs, dilation=2
        ),
        (x, kernel),
        order=1,
        modes=["rev"],
        atol=1e-2,
        rtol=1e-2,
    )


@pytest.mark.parametrize("group_inputs", [1, 2])
def test_bfloat16_is_accumulated_in_float32(group_inputs):
    x = normal(0, 2, 6, 5, 4).astype(jnp.bfloat16)
    kernel = normal(1, 3, 3, group_inputs, 4).astype(jnp.bfloat16)
    groups = 4 // group_inputs

    def gradients(x, kernel, name):
        return value_and_gradients(
            lambda x, kernel: conv_kernels.grouped_conv(
                x, kernel, groups=groups, implementation=name
            ),
            x,
            kernel,
        )

    low = jax.tree.leaves(gradients(x, kernel, None))
    exact = gradients(x.astype(jnp.float32), kernel.astype(jnp.float32), "lax")
    for a, b in zip(low, jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        # Rounding the cotangent and the result once each: 2^-9 relative to the value.
        assert relative_error(a, b) < 2**-7


def convolutions(text):
    return text.count("stablehlo.convolution")


@pytest.mark.parametrize("group_inputs", [1, 2])
def test_backend_is_chosen_at_lowering(group_inputs):
    x, kernel = normal(0, 1, 4, 5, 4), normal(1, 3, 3, group_inputs, 4)
    groups = 4 // group_inputs

    def value(x, kernel):
        return conv_kernels.grouped_conv(x, kernel, groups=groups).sum()

    traced = jax.jit(value).trace(x, kernel)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert convolutions(text) == 1
        dense = platform == "tpu" and group_inputs == 2
        assert f"feature_group_count = {1 if dense else groups} " in text
    assert convolutions(traced.lower(lowering_platforms=("cpu",)).as_text()) == 0

    # Each gradient chooses separately, and an unused one is left out.
    for argument in (0, 1):
        traced = jax.jit(jax.grad(value, argument)).trace(x, kernel)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
        assert convolutions(text) == 1
        assert "while" not in text
        assert convolutions(traced.lower(lowering_platforms=("cpu",)).as_text()) == 0


def test_works_under_vmap_and_shard_map_and_pmap():
    x, kernel = normal(0, 1, 2, 6, 5, 4), normal(1, 3, 3, 1, 4)

    def gradients(x, kernel):
        def loss(x, kernel):
            y = conv_kernels.grouped_conv(x, kernel, groups=4)
            return jnp.sum(jnp.square(y))

        return jax.grad(loss, (0, 1))(x, kernel)

    expected = gradients(x[0], kernel)
    batched = jax.jit(jax.vmap(gradients, (0, None)))(x, kernel)
    assert_close(jax.tree.map(lambda a: a[0], batched), expected)
    batched = jax.pmap(gradients, in_axes=(0, None))(x, kernel)
    assert_close(jax.tree.map(lambda a: np.asarray(a[0]), batched), expected)

    images = PartitionSpec("data")
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    mapped = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(images, PartitionSpec()),
        out_specs=(images, PartitionSpec()),
        check_vma=False,
    )
    assert_close(jax.jit(mapped)(x[0], kernel), expected)


def test_shifts_need_little_memory():
    x, kernel = jnp.zeros((1, 96, 96, 32)), jnp.zeros((3, 3, 1, 32))

    def gradients(x, kernel, g):
        y, pullback = jax.vjp(
            lambda x, kernel: conv_kernels.grouped_conv(x, kernel, groups=32), x, kernel
        )
        return y, pullback(g)

    analysis = jax.jit(gradients).lower(x, kernel, x).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not report the memory of a program")
    # A padded copy of the input, one of the cotangent for each gradient, and some rows.
    assert analysis.temp_size_in_bytes < 3.5 * x.nbytes


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        ((1, 4, 4, 6), (3, 3, 1, 6), dict(groups=3), "do not fit 3 groups"),
        ((1, 4, 4, 6), (2, 3, 1, 6), dict(groups=6), "use odd sizes"),
        (
            (1, 4, 4, 6),
            (3, 3, 1, 6),
            dict(groups=6, implementation="shift"),
            "'shift' is unknown",
        ),
        (
            (1, 4, 4, 8),
            (3, 3, 4, 8),
            dict(groups=2, implementation="shifts"),
            "does not cover",
        ),
    ],
)
def test_grouped_conv_refuses(x, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        conv_kernels.grouped_conv(jnp.zeros(x), jnp.zeros(kernel), **options)


def test_summed_depthwise_wants_one_kernel_for_each_dilation():
    with pytest.raises(ValueError, match="1 kernels for dilations"):
        conv_kernels.summed_depthwise(
            jnp.zeros((1, 4, 4, 2)), [jnp.zeros((3, 3, 1, 2))], dilations=(1, 4)
        )


DENSE = {
    "same": ((2, 7, 5, 3), dict(features=8), ((1, 1), (1, 1))),
    "few_channels": ((2, 7, 5, 3), dict(features=6), ((1, 1), (1, 1))),
    "few_channels_wide": (
        (1, 4, 6, 6),
        dict(features=2, kernel_size=(1, 5)),
        ((0, 0), (2, 2)),
    ),
    "few_features": ((2, 7, 5, 8), dict(features=3), ((1, 1), (1, 1))),
    "few_features_wide": (
        (1, 4, 6, 8),
        dict(features=2, kernel_size=(3, 5)),
        ((1, 1), (2, 2)),
    ),
    "pointwise": ((2, 3, 5, 4), dict(features=6, kernel_size=(1, 1)), ((0, 0), (0, 0))),
    "halving": (
        (2, 6, 4, 3),
        dict(features=5, kernel_size=(2, 2), strides=2, padding=0),
        ((0, 0), (0, 0)),
    ),
    "halving_odd": (
        (2, 7, 5, 3),
        dict(features=5, kernel_size=(2, 2), strides=2, padding=0),
        ((0, 0), (0, 0)),
    ),
    "strided": ((1, 7, 6, 3), dict(features=4, strides=2), ((1, 1), (1, 1))),
    "unpadded_wide": (
        (2, 5, 8, 8),
        dict(features=7, kernel_size=(1, 5), padding=0),
        ((0, 0), (0, 0)),
    ),
    "unpadded": ((1, 7, 6, 8), dict(features=3, padding=0), ((0, 0), (0, 0))),
    "few_inputs": ((2, 7, 5, 2), dict(features=8), ((1, 1), (1, 1))),
    "few_features_unpadded": (
        (1, 7, 6, 9),
        dict(features=1, padding=0),
        ((0, 0), (0, 0)),
    ),
    "padded_beyond_same": ((1, 4, 5, 3), dict(features=4, padding=2), ((2, 2), (2, 2))),
    "padded_less": (
        (1, 8, 9, 3),
        dict(features=4, kernel_size=(5, 5), padding=1),
        ((1, 1), (1, 1)),
    ),
    "even": (
        (2, 6, 5, 3),
        dict(features=4, kernel_size=(4, 2), padding=1),
        ((1, 1), (1, 1)),
    ),
    "strided_by_3": (
        (1, 11, 10, 3),
        dict(features=4, kernel_size=(5, 5), strides=3),
        ((2, 2), (2, 2)),
    ),
}


@pytest.mark.parametrize("case", DENSE)
def test_conv_equals_plain_convolution(case):
    shape, options, padding = DENSE[case]
    module = layers.Conv(**options)
    x = normal(0, *shape)
    params = module.init(jax.random.key(0), x)["params"]

    def plain(params, x):
        y = lax.conv_general_dilated(
            x,
            params["kernel"],
            window_strides=(options.get("strides", 1),) * 2,
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + params["bias"]

    assert_close(
        value_and_gradients(lambda p, x: module.apply({"params": p}, x), params, x),
        value_and_gradients(plain, params, x),
    )


def test_few_channels_are_summed_in_float32():
    module = layers.Conv(3, dtype=jnp.bfloat16)
    x = normal(0, 1, 6, 4, 3)
    params = module.init(jax.random.key(0), x)
    y = module.apply(params, x)
    assert y.dtype == jnp.bfloat16
    exact = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    exact = layers.Conv(3).apply(exact, x.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=0.02, atol=0.01)


def test_halving_is_a_convolution_off_the_cpu():
    module = layers.Conv(4, (2, 2), strides=2, padding=0)
    x = normal(0, 1, 4, 4, 3)
    traced = jax.jit(module.apply).trace(module.init(jax.random.key(0), x), x)
    assert convolutions(traced.lower(lowering_platforms=("tpu",)).as_text()) == 1


@pytest.mark.parametrize(
    ("module", "fan_in", "shape"),
    [
        (layers.Conv(64, (3, 3)), 9 * 32, (3, 3, 32, 64)),
        (layers.GroupedConv(64, groups=16), 9 * 2, (3, 3, 2, 64)),
        (layers.DepthwiseConv((5, 5)), 25, (5, 5, 1, 32)),
    ],
)
def test_initialisation_is_that_of_pytorch(module, fan_in, shape):
    params = module.init(jax.random.key(0), jnp.zeros((1, 5, 5, 32)))["params"]
    assert params["kernel"].shape == shape
    assert params["bias"].shape == shape[-1:]
    bound = fan_in**-0.5
    for value in (params["kernel"], params["bias"]):
        assert np.abs(value).max() <= bound
        assert np.abs(value).max() > 0.9 * bound
        assert abs(value.mean()) < 0.35 * bound
    unbiased = module.clone(use_bias=False)
    assert set(
        unbiased.init(jax.random.key(0), jnp.zeros((1, 5, 5, 32)))["params"]
    ) == {"kernel"}


def test_modules_compute_in_their_dtype():
    x = normal(0, 1, 4, 4, 4)
    for module in (
        layers.Conv(4, dtype=jnp.bfloat16),
        layers.ConvTranspose(4, dtype=jnp.bfloat16),
        layers.GroupedConv(4, groups=2, dtype=jnp.bfloat16),
        layers.DepthwiseConv(dtype=jnp.bfloat16),
        layers.DepthwiseSum((1, 2), dtype=jnp.bfloat16),
        norms.LayerNorm(dtype=jnp.bfloat16),
    ):
        y, variables = module.init_with_output(jax.random.key(0), x)
        assert y.dtype == jnp.bfloat16
        assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_grouped_conv_module_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="do not divide into groups=4"):
        layers.GroupedConv(8, groups=4).init(jax.random.key(0), jnp.zeros((1, 4, 4, 6)))


def test_depthwise_sum_equals_its_branches():
    module = layers.DepthwiseSum((1, 4, 9))
    x = normal(0, 1, 6, 7, 4)
    y, variables = module.init_with_output(jax.random.key(0), x)
    branches = [
        layers.DepthwiseConv(dilation=dilation).apply(
            {"params": variables["params"][f"branch_{i}"]}, x
        )
        for i, dilation in enumerate(module.dilations)
    ]
    assert_close(y, sum(branches))


def test_layer_norm_equals_flax():
    x = normal(0, 2, 3, 4, 6)
    ours = norms.LayerNorm()
    reference = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)
    params = {"scale": normal(1, 6), "bias": normal(2, 6)}
    assert_close(
        *(
            value_and_gradients(lambda p, x, m=m: m.apply({"params": p}, x), params, x)
            for m in (ours, reference)
        )
    )
    fresh = ours.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(fresh["scale"], 1)
    np.testing.assert_array_equal(fresh["bias"], 0)


def test_layer_norm_does_not_cancel_where_the_mean_is_large():
    x = jnp.asarray([[1000.0, 1000.25, 1000.5]])
    y = norms.LayerNorm(epsilon=0.0).init_with_output(jax.random.key(0), x)[0]
    np.testing.assert_allclose(y, [[-(1.5**0.5), 0, 1.5**0.5]], atol=1e-5)


def test_conv_transpose_equals_flax():
    module = layers.ConvTranspose(3, factor=2)
    reference = nn.ConvTranspose(3, (2, 2), strides=(2, 2), transpose_kernel=True)
    x = normal(0, 2, 3, 4, 5)
    params = {"kernel": normal(1, 2, 2, 3, 5), "bias": normal(2, 3)}
    assert_close(
        *(
            value_and_gradients(lambda p, x, m=m: m.apply({"params": p}, x), params, x)
            for m in (module, reference)
        )
    )
    # Tap (i, j) lands at row i, column j of each block: the kernel is not flipped.
    corner = params["kernel"] * jnp.eye(2)[0][:, None, None, None]
    y = module.apply({"params": {"kernel": corner, "bias": jnp.zeros(3)}}, x)
    assert not np.any(y[:, 1::2])
    assert np.all(np.any(y[:, ::2], axis=(0, 1, 3)))
    fresh = module.init(jax.random.key(0), jnp.zeros((1, 2, 2, 500)))["params"]
    for leaf in fresh.values():  # fan-in 2 * 2 * 3
        assert 0.25 * 12**-0.5 < np.abs(leaf).max() <= 12**-0.5


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-6.0, 6.0, 101)
    values = [
        jax.vmap(jax.value_and_grad(function))(x)
        for function in (
            layers.gelu,
            lambda x: jax.nn.gelu(x, approximate=False),
        )
    ]
    np.testing.assert_allclose(*values, atol=2e-6)
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_pixel_shuffle_order():
    # Channel 4 * o + 2 * i + j of one pixel goes to row i, column j of channel o.
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)
    y = layers.pixel_shuffle(x, 2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(y[0, :, :, 1], [[4, 5], [6, 7]])
    with pytest.raises(ValueError, match="multiple of 9 channels, got 8"):
        layers.pixel_shuffle(x, 3)


def test_golden(golden):
    with np.load(golden / "darkir_primitives.npz") as file:
        arrays = {
            name: jnp.asarray(
                array.transpose(2, 3, 1, 0)
                if name.startswith("param") and array.ndim == 4
                else array.transpose(0, 2, 3, 1)
                if array.ndim == 4
                else array
            )
            for name, array in file.items()
        }

    def run(module, x, **params):
        params = {k: arrays[f"param:{v}"] for k, v in params.items()}
        return module.apply({"params": params}, x)

    y = run(
        norms.LayerNorm(),
        arrays["norm_input"],
        scale="norm1.weight",
        bias="norm1.bias",
    )
    assert relative_error(y, arrays["norm_output"]) < 1e-5
    y = run(
        layers.Conv(6, (1, 1)),
        arrays["sca_input"].mean((1, 2), keepdims=True),
        kernel="sca.1.weight",
        bias="sca.1.bias",
    )
    assert relative_error(y, arrays["sca_output"]) < 1e-5
    y = run(
        layers.Conv(24, (1, 1), use_bias=False),
        arrays["up_input"],
        kernel="ups.weight",
    )
    assert relative_error(layers.pixel_shuffle(y), arrays["up_output"]) < 1e-5
    y = run(
        layers.Conv(24, (2, 2), strides=2, padding=0),
        arrays["down_input"],
        kernel="downs.weight",
        bias="downs.bias",
    )
    assert relative_error(y, arrays["down_output"]) < 1e-5


def test_pixel_unshuffle_is_the_reverse():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    y = layers.pixel_unshuffle(x, 2)
    assert y.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(layers.pixel_shuffle(y, 2), x)
    # Channel c * 4 + 2 * row + column.
    np.testing.assert_array_equal(y[0, 0, 0, 4:8], x[0, :2, :2, 1].ravel())
    with pytest.raises(ValueError, match="4 x 6"):
        layers.pixel_unshuffle(x, 4)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 3, 5, 2), (1, 1, 8, 8)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_uniform_draws_what_jax_draws_for_the_whole_shape(shape, dtype):
    rng = jax.random.key(3)
    found = layers.uniform(0.3)(rng, shape, dtype)
    expected = jax.random.uniform(rng, shape, dtype, -0.3, 0.3)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype


def test_batch_norm_in_training_and_at_inference():
    x = normal(0, 3, 4, 5, 2) * 2 + 1
    norm = norms.BatchNorm()
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    rows = np.asarray(x, np.float64).reshape(-1, 2)
    assert_close(y, (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5).astype(np.float32))
    found = updated["batch_stats"]
    np.testing.assert_allclose(found["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(norm.apply(variables, x, train=True), y)  # not stored
    later = norm.apply({**variables, **updated}, x, train=False)
    assert_close(later, (x - found["mean"]) / np.sqrt(found["var"] + 1e-5))


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    x = normal(0, 4, 3, 2, 2)
    norm = norms.BatchNorm()
    variables = norm.init(jax.random.key(0), x)
    whole, stats = norm.apply(variables, x, train=True, mutable=["batch_stats"])

    def part(x):
        norm = norms.BatchNorm(axis_name="devices")
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    parts, shared = jax.vmap(part, axis_name="devices")(x.reshape(2, 2, 3, 2, 2))
    assert_close(parts.reshape(whole.shape), whole)
    assert_close(jax.tree.map(lambda each: each[1], shared), stats)


@pytest.mark.parametrize("per_channel", [False, True])
def test_prelu(per_channel):
    x = normal(0, 1, 2, 3, 4)
    layer = layers.PReLU(per_channel)
    variables = layer.init(jax.random.key(0), x)
    slope = jnp.arange(1.0, 5) if per_channel else jnp.array([2.0])
    assert variables["params"]["slope"].shape == slope.shape
    y = layer.apply({"params": {"slope": slope}}, x)
    np.testing.assert_array_equal(y, np.where(x >= 0, x, x * slope))


def hidden_layer(weights, x):
    """A function of single pixels for `pixelwise`."""
    first, second = weights
    return jnp.tanh(x @ first) @ second


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 1367, 4), (1, 64, 128, 4)])
def test_pixelwise_is_the_plain_function(shape):
    """One block; two, of which the last is filled up; two full ones."""
    weights, x = (normal(0, 4, 8), normal(1, 8, 3)), normal(2, *shape)

    def run(weights, x):
        return pixelwise.pixelwise(hidden_layer, weights, x)

    expected = value_and_gradients(hidden_layer, weights, x)
    assert_close(value_and_gradients(run, weights, x), expected, 1e-5)
    with conv_kernels.use_implementation("lax"):
        assert_close(value_and_gradients(run, weights, x), expected, 1e-5)


def test_pixelwise_in_bfloat16_sums_the_blocks_in_float32():
    pixels = 64 * pixelwise._BLOCK_PIXELS
    first, second = jnp.zeros((1, 1)), jnp.zeros((1, 1))
    weights = first.astype(jnp.bfloat16), second.astype(jnp.bfloat16) + 1
    x = jnp.ones((pixels, 1), jnp.bfloat16)

    def total(weights):
        y = pixelwise.pixelwise(hidden_layer, weights, x)
        return jnp.sum(y.astype(jnp.float32))

    # In bfloat16, a sum of more than 256 equal blocks would stop growing.
    gradient, _ = jax.jit(jax.grad(total))(weights)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 0]) == pixels


def test_the_gradient_of_the_largest_goes_to_one_value():
    x = jnp.asarray([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(maximum.largest(x, -1), [[3], [0]])
    np.testing.assert_array_equal(maximum.largest(x, 0), [[1, 3, 3]])
    grad = jax.grad(lambda x: maximum.largest(x, -1).sum())(x)
    np.testing.assert_array_equal(grad, [[0, 1, 0], [1, 0, 0]])
