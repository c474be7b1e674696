"""The convolutional trunk of SqueezeNet 1.1."""

import jax
import jax.numpy as jnp
from flax import linen as nn

TAPS = ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")
MINIMUM = 17
"""The smallest height and width that reaches the last layer, in pixels."""

# Channels of the squeezing and of each expanding convolution.
_FIRES = {
    "fire2": (16, 64),
    "fire3": (16, 64),
    "fire4": (32, 128),
    "fire5": (32, 128),
    "fire6": (48, 192),
    "fire7": (48, 192),
    "fire8": (64, 256),
    "fire9": (64, 256),
}
_POOLED = ("relu1", "fire3", "fire5")  # layers that a max pooling follows

TORCH_LAYERS = {"features.0": "conv1"} | {
    f"features.{place}.{theirs}": f"{fire}/{ours}"
    for place, fire in zip((3, 4, 6, 7, 9, 10, 11, 12), _FIRES, strict=True)
    for theirs, ours in (
        ("squeeze", "squeeze"),
        ("expand1x1", "expand1"),
        ("expand3x3", "expand3"),
    )
}
"""torchvision's names -> ours."""


class Fire(nn.Module):
    """Squeezes the channels, then expands them by 1x1 and 3x3 convolutions.

    Attributes:
        squeezed: channels in between.
        expanded: channels of each expanding convolution.
    """

    squeezed: int
    expanded: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features [B, H, W, 2 * expanded]."""
        x = nn.relu(nn.Conv(self.squeezed, (1, 1), name="squeeze")(x))
        one = nn.Conv(self.expanded, (1, 1), name="expand1")(x)
        three = nn.Conv(self.expanded, (3, 3), padding=1, name="expand3")(x)
        return nn.relu(jnp.concatenate([one, three], axis=-1))


class SqueezeNet(nn.Module):
    """One convolution with stride 2, then eight `Fire` modules.

    Source: Iandola et al., SqueezeNet, arXiv 1602.07360; version 1.1 of the authors'
    code, layers of torchvision.
    """

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the features at each of `TAPS`, name -> [B, h, w, channels].

        Args:
            image: [B, H, W, 3], normalised as the weights expect.

        Raises:
            ValueError: if the image is smaller than `MINIMUM`.
        """
        height, width = image.shape[1:3]
        if min(height, width) < MINIMUM:
            raise ValueError(
                f"SqueezeNet needs at least {MINIMUM} x {MINIMUM} pixels; the image is "
                f"{height} x {width}."
            )
        x = nn.relu(nn.Conv(64, (3, 3), 2, padding="VALID", name="conv1")(image))
        features = {"relu1": x}
        x = _pool(x)
        for name, (squeezed, expanded) in _FIRES.items():
            x = features[name] = Fire(squeezed, expanded, name=name)(x)
            if name in _POOLED:
                x = _pool(x)
        return {name: features[name] for name in TAPS}


def _pool(x: jax.Array) -> jax.Array:
    """Returns 3x3 maxima at every second place; windows may reach over the edge."""
    padding = [(0, (side - 3) % 2) for side in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
