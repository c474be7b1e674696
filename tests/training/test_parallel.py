"""The same step on 1 and 8 devices, and in two processes: equal, also with SGD."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT


def start(devices, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.parallel_check"],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    # Gloo writes greetings to standard output too.
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def assert_equal(a, b, tolerance):
    np.testing.assert_allclose(a["state"], b["state"], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=tolerance)
    np.testing.assert_allclose(a["gradient_norm"], b["gradient_norm"], rtol=tolerance)


@pytest.fixture(scope="module")
def eight():
    return result(start(8))


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_eight_devices_equal_one(eight, mapping):
    assert eight["devices"] == 8
    assert_equal(eight[mapping], eight["one"], 1e-5)


def test_replicas_stay_identical(eight):
    assert eight["shard_map"]["replicas_equal"]


@pytest.mark.slow
def test_two_processes_of_two_devices_equal_one_of_four():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        start(
            2,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    found = [result(process) for process in processes]
    assert found[0]["devices"] == 4
    assert_equal(found[0]["shard_map"], result(start(4))["one"], 1e-5)
