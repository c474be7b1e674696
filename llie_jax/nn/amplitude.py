"""A gate on the amplitudes of the Fourier spectrum of features."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax.nn import fourier, layers
from llie_jax.nn.layers import Layer
from llie_jax.registry import Card, register

KIND = "amplitude"


@register("amplitude_gate", Card(KIND))
class AmplitudeGate(Layer):
    """Scales the amplitudes of the Fourier spectrum; the phases stay.

    Amplitudes carry the illumination of a photo, phases its structure. The gate of each
    frequency is computed from its amplitudes; it starts at 1.

    Source: the observation of Li et al., Embedding Fourier for Ultra-High-Definition
    Low-Light Image Enhancement, ICLR 2023; DarkIR and FLOL use it too.
    Differs: a bounded gate multiplies the spectrum, so that no angle is computed.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, C]."""
        channels = x.shape[-1]
        conv = functools.partial(layers.Conv, channels, (1, 1), **self.types)
        zeros = nn.initializers.zeros
        spectrum = fourier.rfft2(x.astype(jnp.float32))
        # Below the threshold, the square of the amplitude would underflow.
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        y = nn.relu(conv(name="expand")(0.5 * jnp.log1p(power)))
        y = conv(name="gate", kernel_init=zeros, bias_init=zeros)(y)
        gate = 2 * nn.sigmoid(y.astype(jnp.float32))
        y = fourier.irfft2(spectrum * gate, x.shape[1:3])
        return y.astype(x.dtype)


@register("identity", Card(KIND))
class Identity(layers.Identity):
    """Leaves the spectrum as it is: no gate."""
