"""Starting the processes of a run: what launchers announce, and what JAX finds.

The clusters are faked by their environment variables; `jax.distributed.initialize` is
JAX's own up to the point where it would join.
"""

import os
import subprocess
import sys

import jax
import pytest

from llie_jax import parallel
from tests.conftest import ROOT

LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_")
SLURM_STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
GKE_TPU = {
    "TPU_WORKER_HOSTNAMES": "localhost,127.0.0.1",
    "TPU_WORKER_ID": "1",
    "TPU_SKIP_MDS_QUERY": "1",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets only the variables of a launcher."""
    for name in list(os.environ):
        if name.startswith((*LAUNCHERS, "JAX_COORD", "JAX_NUM", "JAX_PROCESS")):
            monkeypatch.delenv(name)

    def set_all(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.fixture
def joined(monkeypatch):
    """Lets JAX detect the cluster; returns a list of (address, processes, id)."""
    from jax._src import cloud_tpu_init, distributed
    from jax._src.clusters import cloud_tpu_cluster

    found = []

    def connect(state, address=None, num_processes=None, process_id=None, *rest, **_):
        arguments = [address or os.environ.get("JAX_COORDINATOR_ADDRESS")]
        arguments += [num_processes, process_id]
        if None in arguments:
            *arguments, _ = (
                distributed.clusters.ClusterEnv.auto_detect_unset_distributed_params(
                    *arguments, None, None, 10
                )
            )
        if arguments[0] is None:
            raise ValueError("coordinator_address should be defined.")
        found.append(tuple(arguments))

    monkeypatch.setattr(distributed.State, "initialize", connect)
    monkeypatch.setattr(distributed.xla_bridge, "backends_are_initialized", bool)
    for module in (cloud_tpu_init, cloud_tpu_cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", False)

    def no_network(key):
        raise AssertionError(f"the metadata server was asked for {key}")

    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", no_network)
    return found


def several(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a shell in an allocation
        {**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},
        {**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {**SLURM_STEP, "JAX_NUM_PROCESSES": "1"},
        {"JOB_COMPLETION_INDEX": "0"},
    ],
)
@pytest.mark.filterwarnings("error")
def test_one_process_starts_alone(environment, joined, variables):
    environment(variables)
    before = dict(os.environ)
    parallel.start()
    assert joined == []
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (SLURM_STEP, ("node1", 2, 1)),
        (OPEN_MPI, ("10.96.0.1", 4, 3)),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "a:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "0",
            },
            ("a", 2, 0),
        ),
        (
            {**SLURM_STEP, "JAX_COORDINATOR_ADDRESS": "a:1"},
            ("a", 2, 1),
        ),
    ],
)
def test_clusters_are_joined(environment, joined, monkeypatch, variables, expected):
    environment(variables)
    several(monkeypatch)
    parallel.start()
    [(address, *numbers)] = joined
    assert (address.split(":")[0], *numbers) == expected


@pytest.mark.parametrize("slices", [1, 2])
def test_tpu_pods_are_joined(environment, joined, monkeypatch, slices):
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    # JAX queries the number of slices if no variable gives it.
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: ("", 404))
    environment(GKE_TPU)
    if slices > 1:
        environment(
            {
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
            }
        )
    several(monkeypatch)
    parallel.start()
    assert joined == [("localhost:8482", 2 * slices, 1 + 2 * (slices - 1))]


def test_a_tpu_vm_asks_the_metadata_server(environment, joined, monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    answers = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "localhost,127.0.0.1",
        "tpu-env": "",
    }
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda k: (answers[k], 200))
    parallel.start()
    assert joined == [("localhost:8482", 2, 1)]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, r"SLURM_NTASKS=4 .* 4 .*srun"),
        (SLURM_STEP, r"SLURM_STEP_NUM_TASKS=2 says that this run has 2 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, r"OMPI_COMM_WORLD_SIZE=8"),
        ({"PMI_SIZE": "3"}, r"PMI_SIZE=3"),
        (GKE_TPU, r"TPU_WORKER_HOSTNAMES=localhost,127.0.0.1 says .* 2 proc"),
        ({"MEGASCALE_NUM_SLICES": "2"}, r"MEGASCALE_NUM_SLICES=2"),
        ({"JAX_NUM_PROCESSES": "2"}, r"JAX_NUM_PROCESSES=2 .*JAX_COORDINATOR_ADDRESS"),
        ({"JOB_COMPLETION_INDEX": "3"}, r"JOB_COMPLETION_INDEX=3 .* 4 .*jax\[k8s\]"),
    ],
)
def test_several_tasks_never_train_alone(environment, joined, variables, message):
    environment(variables)
    with pytest.raises(ValueError, match=message + r".*JAX_NUM_PROCESSES=1"):
        parallel.start()


def test_what_jax_cannot_join_is_one_clear_line(environment, joined, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    environment(SLURM_STEP)
    with pytest.raises(ValueError, match=r"cannot find each other .*DEADLINE_EXCEEDED"):
        parallel.start()
    environment({"JAX_NUM_PROCESSES": "two"})
    with pytest.raises(ValueError, match=r"JAX_NUM_PROCESSES is 'two'; expected a"):
        parallel.start()


@pytest.mark.parametrize(
    ("variables", "refused"),
    [({}, False), ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, True)],
)
def test_in_a_process_of_its_own(environment, variables, refused):
    environment(variables)
    code = (
        "import time; from llie_jax import parallel; begun = time.perf_counter();"
        "parallel.start(); print(time.perf_counter() - begun)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if refused:
        assert "ValueError: SLURM_NTASKS=2" in done.stderr
    else:
        assert float(done.stdout) < 1, done.stderr
