"""The convolutional trunk of AlexNet."""

import jax
from flax import linen as nn

TAPS = ("relu1", "relu2", "relu3", "relu4", "relu5")
MINIMUM = 31
"""The smallest height and width that reaches the last layer, in pixels."""

TORCH_LAYERS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
}
"""torchvision's names -> ours."""

_CHANNELS = (64, 192, 384, 256, 256)
_KERNELS = (11, 5, 3, 3, 3)
_POOLED = (1, 2)  # layers that a max pooling follows


class AlexNet(nn.Module):
    """Five convolutions with ReLU, the first with stride 4, two of them pooled.

    Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks,
    arXiv 1404.5997; layers of torchvision.
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
                f"AlexNet needs at least {MINIMUM} x {MINIMUM} pixels; the image is "
                f"{height} x {width}."
            )
        features, x = {}, image
        for layer, (channels, side) in enumerate(
            zip(_CHANNELS, _KERNELS, strict=True), start=1
        ):
            stride, padding = (4, 2) if layer == 1 else (1, side // 2)
            x = nn.Conv(
                channels, (side, side), stride, padding=padding, name=f"conv{layer}"
            )(x)
            x = features[f"relu{layer}"] = nn.relu(x)
            if layer in _POOLED:
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
        return features
