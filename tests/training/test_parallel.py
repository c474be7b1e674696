"""The same step on 1 and 8 devices, and in two processes: equal, also with SGD."""

import socket

import numpy as np
import pytest

from tests import processes
from tests.processes import result


def start(devices, model="toy", steps=5, **environment):
    return processes.start(
        "tests.training.parallel_check",
        model,
        steps,
        devices=devices,
        **environment,
    )


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


RULES = ("lfpv:released:shared", "lfpv:paper:per_sample")


def assert_equal_updates(a, b, tolerance):
    """Bank, loss and gradients after one step, by their largest value."""
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=tolerance)
    for key in ("bank", "gradients"):
        found, wanted = np.asarray(a[key]), np.asarray(b[key])
        assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()
        assert np.std(wanted) > 0.01


@pytest.mark.slow
def test_the_bank_is_the_same_on_two_devices():
    found = result(start(2, RULES[0], steps=1))
    assert_equal_updates(found["shard_map"], found["one"], 1e-5)
    assert found["shard_map"]["replicas_equal"]


@pytest.mark.slow
@pytest.mark.parametrize("model", RULES)
def test_banks_stay_identical_for_fifty_steps(model):
    # As users compile: the flags of the suite round differently by batch size.
    found = result(start(8, model, steps=50, flags=""))
    for devices in ("two", "shard_map"):
        assert_equal_updates(found[devices], found["one"], 1e-5)
        assert found[devices]["replicas_equal"]
        assert found[devices]["finite"]


def two_processes(model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        start(
            2,
            model,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    return [result(process) for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["toy", *RULES])
def test_two_processes_of_two_devices_equal_one_of_four(model):
    found, *_ = two_processes(model)
    assert found["devices"] == 4
    assert found["shard_map"]["replicas_equal"]
    compare = assert_equal if model == "toy" else assert_equal_updates
    compare(found["shard_map"], result(start(4, model))["one"], 1e-5)
