"""Programs compiled ahead of time, in an LRU cache that really frees them.

A program compiled by `jax.jit` lives as long as its function: a folder of photos of 200
sizes would keep 200 programs. Here the least recently used program is evicted and its
memory is freed.
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
"""Maximum number of programs alive at once."""

Structure = Hashable
"""Names, shapes and dtypes of a tree of arrays."""


def structure(tree: Any) -> Structure:
    """Returns what a program depends on in a tree of arrays: all but the values."""
    leaves, names = jax.tree.flatten(tree)
    return names, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


class Programs:
    """An LRU cache of programs.

    Args:
        limit: maximum number of programs.
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
        """Evicts all programs."""
        with self._lock:
            self._programs.clear()

    def get(self, key: Hashable, compiled: Callable[[], Any]) -> Any:
        """Returns the program of a key, calling `compiled` if it is not cached."""
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
                return self._programs[key]
            # Evict first: an old and a new large program need not fit together.
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
    """Makes the C library return memory that the compiler has freed.

    glibc keeps it in small pieces: 1 MB per program of a small network.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


PROGRAMS = Programs()
"""The cache that all enhancers of this process share."""


class Program:
    """A step mapped over a mesh and compiled ahead of time for one batch shape.

    Args:
        step: `step(constants, batch)` for one device; returns an array [B, ...].
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
        """Returns the output for this process's part of a batch, as NumPy arrays."""
        result = self._compiled(constants, batch=self._placed(batch))
        return parallel.own_rows(result, mapping=self._mapping)

    @property
    def memory(self) -> int:
        """Device memory in bytes: arguments, temporaries, output and code."""
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
        step: a module-level function; its programs are cached by it, the settings and
            the shapes.
        *settings: static arguments.
        constants: arrays on one device, and NumPy arrays.
    """
    key = (step, settings, structure(constants))
    program = PROGRAMS.get(
        key,
        lambda: jax.jit(functools.partial(step, *settings)).lower(constants).compile(),
    )
    return program(constants)
