"""Puts the networks behind losses and metrics into the cache, from files at hand."""

import hashlib
import os
import pathlib
import re

from llie_jax import messages
from llie_jax.features import alexnet, lpips, squeezenet, vgg, weights

_TRUNKS = {
    "alexnet": alexnet.TORCH_LAYERS,
    "vgg16": vgg.torch_layers(vgg.VGG16),
    "vgg19": vgg.torch_layers(vgg.VGG19),
    "squeezenet": squeezenet.TORCH_LAYERS,
}
_PUBLISHED_HASH = re.compile(r"-([0-9a-f]{8})\.pth")


def fetch_file(path: str | os.PathLike) -> pathlib.Path:
    """Converts a file of torchvision, or the heads of `lpips`; returns the result.

    Args:
        path: the `.pth`; its tensors tell which network it is.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if PyTorch is not installed.
        ValueError: if it holds none of the known networks.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    tensors = weights.read(path)
    name = _recognise(tensors)
    if name is None:
        raise ValueError(
            f"{path} holds none of the networks {', '.join(weights.NETWORKS)}; its "
            f"tensors are {messages.listed(tensors, limit=4)}."
        )
    published = _PUBLISHED_HASH.search(weights.NETWORKS[name].file)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if published and not found.startswith(published[1]):
        messages.note(
            f"{path} is not torchvision's published file: the name of that one gives "
            f"its hash as {published[1]}, this one's is {found[:8]}."
        )
    flat, source = _load(name, path)
    out = weights.places(f"{name}.safetensors")[-1]
    weights.write(out, flat, source)
    return out


def fetch(name: str) -> pathlib.Path | None:
    """Returns the file of a network in the cache, made of what is installed here.

    Looks at installed packages, and where torchvision keeps what it has downloaded.

    Args:
        name: one of `weights.NETWORKS`.

    Returns:
        The file, None if the network is nowhere.
    """
    for place in weights.places(f"{name}.safetensors"):
        if place.is_file():
            return place
    network = weights.NETWORKS[name]
    if network.package and network.package.locate():
        _load(name, None)
        return weights.places(f"{name}.safetensors")[-1]
    home = pathlib.Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser()
    kept = home / "hub" / "checkpoints" / network.file
    return fetch_file(kept) if kept.is_file() else None


def _load(name: str, path: pathlib.Path | None):
    if name in _TRUNKS:
        return weights.load_trunk(name, _TRUNKS[name], path=path)
    taps = lpips.NETS[name.removeprefix("lpips_")].taps
    return weights.load_heads(name, len(taps), path=path)


def _recognise(tensors) -> str | None:
    """Returns the network that tensors by torchvision's names belong to."""
    convolutions = {
        key.rpartition(".")[0]
        for key, value in tensors.items()
        if key.startswith("features.") and value.ndim == 4
    }
    for name, layers in _TRUNKS.items():
        if convolutions == layers.keys():
            return name
    channels = [value.size for key, value in sorted(tensors.items()) if "lin" in key]
    for net in lpips.NETS:
        heads = lpips.shapes(net)["heads"]
        if channels == [head.shape[0] for head in heads]:
            return f"lpips_{net}"
    return None
