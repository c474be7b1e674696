"""The only file that knows about devices; `cluster` joins the processes.

A step is written for one device, with collectives over the named axis "data".
`map_step` and `map_eval_step` map it over all devices of all processes: the batch is
split, everything else is the same on every device and keeps its plain shape.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llie_jax import messages

AXIS = "data"

MAPPINGS = ("shard_map", "pmap")
"""How a step is mapped over devices; `pmap` supports one process only."""


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices (or the given ones) along "data"."""
    return Mesh(np.asarray(devices or jax.devices()).reshape(-1), (AXIS,))


def one_device(mesh: Mesh | None = None) -> Mesh:
    """Returns a mesh of this process's first device (in `mesh`, if given)."""
    return make_mesh((jax.local_devices() if mesh is None else mesh.local_devices)[:1])


def local_mesh() -> Mesh:
    """Returns the mesh of this process's devices, for work it does alone."""
    return make_mesh(jax.local_devices())


def process_index() -> int:
    """Returns the number of this process, from 0."""
    return jax.process_index()


def process_count() -> int:
    """Returns the number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Returns whether this is the process that writes files."""
    return jax.process_index() == 0


def note(text: str) -> None:
    """Warns with a `messages.Note` of what all processes find alike: the first does."""
    if is_first():
        messages.note(text)


def device_kind() -> str:
    """Returns the kind of this process's devices, as JAX names it."""
    return jax.local_devices()[0].device_kind


def peak_memory() -> int | None:
    """Returns the most bytes that were in use at once on a device of this process.

    None where JAX does not count them, as on CPU.
    """
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((each.get("peak_bytes_in_use", 0) for each in found), default=0) or None


def share(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count) of this process among those that own the mesh.

    A process whose mesh has only its own devices works alone: (0, 1).

    Raises:
        ValueError: if the mesh spans several processes, but not all.
    """
    owners = {device.process_index for device in mesh.devices.flat}
    if owners == {jax.process_index()}:
        return 0, 1
    if len(owners) < jax.process_count():
        raise ValueError(
            f"The mesh has devices of {len(owners)} of {jax.process_count()} "
            "processes; use those of one process, or of all."
        )
    return jax.process_index(), jax.process_count()


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises ValueError if a global batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        raise ValueError(
            f"{key} is {batch_size}, which is not divisible by {mesh.size} devices; "
            f"use a multiple of {mesh.size}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of values that are the same on every device."""
    return NamedSharding(mesh, P())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch."""
    return NamedSharding(mesh, P(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts values on every device; all processes must pass equal values.

    Args:
        tree: NumPy or JAX arrays; those already in place are not copied.
        mesh: the devices.
    """
    sharding = replicated(mesh)

    def put(leaf):
        if isinstance(leaf, jax.Array):
            if leaf.sharding == sharding:
                return leaf
            if mesh.size == 1 and leaf.is_fully_replicated:
                for shard in leaf.addressable_shards:
                    if shard.device == mesh.devices.flat[0]:
                        return jax.device_put(shard.data, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def spread(shapes: Any, mesh: Mesh) -> Any:
    """Returns shardings that split each array over the devices, where one can be.

    An array is split along its longest side that the number of devices divides; others
    stay whole on every device.

    Args:
        shapes: arrays, or `jax.ShapeDtypeStruct`s.
        mesh: the devices.
    """

    def sharding(leaf):
        sides = [side if side % mesh.size == 0 else 0 for side in leaf.shape]
        if mesh.size == 1 or not any(sides):
            return replicated(mesh)
        return NamedSharding(mesh, P(*[None] * sides.index(max(sides)), AXIS))

    return jax.tree.map(sharding, shapes)


def lay_out(tree: Any, shardings: Any) -> Any:
    """Moves global arrays between devices; all processes must call it together.

    Args:
        tree: arrays on the devices of a mesh.
        shardings: one for all arrays, or a tree of them.
    """
    return jax.jit(lambda same: same, out_shardings=shardings)(tree)


def replicate_key(rng: jax.Array, mesh: Mesh) -> jax.Array:
    """Puts a random key on every device."""
    data = replicate(jax.random.key_data(rng), mesh)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(rng))


def whole(value: Any) -> np.ndarray:
    """Returns the whole of an array on the host, however it is laid out.

    All processes must call it for an array that is split over several of them.
    """
    if not isinstance(value, jax.Array):
        return np.asarray(value)
    if value.is_fully_replicated:
        return np.asarray(value.addressable_data(0))
    if value.is_fully_addressable:
        return np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process; also a barrier."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def own_part(values: np.ndarray, mesh: Mesh | None = None) -> np.ndarray:
    """Returns the part of a global batch that this process loads.

    Args:
        values: the whole batch, the same in all processes.
        mesh: the devices that it is split over; by default those of all processes.
    """
    if mesh is None:
        number, count = jax.process_index(), jax.process_count()
    else:
        number, count = share(mesh)
    size = len(values) // count
    return values[number * size :][:size]


def shard_batch(batch: Any, mesh: Mesh, *, mapping: str = "shard_map") -> Any:
    """Builds a global batch from the part that this process loaded.

    Args:
        batch: arrays [B, ...].
        mesh: the devices.
        mapping: how the step that takes the batch is mapped.
    """
    sharding = split(mesh)
    if mapping == "pmap":
        batch = _unfold(batch, mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch
    )


def own_rows(tree: Any, *, mapping: str = "shard_map") -> Any:
    """Returns this process's part of a mapped step's result, as NumPy arrays.

    Args:
        tree: results [B, ...] of a step mapped by `map_eval_step`.
        mapping: how it was mapped.
    """

    def rows(leaf):
        if leaf.is_fully_addressable:
            whole = np.asarray(leaf)
        else:
            parts = sorted(
                leaf.addressable_shards, key=lambda part: part.index[0].start
            )
            whole = np.concatenate([np.asarray(part.data) for part in parts])
        return whole.reshape(-1, *whole.shape[2:]) if mapping == "pmap" else whole

    return jax.tree.map(rows, tree)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Returns the rows of all processes, in process order, in every process.

    Args:
        tree: NumPy arrays [b, ...], this process's rows; the same shape in all.
        mesh: the devices of the processes that take part.
    """
    if share(mesh)[1] == 1:
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)


def gather_objects(value: Any, mesh: Mesh) -> list[Any]:
    """Returns the value of each process, in process order, in every process.

    Args:
        value: anything that can be pickled. Arrays keep float64.
        mesh: the devices of the processes that take part.
    """
    if share(mesh)[1] == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        pickle.loads(row[:size].tobytes())
        for row, size in zip(rows, sizes, strict=True)
    ]


@contextlib.contextmanager
def together(mesh: Mesh) -> Iterator[None]:
    """Raises an exception of one process in every process; also a barrier.

    Without it, the others would wait minutes for the failed one.

    Args:
        mesh: the devices of the processes that take part.
    """
    if share(mesh)[1] == 1:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    if any_process(failure is not None):
        reasons = gather_objects(failure and str(failure), mesh)
        if failure is not None:
            raise failure
        number, reason = next((n, r) for n, r in enumerate(reasons) if r is not None)
        raise ValueError(f"Process {number} of {len(reasons)} failed: {reason}")


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
        mapping: "shard_map", or "pmap" for one process only (its results are arrays of
            one process, which Orbax does not save when there are several).

    Returns:
        The compiled function of the same arguments. `batch` is global, from
        `shard_batch`; with "shard_map" the old state is donated.

    Raises:
        ValueError: for an unknown mapping, or pmap with several processes.
    """
    _check_mapping(mapping)
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
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
        out_axes=None,
        devices=list(mesh.devices.flat),
    )
    return lambda state, constants, batch, rng: mapped(
        state, constants, _unfold(batch, mesh), rng
    )


def map_step_in_halves(
    gradient: Callable,
    update: Callable,
    mesh: Mesh,
    layout: Any,
) -> Callable:
    """Maps a training step whose state is not the same on every device.

    The gradient is mapped as in `map_step`; XLA lays out the update by the shardings of
    the state (the first stage of ZeRO, if those split the optimizer's state).

    Source: Rajbhandari et al., ZeRO, SC 2020, Section 5.1; Xu et al., Automatic
    Cross-Replica Sharding of Weight Update, 2020.

    Args:
        gradient: given parts of the state that are replicated, a step of one device
            that returns values averaged over `AXIS`: `(part, constants, batch, rng)`.
        update: `(state, gradient) -> (state, terms)`, where `gradient(part)` calls the
            mapped gradient.
        mesh: from `make_mesh`.
        layout: the shardings of the state.

    Returns:
        The compiled function `(state, constants, batch, rng) -> (state, terms)`; the
        old state is donated.
    """
    mapped = jax.shard_map(
        gradient,
        mesh=mesh,
        in_specs=(P(), P(), P(AXIS), P()),
        out_specs=P(),
        check_vma=False,  # see `map_step`
    )

    def step(state, *rest):
        return update(state, lambda part: mapped(part, *rest))

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, replicated(mesh)))


def map_eval_step(
    step: Callable[[Any, Any], Any], mesh: Mesh, *, mapping: str = "shard_map"
) -> Callable:
    """Maps an evaluation step over the devices of a mesh.

    Args:
        step: `step(variables, batch)` for one device; returns values [B, ...], one
            for each row of the batch.
        mesh: from `make_mesh`.
        mapping: one of `MAPPINGS`.

    Returns:
        The compiled function `(variables, batch=batch)`, with a method `lower`. It
        takes a batch from `shard_batch`, and `own_rows` reads its result, both with
        the same mapping.

    Raises:
        ValueError: for an unknown mapping, or pmap with several processes.
    """
    _check_mapping(mapping)
    if mapping == "pmap":
        # The batch is a keyword argument, which pmap always maps: the axes of a
        # positional one are confused where the variables are empty (jax 0.10.2).
        return jax.pmap(
            lambda variables, *, batch: step(variables, batch),
            axis_name=AXIS,
            in_axes=(None,),
            devices=list(mesh.devices.flat),
        )
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False
    )
    return jax.jit(lambda variables, *, batch: mapped(variables, batch))


def _unfold(batch: Any, mesh: Mesh) -> Any:
    """Returns arrays [B, ...] as [devices, B / devices, ...], the form for pmap."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]), batch
    )


def _check_mapping(mapping: str) -> None:
    if mapping not in MAPPINGS:
        raise ValueError(f"Unknown mapping {mapping!r}; use 'shard_map' or 'pmap'.")
    if mapping == "pmap" and jax.process_count() > 1:
        raise ValueError("pmap is for one process; use config.parallel='shard_map'.")
