"""The convolutional trunk of VGG, and readers for its published weights."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from llie_jax import files
from llie_jax.messages import suggest

VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)
"""Convolutions per block."""

_LAYOUTS = {"vgg16": VGG16, "vgg19": VGG19}
_TORCHVISION = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}


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
    layers = layer_names(convolutions)
    keys = {}
    for index, name in enumerate(layers):
        if name.startswith("conv"):
            keys[f"features.{index}.weight"] = name, "kernel"
            keys[f"features.{index}.bias"] = name, "bias"
    unknown = [
        key for key in tensors if key not in keys and not key.startswith("classifier.")
    ]
    needed = layers if taps is None else needed_layers(taps, convolutions)
    keys = {key: leaf for key, leaf in keys.items() if leaf[0] in needed}
    missing = [key for key in keys if key not in tensors]
    if missing or unknown:
        raise ValueError(
            f"These are not the tensors of torchvision's VGG with {convolutions} "
            f"convolutions (without batch normalisation): missing {missing}, "
            f"unknown {unknown}."
        )
    params = {}
    for key, (name, leaf) in keys.items():
        value = np.asarray(tensors[key], np.float32)
        if leaf == "kernel":
            value = np.ascontiguousarray(value.transpose(2, 3, 1, 0))
        params.setdefault(name, {})[leaf] = value
    return params


def load(
    path: str | os.PathLike | None = None,
    *,
    name: str = "vgg19",
    taps: Sequence[str] | None = None,
) -> dict:
    """Returns the parameters of "vgg19" or "vgg16" from a file.

    Args:
        path: a `.safetensors` file made by `llie-jax convert`, or torchvision's `.pth`
            (needs PyTorch, extra `torch`). None looks for `{name}.safetensors` in the
            folder of the environment variable LLIE_JAX_WEIGHTS, then in
            `~/.cache/llie_jax`.
        name: the layout.
        taps: if given, only the tensors these layers need are kept.

    Raises:
        FileNotFoundError: if the file is missing; the message says how to get it.
        ImportError: if a `.pth` is given and PyTorch is not installed.
        ValueError: if the file is damaged or holds another network.
    """
    convolutions = _LAYOUTS[name]
    path = find(path, name=name)
    if path.suffix in (".pth", ".pt"):
        return from_torch(_read_torch(path), convolutions=convolutions, taps=taps)
    try:
        flat = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); convert it again."
        ) from error
    layers = layer_names(convolutions)
    needed = layers if taps is None else needed_layers(taps, convolutions)
    wanted = {
        f"params/{layer}/{leaf}"
        for layer in needed
        if layer.startswith("conv")
        for leaf in ("kernel", "bias")
    }
    if missing := sorted(wanted - flat.keys()):
        raise ValueError(
            f"{path} does not hold {name}: {len(missing)} tensors are missing, the "
            f"first is {missing[0]!r}; the file has {', '.join(sorted(flat)[:4])}, ..."
        )
    kept = {key: flat[key] for key in sorted(wanted)}
    return traverse_util.unflatten_dict(kept, sep="/")["params"]


def find(path: str | os.PathLike | None = None, *, name: str = "vgg19") -> pathlib.Path:
    """Returns the path of a network's weights, see `load`.

    Raises:
        TypeError: if `path` is not a path.
        FileNotFoundError: if the file is missing; the message says how to get it.
    """
    if path is not None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"`weights` is the path of a weights file, not {path!r}; the factor on "
                "a term is `weight`."
            )
        places = [files.path(path).expanduser()]
    else:
        places = [pathlib.Path("~/.cache/llie_jax").expanduser()]
        if folder := os.environ.get("LLIE_JAX_WEIGHTS"):
            places.insert(0, files.path(folder).expanduser())
        places = [folder / f"{name}.safetensors" for folder in places]
    for place in places:
        if place.is_file():
            return files.local_copy(place)
    official = _TORCHVISION[name]
    raise FileNotFoundError(
        f"No weights of {name} at {' or '.join(map(str, places))}. Get torchvision's "
        f"{official} (IMAGENET1K_V1) from https://download.pytorch.org/models/{official},"
        f" run `llie-jax convert {official} {name}.safetensors`, and give that file as "
        "`weights` or put it in ~/.cache/llie_jax or the folder LLIE_JAX_WEIGHTS."
    )


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch `state_dict` file, without running its code."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyTorch: install the extra `torch` "
            "(pip install 'llie-jax[torch]'), or convert the file elsewhere."
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tensor.detach().numpy() for key, tensor in state.items()}
    except Exception as error:  # PyTorch raises many types for unreadable files
        raise ValueError(
            f"{path} is not a file of plain tensors that PyTorch can read "
            f"({type(error).__name__}); download it again."
        ) from error
