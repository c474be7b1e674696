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
    """Joins the other processes where there are any; call before any other JAX call.

    A TPU pod is recognised by itself. Elsewhere set JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID in each process.
    """
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment:
        if "cpu" in environment.get("JAX_PLATFORMS", ""):
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            coordinator_address=environment["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(environment["JAX_NUM_PROCESSES"]),
            process_id=int(environment["JAX_PROCESS_ID"]),
        )
    elif "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize()


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
