"""The gate on Fourier amplitudes."""

import jax
import jax.numpy as jnp
import numpy as np

from llie_jax.nn import amplitude


def features(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((1, 6, 8, 4)), jnp.float32)


def test_a_new_gate_changes_nothing():
    x = features()
    y, _ = amplitude.AmplitudeGate().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, x, atol=1e-5)


def test_phases_stay_and_amplitudes_at_most_double():
    x = features()
    gate = amplitude.AmplitudeGate()
    variables = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape),
        gate.init(jax.random.key(0), x),
    )
    before, after = (
        np.fft.rfft2(np.asarray(v, np.float64), axes=(1, 2))
        for v in (x, gate.apply(variables, x))
    )
    ratio = after / before
    assert np.abs(ratio.imag).max() < 1e-2
    assert ratio.real.min() > -1e-2
    assert ratio.real.max() < 2.01
    assert np.ptp(ratio.real) > 0.5


def test_zeros_have_a_finite_gradient():
    gate = amplitude.AmplitudeGate()
    x = jnp.zeros((1, 4, 4, 2))
    variables = gate.init(jax.random.key(0), x)
    gradient = jax.grad(lambda x: gate.apply(variables, x).sum())(x)
    assert np.isfinite(gradient).all()
