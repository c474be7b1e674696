"""Compiled programs: each made ahead of time, the last few kept, the others freed.

What `jax.jit` compiles lives as long as the function: a folder of photos of 200 sizes
would keep 200 programs. Here, the least recently used is given up and its memory is
free again.
"""

import collections
import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax

from llie_jax import parallel
from llie_jax.parallel import Mesh

LIMIT = 12
"""Programs that are alive at once."""

Structure = Hashable
"""Names, shapes and dtypes of a tree of arrays."""


def structure(tree: Any) -> Structure:
    """Returns what a program depends on of a tree of arrays: all but the values."""
    leaves, names = jax.tree.flatten(tree)
    return names, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


class Programs:
    """Programs by what they depend on; at most `limit`, the most recently used.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int = LIMIT):
        self._limit = limit
        self._programs: collections.OrderedDict[Hashable, Any] = (
            collections.OrderedDict()
        )
        self._given_up = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Returns how many programs are alive."""
        return len(self._programs)

    def clear(self) -> None:
        """Gives up all programs."""
        with self._lock:
            self._programs.clear()

    def get(self, key: Hashable, compiled: Callable[[], Any]) -> Any:
        """Returns the program of a key, made by `compiled` if it is not alive."""
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
                return self._programs[key]
            # Room first: a large program and its successor need not fit at once.
            full = len(self._programs) >= self._limit
            while len(self._programs) >= self._limit:
                self._programs.popitem(last=False)
                self._given_up += 1
            program = self._programs[key] = compiled()
            if full:
                if self._given_up % self._limit == 0:
                    _forget_traces()
                _return_memory()
            return program


def _forget_traces() -> None:
    """Drops what JAX keeps of traced functions, up to 2 MB for each size of an image.

    It keeps the traces of each function inside a model, by shape, for as long as the
    function lives. Compiled functions stay: a training step is not compiled again,
    which `jax.clear_caches` would do to it.
    """
    # JAX has no public name for it; without it, more memory is used, nothing else.
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import util

        util.clear_all_caches()


def _return_memory() -> None:
    """Has the C library return memory that the compiler has freed.

    glibc keeps it in small pieces: 1 MB for each program of a small network.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


PROGRAMS = Programs()
"""The programs of this process."""


class Program:
    """A step that is compiled ahead of time, for one shape, mapped over a mesh.

    Args:
        step: `step(constants, batch)` for one device; gives an array [B, ...].
        mesh: the devices.
        mapping: one of `parallel.MAPPINGS`.
        constants: arrays on all devices.
        batch: this process's part of a batch, NumPy arrays [b, ...].
    """

    def __init__(
        self,
        step: Callable[[Any, Any], jax.Array],
        mesh: Mesh,
        mapping: str,
        constants: Any,
        batch: Any,
    ):
        self._mesh, self._mapping = mesh, mapping
        mapped = parallel.map_eval_step(step, mesh, mapping=mapping)
        self._compiled = mapped.lower(constants, batch=self._placed(batch)).compile()

    def __call__(self, constants: Any, batch: Any) -> Any:
        """Returns the rows of this process's part of a batch, as NumPy arrays."""
        result = self._compiled(constants, batch=self._placed(batch))
        return parallel.own_rows(result, mapping=self._mapping)

    @property
    def memory(self) -> int:
        """Bytes that the program needs on a device: arguments, temporaries, result."""
        sizes = self._compiled.memory_analysis()
        return sum(
            getattr(sizes, f"{kind}_size_in_bytes")
            for kind in ("argument", "temp", "output", "generated_code")
        )

    def _placed(self, batch):
        return parallel.shard_batch(batch, self._mesh, mapping=self._mapping)


def run(
    step: Callable[[Any, Any], jax.Array], *settings: Hashable, constants: Any
) -> Any:
    """Returns `step(*settings, constants)`, run on the device of the constants.

    Args:
        step: a function of this module's callers; its programs are kept by it, the
            settings, and shapes.
        *settings: what is known when the program is compiled.
        constants: arrays on one device, and NumPy arrays.
    """
    key = (step, settings, structure(constants))
    program = PROGRAMS.get(
        key,
        lambda: jax.jit(functools.partial(step, *settings)).lower(constants).compile(),
    )
    return program(constants)
