"""What all tests share: one compilation cache, and the folder beside the project."""

import gc
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Set before jax is imported: compiling small programs is most of a test.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# The tests' programs are tiny: compiling them well takes longer than running them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest

gc.set_threshold(20_000)


@pytest.fixture(scope="module", autouse=True)
def _kept_programs():
    """JAX keeps what it traced; the garbage collector need not look at it again.

    Of the tests of models, layers and evaluation it took 37 s of 238, with this 19.
    """
    yield
    gc.freeze()


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
