"""Python modules run in processes of their own, with several CPU devices each."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT


def start(module, *arguments, devices, flags=None, **environment):
    """Starts `python -m module arguments` with `devices` CPU devices.

    XLA's flags are those of this process, unless `flags` are given.
    """
    flags = os.environ.get("XLA_FLAGS", "") if flags is None else flags
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    """Returns the JSON object that a process printed, or None."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    # Gloo prints its greeting to standard output too.
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None
