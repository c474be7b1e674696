"""Kernels from orthogonal bases: the algebra, and the closed form against it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llie_jax.nn import pog


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def test_bases_are_symmetric_orthogonal_and_their_own_inverse():
    basis = pog.householder_basis(normal(50, 16))
    np.testing.assert_allclose(basis, basis.swapaxes(1, 2), atol=0)
    np.testing.assert_allclose(
        basis.swapaxes(1, 2) @ basis, np.tile(np.eye(16), (50, 1, 1)), atol=1e-6
    )
    np.testing.assert_allclose(basis @ basis, basis.swapaxes(1, 2) @ basis, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(basis), -1, atol=1e-5)


def explicit(params, pooled):
    """Returns the kernel values [B, N] from the paper's equations, with all bases."""
    mix = pooled @ params["mix_in"]["kernel"] + params["mix_in"]["bias"]
    mix = nn.gelu(mix, approximate=True)
    weights = nn.softmax(mix @ params["mix_out"]["kernel"] + params["mix_out"]["bias"])
    basis = pog.householder_basis(params["embedding"])
    s = jnp.einsum("bj,njd->bnd", weights, basis)
    hidden = s @ params["decode_in"]["kernel"] + params["decode_in"]["bias"]
    values = nn.gelu(hidden, approximate=True) @ params["decode_out"]["kernel"]
    return values[..., 0] + params["decode_out"]["bias"]


def test_closed_form_equals_the_explicit_one_also_in_its_gradients():
    with jax.enable_x64(True):
        conv = pog.OrthogonalConv(3, embedding_dim=8, param_dtype=jnp.float64)
        pooled = normal(2, 5, dtype=jnp.float64)
        params = conv.init(jax.random.key(0), pooled, method="kernel")["params"]

        def closed(params, pooled):
            kernel = conv.apply({"params": params}, pooled, method="kernel")
            return kernel.transpose(0, 4, 3, 1, 2).reshape(2, -1)

        cotangent = normal(2, 15, seed=1, dtype=jnp.float64)
        found, pull = jax.vjp(jax.jit(closed), params, pooled)
        expected, pull_explicit = jax.vjp(jax.jit(explicit), params, pooled)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        chex.assert_trees_all_close(
            pull(cotangent), pull_explicit(cotangent), atol=1e-10
        )


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_explicit_form_is_the_closed_one(kernel_size):
    """The definition, computed with the bases, in float32 and with gradients."""
    options = dict(embedding_dim=16, kernel_size=kernel_size)
    closed = pog.OrthogonalConv(3, **options)
    explicit = pog.OrthogonalConv(3, form="explicit", **options)
    pooled = normal(2, 5)
    variables = closed.init(jax.random.key(0), pooled, method="kernel")

    def both(form):
        def run(variables, pooled):
            return form.apply(variables, pooled, method="kernel")

        value, pull = jax.vjp(jax.jit(run), variables, pooled)
        return value, pull(normal(*value.shape, seed=1))

    chex.assert_trees_all_close(both(explicit), both(closed), atol=1e-5)
    with pytest.raises(ValueError, match=r"Unknown form 'open'.*closed"):
        pog.OrthogonalConv(3, form="open").init(
            jax.random.key(0), pooled, method="kernel"
        )


def test_short_rows_have_finite_gradients():
    embedding = jnp.zeros((3, 4)).at[1].set(1e-20).at[2].set(1e-3)
    gradient = jax.grad(lambda x: pog.unit_rows(x)[:, 0].sum())(embedding)
    assert np.isfinite(gradient).all()


def test_no_array_of_bases_is_made():
    """Neither the forward nor the backward program contains one, before XLA runs."""
    conv = pog.OrthogonalConv(7, embedding_dim=6)  # N = 77
    pooled = normal(2, 11)
    params = conv.init(jax.random.key(0), pooled, method="kernel")

    def total(params):
        return conv.apply(params, pooled, method="kernel").sum()

    program = jax.jit(jax.grad(total)).lower(params).as_text()
    assert "77x6xf32" in program
    assert "77x6x6x" not in program


def test_cached_rows_change_nothing():
    conv, pooled = pog.OrthogonalConv(4), normal(2, 6)
    variables = conv.init(jax.random.key(0), pooled, method="kernel")
    assert set(variables) == {"params"}
    kernel, cache = conv.apply(variables, pooled, method="kernel", mutable=["cache"])
    chex.assert_trees_all_equal_shapes(
        cache["cache"], {"rows": jnp.ones((24, 64)), "projected": jnp.ones((32, 24))}
    )
    # NaN in the table shows that cached values are not recomputed.
    del variables["params"]["embedding"]
    table = {"embedding": jnp.full((24, 64), jnp.nan)}
    cached = {"params": variables["params"] | table, **cache}
    np.testing.assert_allclose(
        conv.apply(cached, pooled, method="kernel"), kernel, atol=1e-6
    )


def test_images_have_kernels_of_their_own():
    conv, pooled = pog.OrthogonalConv(4, decoder_gain=8.0), normal(3, 6)
    variables = conv.init(jax.random.key(0), pooled, method="kernel")
    run = jax.jit(lambda x: conv.apply(variables, x, method="kernel"))
    kernels = run(pooled)
    assert kernels.shape == (3, 1, 1, 6, 4)
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(run(pooled[order]), kernels[order], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_dim": 1}, "embedding_dim=1: a basis needs at least two"),
        ({"kernel_size": 2}, "kernel_size=2; use an odd number"),
        ({"kernel_size": -1}, "kernel_size=-1; use an odd number"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        pog.OrthogonalConv(4, **fields).init(
            jax.random.key(0), normal(1, 3), method="kernel"
        )
