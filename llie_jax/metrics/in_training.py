"""Fast metrics in JAX for training logs, one value per image.

They follow the default protocol (rounded to 8 bits, `rgb_uint8` and `gauss11`) and
agree with `metrics.compute` to 1e-3 dB and 1e-4. For published scores use
`metrics.compute`, which works in float64.
"""

import dm_pix
import jax
import jax.numpy as jnp

from llie_jax.metrics.ssim import SIGMA, WINDOW


def psnr(image: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the PSNR of each image in dB, [B]; infinity for equal images.

    Args:
        image: [B, H, W, 3] in [0, 1]; clipped and rounded to 8 bits.
        target: [B, H, W, 3] in [0, 1].
    """
    return dm_pix.psnr(_quantize(image), _quantize(target))


def ssim(image: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the SSIM of each image with the 11x11 Gaussian window, [B].

    Args:
        image: [B, H, W, 3] in [0, 1]; clipped and rounded to 8 bits.
        target: [B, H, W, 3] in [0, 1].

    Raises:
        ValueError: if the images are smaller than the window.
    """
    if min(image.shape[1:3]) < WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels; got "
            f"{image.shape[1]} x {image.shape[2]}."
        )
    return dm_pix.ssim(
        _quantize(image), _quantize(target), filter_size=WINDOW, filter_sigma=SIGMA
    )


def _quantize(image: jax.Array) -> jax.Array:
    image = jnp.clip(image.astype(jnp.float32), 0, 1)
    return jnp.round(255 * image) / 255
