"""Joining, failing and leaving, in real processes.

Each launcher is what it puts into the environment, and a TPU VM is its metadata server;
JAX detects them and joins the processes itself.
"""

import contextlib
import http.server
import os
import re
import socket
import threading
import time

import pytest

from llie_jax import cluster
from tests import processes

LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_")
SLURM_STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "localhost,node[2-3]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "{i}",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "{i}",
    "OMPI_COMM_WORLD_LOCAL_RANK": "{i}",
}
EXPLICIT = {
    "JAX_COORDINATOR_ADDRESS": "127.0.0.1:{port}",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "{i}",
}
TWO_SLICES = {
    "JAX_FORCE_TPU_INIT": "1",  # as if there were a chip
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "{i}",
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
}
TPU_VM = {"JAX_FORCE_TPU_INIT": "1", "GCE_METADATA_IP": "127.0.0.1:{metadata}"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith((*LAUNCHERS, "JAX_COORD", "JAX_NUM", "JAX_PROCESS")):
            monkeypatch.delenv(name)


def start(what, variables, *, count=2, only=None, **places):
    """Starts the processes of a run, which get the launcher's variables."""
    port = places.pop("port", None) or free_port()
    started = []
    for i in range(count) if only is None else (only,):
        environment = {
            key: value.format(
                i=i, port=port, **{k: values[i] for k, values in places.items()}
            )
            for key, value in variables.items()
        }
        # Launchers pick the port by the job, and other tests may run beside this one.
        environment.setdefault("JAX_COORDINATOR_PORT", str(port))
        started.append(
            processes.start("tests.cluster_check", what, devices=1, **environment)
        )
    return started


def finish(started, timeout=120):
    """Returns (status, standard error) of each process."""
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, e) for p, e in zip(started, errors, strict=True)]


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers as the metadata server of a TPU VM."""

    def do_GET(self):
        attribute = self.path.rpartition("/")[2]
        self.server.asked.add(attribute)
        text = {
            "agent-worker-number": str(self.server.number),
            "worker-network-endpoints": "unknown:x:127.0.0.1,unknown:y:127.0.0.2",
            "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\n",
        }.get(attribute)
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def metadata_server(number):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.number, server.asked = number, set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def assert_one_run(started):
    found = [processes.result(process) for process in started]
    assert found == [{"number": i, "count": 2, "sum": 1} for i in (0, 1)]


def test_slurm_is_joined():
    assert_one_run(start("sum", SLURM_STEP))


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        OPEN_MPI,
        EXPLICIT,
        {**SLURM_STEP, "JAX_COORDINATOR_ADDRESS": "127.0.0.1:{port}"},
        TWO_SLICES,
    ],
    ids=["open_mpi", "explicit", "slurm_with_address", "two_slices"],
)
def test_clusters_are_joined(variables):
    assert_one_run(start("sum", variables))


@pytest.mark.slow
def test_a_newer_jax_joins_without_a_watch():
    started = start("newer", EXPLICIT)
    found = [process.communicate(timeout=120) for process in started]
    assert all('"count": 2, "sum": 1}' in out for out, _ in found), found
    assert all("the coordination service of jax" in err for _, err in found)


@pytest.mark.slow
def test_a_tpu_vm_asks_its_metadata_server():
    with metadata_server(0) as first, metadata_server(1) as second:
        ports = [server.server_port for server in (first, second)]
        assert_one_run(start("pod", TPU_VM, metadata=ports))
        assert "agent-worker-number" in first.asked & second.asked


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a shell in an allocation
        {**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {**SLURM_STEP, "JAX_NUM_PROCESSES": "1"},
    ],
)
def test_one_process_works_alone(monkeypatch, variables):
    """In this process, where JAX is in use: it could not join."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(i=0))
    before = dict(os.environ)
    with cluster.joined():
        pass
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, r"SLURM_NTASKS=4 .* 4 .*srun"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, r"OMPI_COMM_WORLD_SIZE=8"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, r"TPU_WORKER_HOSTNAMES=a,b says .* 2 proc"),
        ({"JOB_COMPLETION_INDEX": "3"}, r"JOB_COMPLETION_INDEX=3 .* 4 .*jax\[k8s\]"),
    ],
)
def test_several_tasks_never_train_alone(variables, message):
    [(status, error)] = finish(start("sum", variables, count=1))
    assert status == 1
    assert re.search(message + r".*JAX_NUM_PROCESSES=1", error), error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "host"}, "coordinator is 'host'; give HOST:PORT"),
        ({"process_id": 1}, "process id is 1, but there is no coordinator"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "2 processes have the ids 0 to 1",
        ),
        ({"num_processes": 0}, "number of processes is 0; give at least 1"),
    ],
)
def test_flags_that_contradict_each_other(arguments, message):
    with pytest.raises(ValueError, match=message), cluster.joined(**arguments):
        pass


def test_a_variable_that_is_no_number(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with (
        pytest.raises(ValueError, match=r"JAX_NUM_PROCESSES is 'two'; expected a"),
        cluster.joined(),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_never_comes(number):
    begun = time.monotonic()
    [(status, error)] = finish(start("sum", EXPLICIT | {"TIMEOUT": "3"}, only=number))
    assert time.monotonic() - begun < 60
    assert status == cluster.LOST
    reason = ["and not all of them came", "where process 0 does not answer"][number]
    assert re.search(
        rf"^error: process {number} of 2 on \S+ waited for the others at "
        rf"127\.0\.0\.1:\d+, {reason}.* within 3 seconds \(--start-timeout\)",
        error,
        re.MULTILINE,
    ), error
    assert "stack trace" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "culprit", "reason"),
    [
        ("fail", 1, "boom"),
        ("mistake", 0, "the data are missing"),
        ("late", 0, "too late"),
    ],
)
def test_an_exception_in_one_process_ends_all(what, culprit, reason):
    begun = time.monotonic()
    ended = finish(start(what, EXPLICIT), timeout=60)
    assert time.monotonic() - begun < 60
    status, error = ended.pop(culprit)
    assert status == 1
    assert f"ValueError: {reason}" in error
    [(status, error)] = ended
    assert status == 1  # a launcher that restarts after LOST does not repeat mistakes
    assert re.search(
        rf"^error: process {1 - culprit} of 2 on \S+ ends: process {culprit} of "
        rf"2 on \S+ failed: ValueError: {reason}\.",
        error,
        re.MULTILINE,
    ), error
    assert "stack trace" not in error


@pytest.mark.slow
def test_a_process_that_dies_while_another_waits_for_the_end():
    (status, error), (killed, _) = finish(start("kill", EXPLICIT), timeout=60)
    assert (status, killed) == (cluster.LOST, -9)
    assert "ends: process 1 of 2 is lost: it was killed" in error
    assert "Traceback" not in error
