"""The only file that knows about devices and processes.

A step is written for one device, with collectives over the named axis "data".
`map_step` maps it over all devices of all processes: the batch is split, everything
else is the same on every device and keeps its plain shape.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"


def start() -> None:
    """Joins the other processes of a run, where there are any.

    Call it before any other JAX call. JAX detects SLURM, Open MPI, Kubernetes jobs and
    Cloud TPU slices (on GCE through the metadata server). Elsewhere set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each process.
    JAX_NUM_PROCESSES=1 without an address uses this process alone, whatever the cluster
    says. A task of SLURM or Open MPI gets one GPU unless JAX_LOCAL_DEVICE_IDS lists
    more.

    Raises:
        ValueError: if the processes cannot be joined, or if the environment says that
            there are several and JAX finds only this one: each would train by itself
            and write into the same folder.
    """
    if jax.distributed.is_initialized():
        return
    wanted = _number("JAX_NUM_PROCESSES")
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        _join(num_processes=wanted, process_id=_number("JAX_PROCESS_ID"))
        return
    announced = {"JAX_NUM_PROCESSES": wanted} if wanted else _announced()
    if announced and max(announced.values()) == 1:
        return  # JAX would leave a lone SLURM task a single GPU
    _join()
    variable = max(announced, key=announced.get, default=None)
    if variable and jax.process_count() == 1:
        raise ValueError(
            f"{variable}={os.environ[variable]} says that this run has "
            f"{announced[variable]} processes or more, but JAX finds only this one. "
            f"{_ALTERNATIVES.get(variable, _EXPLICIT)}; or set JAX_NUM_PROCESSES=1 to "
            "use this process alone."
        )


_EXPLICIT = (
    "Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each process"
)
_ALTERNATIVES = {
    "SLURM_NTASKS": "Start the command with srun",
    "JOB_COMPLETION_INDEX": "Install jax[k8s], or set JAX_COORDINATOR_ADDRESS, "
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID in each process",
}


def _announced() -> dict[str, int]:
    """Returns variable -> number of processes, as launchers announce it."""
    found = {
        "OMPI_COMM_WORLD_SIZE": _number("OMPI_COMM_WORLD_SIZE"),
        "PMI_SIZE": _number("PMI_SIZE"),
        "SLURM_STEP_NUM_TASKS": _number("SLURM_STEP_NUM_TASKS"),
    }
    # An allocation has its number of tasks from the start, also in a shell that is no
    # task; in an interactive step only the step's own number is right.
    launched = {"SLURM_PROCID", "SLURM_STEP_ID"} & os.environ.keys()
    if launched and found["SLURM_STEP_NUM_TASKS"] is None:
        found["SLURM_NTASKS"] = _number("SLURM_NTASKS")
    slices = _number("MEGASCALE_NUM_SLICES") or 1
    for variable in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if hosts := os.environ.get(variable):
            found[variable] = len(hosts.split(",")) * slices
    if slices > 1:
        found["MEGASCALE_NUM_SLICES"] = slices
    # The first pod of a job cannot tell how many there are.
    if index := _number("JOB_COMPLETION_INDEX"):
        found["JOB_COMPLETION_INDEX"] = index + 1
    return {variable: count for variable, count in found.items() if count}


def _number(variable: str) -> int | None:
    """Returns an environment variable as a number, None if it is absent.

    Raises:
        ValueError: if it is something else.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}; expected is a number.") from None


def _join(**known: int | None) -> None:
    """Joins the other processes if JAX finds any; what is not known it detects."""
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # A pod that is no part of an indexed job stands alone, and JAX would try its API.
    alone = "JOB_COMPLETION_INDEX" not in os.environ
    hidden = os.environ.pop("KUBERNETES_SERVICE_HOST", None) if alone else None
    try:
        jax.distributed.initialize(**known)
    except Exception as error:
        if "coordinator_address should be defined" in str(error):
            return  # how JAX says that it finds no cluster
        raise ValueError(
            "The processes of this run cannot find each other "
            f"({type(error).__name__}: {error}). {_EXPLICIT}, or only "
            "JAX_NUM_PROCESSES=1 to use this process alone."
        ) from error
    finally:
        if hidden is not None:
            os.environ["KUBERNETES_SERVICE_HOST"] = hidden


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices (or the given ones) along "data"."""
    return Mesh(np.asarray(devices or jax.devices()).reshape(-1), (AXIS,))


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises ValueError if a global batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        raise ValueError(
            f"{key} is {batch_size}, which {mesh.size} devices cannot share evenly; "
            f"use a multiple of {mesh.size}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of values that are the same on every device."""
    return NamedSharding(mesh, P())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch."""
    return NamedSharding(mesh, P(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts host values on every device; all processes must pass equal values."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
        tree,
    )


def replicate_key(rng: jax.Array, mesh: Mesh) -> jax.Array:
    """Puts a random key on every device."""
    data = replicate(jax.random.key_data(rng), mesh)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(rng))


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process; a barrier between them."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def own_part(values: np.ndarray) -> np.ndarray:
    """Returns the part of a global batch that this process loads."""
    share = len(values) // jax.process_count()
    return values[jax.process_index() * share :][:share]


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Makes a global batch of the part that this process loaded."""
    sharding = split(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch
    )


def gather(tree: Any) -> Any:
    """Returns values split over the batch as whole NumPy arrays, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def map_step(
    build: Callable[[str | None], Callable],
    mesh: Mesh,
    *,
    mapping: str = "shard_map",
) -> Callable:
    """Maps a training step over the devices of a mesh.

    Args:
        build: given the axis name, returns `step(state, constants, batch, rng) ->
            (state, terms)` for one device.
        mesh: from `make_mesh`.
        mapping: "shard_map", or "pmap" for one process only (the arrays that it
            returns belong to one process, and Orbax does not save those of several).

    Returns:
        The compiled function of the same arguments. `batch` is global, as
        `shard_batch` makes it; the old state is given up.

    Raises:
        ValueError: for an unknown mapping, or pmap with several processes.
    """
    step = build(AXIS)
    if mapping == "shard_map":
        # check_vma=True with pmean of the gradients would make them mesh.size times
        # too large: the transpose of the implicit broadcast already sums them.
        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(), P(AXIS), P()),
            out_specs=(P(), P()),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=0)
    if mapping != "pmap":
        raise ValueError(f"Unknown mapping {mapping!r}; use 'shard_map' or 'pmap'.")
    if jax.process_count() > 1:
        raise ValueError("pmap is for one process; use config.parallel='shard_map'.")
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
        out_axes=None,
        devices=list(mesh.devices.flat),
    )

    def run(state, constants, batch, rng):
        batch = jax.tree.map(
            lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]), batch
        )
        return mapped(state, constants, batch, rng)

    return run


def map_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """Maps `step(variables, batch)`, which gives values [B], over a mesh."""
    return jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(AXIS)),
            out_specs=P(AXIS),
            check_vma=False,
        )
    )
