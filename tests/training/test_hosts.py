"""A run of several hosts needs a folder that all of them see."""

import shutil
import socket
import subprocess
import sys

import pytest

from tests import processes
from tests.test_cluster import free_port
from tests.training import toys
from tests.training.test_processes import EXPERIMENT

OTHER = "localhost"
"""The name of the second host, which collectives can look up."""


@pytest.mark.slow
def test_a_local_folder_is_warned_of(tmp_path, monkeypatch):
    """The second process is a host of its own by its name."""
    unshare = [shutil.which("unshare") or "unshare", "--uts"]
    try:
        subprocess.run([*unshare, "hostname", OTHER], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to give a process a host name of its own")
    path = tmp_path / "experiment.py"
    root = toys.write_pairs(tmp_path / "pairs")
    path.write_text(EXPERIMENT.format(root=str(root), steps=2))
    command = ["llie_jax.cli.main", "train", "--config", path]
    command += ["--workdir", tmp_path / "run", "--num-processes", 2]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--process-id"]
    started = [processes.start(*command, 0, devices=1)]
    elsewhere = tmp_path / "python"
    elsewhere.write_text(
        f"#!/bin/sh\nexec {' '.join(unshare)} sh -c "
        f'\'hostname {OTHER}; exec {sys.executable} "$@"\' - "$@"\n'
    )
    elsewhere.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(elsewhere))
    started.append(processes.start(*command, 1, devices=1))
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    hosts = ", ".join(sorted([OTHER, socket.gethostname()]))
    expected = f"{tmp_path / 'run'} is a local path, and the run has 2 hosts ({hosts})."
    assert f"note: {expected}" in errors[0]
    assert expected not in errors[1]
