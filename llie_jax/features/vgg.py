"""The convolutional trunk of VGG, and readers for its published weights."""

import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from llie_jax.features import weights
from llie_jax.messages import suggest

VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)
"""Convolutions per block."""

LAYOUTS = {"vgg16": VGG16, "vgg19": VGG19}


def layer_names(convolutions: Sequence[int] = VGG19) -> list[str]:
    """Returns the trunk's layers in order: "conv1_1", "relu1_1", ..., "pool1", ...

    The position of a layer is its index in torchvision's `features`.
    """
    names = []
    for block, count in enumerate(convolutions, start=1):
        for place in range(1, count + 1):
            names += [f"conv{block}_{place}", f"relu{block}_{place}"]
        names.append(f"pool{block}")
    return names


class VGG(nn.Module):
    """The trunk of VGG: blocks of 3x3 convolutions with ReLU, pooled by 2 between.

    Source: Simonyan and Zisserman, ICLR 2015; layer order of torchvision.

    Attributes:
        taps: layers to return, from `layer_names`; later layers are not run.
        convolutions: convolutions per block, `VGG19` or `VGG16`.
        width: channels of the first block; they double up to 8 times that. Published
            weights have 64.
    """

    taps: tuple[str, ...]
    convolutions: tuple[int, ...] = VGG19
    width: int = 64

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the features at each tap, name -> [B, H/2^n, W/2^n, channels].

        Args:
            image: [B, H, W, 3], normalised as the weights expect.

        Raises:
            ValueError: if no tap is given or one is unknown, or the image is too small
                for the last one.
        """
        layers = needed_layers(self.taps, self.convolutions)
        smallest = 2 ** sum(name.startswith("pool") for name in layers)
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"VGG needs at least {smallest} x {smallest} pixels for "
                f"{layers[-1]!r}; the image is {image.shape[1]} x {image.shape[2]}."
            )
        features = {}
        x = image
        for name in layers:
            if name.startswith("conv"):
                block = int(name[len("conv") : name.index("_")])
                channels = self.width * min(2 ** (block - 1), 8)
                x = nn.Conv(channels, (3, 3), padding=1, name=name)(x)
            elif name.startswith("relu"):
                x = nn.relu(x)
            else:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            if name in self.taps:
                features[name] = x
        return features


def needed_layers(
    taps: Sequence[str], convolutions: Sequence[int] = VGG19
) -> list[str]:
    """Returns the layers up to the last tap.

    Raises:
        ValueError: if no tap is given, or one is unknown.
    """
    layers = layer_names(convolutions)
    for tap in taps:
        if tap not in layers:
            raise ValueError(
                f"VGG has no layer {tap!r}.{suggest(tap, layers)} "
                f"Layers: {', '.join(layers)}."
            )
    if not taps:
        raise ValueError("VGG needs at least one tap, for example ('relu5_1',).")
    return layers[: max(layers.index(tap) for tap in taps) + 1]


def from_torch(
    tensors: Mapping[str, np.ndarray],
    *,
    convolutions: Sequence[int] = VGG19,
    taps: Sequence[str] | None = None,
) -> dict:
    """Returns the trunk's parameters from torchvision's tensors.

    Args:
        tensors: `features.{index}.weight` [O, I, 3, 3] and `.bias` [O]; `classifier.*`
            is ignored.
        convolutions: convolutions per block, `VGG19` or `VGG16`.
        taps: if given, only the tensors these layers need are required and read.

    Returns:
        {"conv1_1": {"kernel": [3, 3, I, O], "bias": [O]}, ...}

    Raises:
        ValueError: if keys are missing or unknown; the message lists both.
    """
    flat = weights.convolutions(
        tensors,
        torch_layers(convolutions),
        needed=_needed(convolutions, taps),
        what=f"torchvision's VGG with {convolutions} convolutions "
        "(without batch normalisation)",
    )
    return traverse_util.unflatten_dict(flat, sep="/")


def torch_layers(convolutions: Sequence[int] = VGG19) -> dict[str, str]:
    """Returns torchvision's names of the convolutions -> ours."""
    return {
        f"features.{index}": name
        for index, name in enumerate(layer_names(convolutions))
        if name.startswith("conv")
    }


def load(
    path: str | os.PathLike | None = None,
    *,
    name: str = "vgg19",
    taps: Sequence[str] | None = None,
) -> dict:
    """Returns the parameters of "vgg19" or "vgg16".

    Args:
        path: a `.safetensors` file made by `llie-jax features fetch` or `llie-jax
            convert`, or torchvision's `.pth` (needs PyTorch, extra `torch`). None looks
            for `{name}.safetensors` in the folder of the environment variable
            LLIE_JAX_WEIGHTS, in `~/.cache/llie_jax`, then in installed packages.
        name: the layout.
        taps: if given, only the tensors these layers need are kept.

    Raises:
        FileNotFoundError: if it is nowhere; the message says how to get it.
        ImportError: if a `.pth` is given and PyTorch is not installed.
        ValueError: if the file is damaged or holds another network.
    """
    convolutions = LAYOUTS[name]
    flat, _ = weights.load_trunk(
        name, torch_layers(convolutions), path=path, needed=_needed(convolutions, taps)
    )
    return traverse_util.unflatten_dict(flat, sep="/")


def _needed(convolutions: Sequence[int], taps: Sequence[str] | None) -> dict[str, str]:
    """Returns the part of `torch_layers` that the taps need; all for None."""
    layers = torch_layers(convolutions)
    if taps is None:
        return layers
    needed = needed_layers(taps, convolutions)
    return {key: name for key, name in layers.items() if name in needed}
