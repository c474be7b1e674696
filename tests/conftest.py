"""Shared by all tests: a compilation cache, and the folder beside the project."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Set before jax is imported: compiling small programs is most of a test.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# The tests' programs are tiny: optimising them takes longer than running them. The old
# emitters compile in half of the time and memory; jaxlib 0.12 has none, and XLA aborts
# at a flag that it does not know. `XLA_FLAGS= make test` runs the tests as users'
# programs are compiled.
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)

import jax
import pytest

# JAX makes many small objects that live long: looking through them takes a tenth of
# the suite's time.
gc.set_threshold(50_000, 20, 100)

_MEMORY = 0.8e9
"""Bytes that a process of the suite may hold before it frees JAX's programs."""


@pytest.fixture(scope="module", autouse=True)
def _programs_are_freed():
    """JAX keeps what it traced and compiled: gigabytes by the end of the suite."""
    yield
    if _resident_bytes() > _MEMORY:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> float:
    """The memory of this process; infinite where it cannot be read."""
    statistics = pathlib.Path("/proc/self/statm")
    if not statistics.exists():
        return float("inf")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session", autouse=True)
def _networks_of_this_machine_are_hidden(tmp_path_factory):
    """What is installed or cached here changes the columns of protocols."""
    from llie_jax.features import packages, weights

    empty = tmp_path_factory.mktemp("cache") / "llie_jax"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "cache", lambda: empty)
        patch.setattr(packages, "locate", lambda file: None)
        patch.delenv("LLIE_JAX_WEIGHTS", raising=False)
        patch.setenv("TORCH_HOME", str(empty))
        yield


@pytest.fixture
def native_convolutions():
    """Models compile in half of the time; the CPU's forms have tests of their own."""
    from llie_jax.nn import conv_kernels

    with conv_kernels.use_implementation("lax"):
        yield


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of goldens and real data beside the project; skips without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the reference data in {folder}, which is absent")
    return folder


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The golden files that belong to the project (see tests/golden/README.md)."""
    return ROOT / "tests" / "golden"
