"""With the extra `tpu` on a machine without a TPU, commands run as without it."""

import glob
import os
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_libtpu_stays_calm(tmp_path):
    pytest.importorskip("libtpu", reason="needs the extra tpu")
    if glob.glob("/dev/accel*"):
        pytest.skip("there is a TPU")
    # The suite runs on the CPU alone; a user's machine tries every platform.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TPU_")}
    environment.pop("JAX_PLATFORMS", None)
    code = "import jax; from llie_jax.cli import main; main.guarded(jax.devices)"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - begun < 60
    assert (done.stdout, done.stderr) == ("", "")
