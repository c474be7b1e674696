"""Compiles the training step for devices that need not exist here, to see if it fits.

The step is the one that `training.loop` runs, but its arguments are shapes instead of
arrays, laid out over the devices of a TPU slice. The compiler's figures for memory and
communication are exact; it gives none for speed.
"""

import contextlib
import dataclasses
import functools
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from llie_jax import costs, parallel
from llie_jax.data import catalogue, pipeline, transforms
from llie_jax.optimizers import matching
from llie_jax.training import chips, hlo, remat
from llie_jax.training.experiment import Experiment

EXAMPLES = ("v5e:2x2", "v5e:16x16", "v4:2x2x2", "v5p:2x2x2", "v6e:4x4", "cpu:8")
"""Example topologies."""

_ENVIRONMENT = {
    # Do not search for or claim a TPU of this machine, and write no logs.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}

_MEGACORE = ("v4",)
"""Chips whose two cores form one device in a pod; libtpu needs an option for them."""

_QUICK = {"exec_time_optimization_effort": -1.0}

_SIZE = r"([\d.]+)([KMGT]?)"
_NEEDED = re.compile(rf"(?:Used {_SIZE}|required for HLO temporaries \({_SIZE}\))")
_LIMIT = re.compile(rf"(?:of {_SIZE} hbm|available HBM \({_SIZE}\))")


@dataclasses.dataclass(frozen=True)
class Topology:
    """The devices to plan for.

    Attributes:
        name: as given to `open_topology`.
        kind: the device kind that JAX reports.
        mesh: all devices along "data".
        chips: number of chips; some have two devices.
        hosts: number of hosts.
        memory: bytes that a program can use on each device, None if unknown.
    """

    name: str
    kind: str
    mesh: Mesh
    chips: int
    hosts: int
    memory: int | None

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.mesh.size


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What the compiler reports about a training step.

    Memory is in bytes, for one device. If the compiler runs out of memory, values that
    it does not report are None.

    Attributes:
        crop: height and width of the crops.
        batch_size: images per step, over all devices.
        per_device: images per step and device.
        fits: whether a device has enough memory.
        needed: arguments + outputs + temporaries + code - aliased.
        arguments: the state, the batch and the data.
        outputs: the new state.
        aliased: the part of the outputs that reuses the memory of arguments.
        temporaries: everything in between.
        code: the program.
        macs: multiply-accumulates of the step on one device.
        traffic: bytes that the step reads and writes in the device's memory.
        collectives: kind -> {"count", "bytes"} per step and device.
        program: what the compiled program shows besides; only for TPUs.
        projection: how the step scales; None if the chip's figures are not known.
        compile_seconds: compile time.
        message: the compiler's error if it ran out of memory, or "".
    """

    crop: tuple[int, int]
    batch_size: int
    per_device: int
    fits: bool
    needed: int | None
    macs: int
    compile_seconds: float
    arguments: int | None = None
    outputs: int | None = None
    aliased: int | None = None
    temporaries: int | None = None
    code: int | None = None
    traffic: int | None = None
    collectives: dict[str, dict[str, int]] | None = None
    program: "ProgramFacts | None" = None
    projection: chips.Projection | None = None
    message: str = ""


@dataclasses.dataclass(frozen=True)
class ProgramFacts:
    """What a program for a TPU shows about waste.

    Attributes:
        cycles: the compiler's estimate for the step.
        overlap: see `hlo.Program.overlap`.
        layout_changes: see `hlo.Program.layout_changes`.
        padding: share of padding in what the step writes.
        lanes: the arrays that waste most on empty lanes, worst first.
        width: the model's next width that fills the lanes of the worst arrays of
            channels; None if there are none, or the model has no width.
        costs: (module, share of the cycles) of the ten most expensive modules.
    """

    cycles: int
    overlap: dict[str, int]
    layout_changes: dict[str, int]
    padding: float
    lanes: tuple[hlo.Lanes, ...]
    width: int | None
    costs: tuple[tuple[str, float], ...]


def open_topology(name: str) -> Topology:
    """Returns the devices of a TPU slice ("v5e:4x8"), or of this machine ("cpu:8").

    Call it before any other use of JAX; afterwards JAX only sees the CPU.

    Raises:
        ImportError: if libtpu is needed and not installed.
        ValueError: if there is no such topology.
    """
    if not re.fullmatch(r"[a-z0-9]+:[1-9]\d*(x[1-9]\d*)*", name):
        raise ValueError(f"{name!r} is not a topology. {_accepted()}")
    family, _, layout = name.partition(":")
    if family == "cpu":
        devices = _cpu_devices(math.prod(int(side) for side in layout.split("x")))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory //= len(devices)
    else:
        devices = _tpu_devices(name)
        memory = _tpu_memory(devices[0])
    return Topology(
        name=name,
        kind=devices[0].device_kind,
        mesh=parallel.make_mesh(devices),
        chips=len({str(getattr(device, "coords", device.id)) for device in devices}),
        hosts=len({device.process_index for device in devices}),
        memory=memory,
    )


class Planner:
    """Plans the training steps of an experiment on a topology.

    Args:
        experiment: the experiment.
        topology: from `open_topology`.
        resident: (count, height, width) of a training set that lives on the devices;
            None if the host cuts the crops.
        quick: asks the compiler for less effort. It takes a fraction of the time, but
            the program needs more memory, mostly for small batches.

    Raises:
        ValueError: if the experiment cannot run on the topology.
    """

    def __init__(
        self,
        experiment: Experiment,
        topology: Topology,
        *,
        resident: tuple[int, int, int] | None = None,
        quick: bool = False,
    ):
        if experiment.config.parallel == "pmap" and topology.hosts > 1:
            raise ValueError(
                f"config.parallel is 'pmap', which supports one host; {topology.name} "
                f"has {topology.hosts}. Use --config.parallel=shard_map."
            )
        size = tuple(experiment.config.data.train.size)
        if resident and any(size) and tuple(resident[1:]) != size:
            raise ValueError(
                f"config.data.train.size resizes all images to {size[0]} x {size[1]}, "
                f"but the resident images are {resident[1]} x {resident[2]}."
            )
        self.experiment = experiment
        self.topology = topology
        self.resident = resident
        self.quick = quick

    def plan(self, crop: tuple[int, int], per_device: int) -> StepPlan:
        """Compiles the step for crops of (height, width) and `per_device` images.

        Raises:
            ValueError: if the crops are larger than the images, or if
                `config.accumulate` does not divide `per_device`.
        """
        self.experiment.check_parts(per_device, self.topology.mesh, "The batch")
        batch_size = per_device * self.topology.devices
        step, arguments = self._step(crop, batch_size)
        common = dict(
            crop=tuple(crop),
            batch_size=batch_size,
            per_device=per_device,
            macs=costs.count_macs(step, *arguments),
        )
        lowered = step.lower(*arguments)
        start = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=_QUICK if self.quick else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return StepPlan(
                fits=False,
                needed=read_exhausted(str(error))[0],
                compile_seconds=time.perf_counter() - start,
                message=str(error),
                **common,
            )
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        needed = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes
            - memory.alias_size_in_bytes
        )
        limit = self.topology.memory
        program = hlo.Program(compiled.as_text())
        collectives = program.collectives()
        traffic = int((compiled.cost_analysis() or {}).get("bytes accessed", 0))
        return StepPlan(
            fits=limit is None or needed <= limit,
            needed=needed,
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes,
            aliased=memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            code=memory.generated_code_size_in_bytes,
            traffic=traffic,
            collectives=collectives,
            program=self._facts(program) if program.cycles else None,
            projection=self._project(common["macs"], traffic, collectives),
            compile_seconds=seconds,
            **common,
        )

    def _facts(self, program: hlo.Program) -> ProgramFacts:
        padding, lanes = program.padding()
        spec = self.experiment.config.model
        width = spec.get("width")
        channels = [each for each in lanes if each.channels and width]
        fitting = (
            hlo.fitting_width(width, each)
            for each in channels
            if each.used % width == 0  # others do not grow with the width
        )
        return ProgramFacts(
            cycles=program.cycles,
            overlap=program.overlap(),
            layout_changes=program.layout_changes(),
            padding=padding,
            lanes=tuple(lanes[:5]),
            width=next(fitting, None),
            costs=tuple(program.costs(remat.module_paths(self.experiment.model))[:10]),
        )

    def _project(self, macs, traffic, collectives) -> chips.Projection | None:
        chip = chips.find(self.topology.kind)
        reduced = collectives.get("all-reduce", {"bytes": 0})["bytes"]
        return chip and chips.project(
            chip,
            chips=self.topology.chips,
            flops=2 * macs,
            traffic=traffic,
            reduced=reduced,
        )

    def advice(self, plan: StepPlan) -> list[str]:
        """Returns suggestions to make a step fit."""
        topology, lines = self.topology, []
        most = 0
        if plan.needed is not None and topology.memory is not None:
            state = _nbytes(self._state)
            per_image = max(plan.needed - state, 1) / plan.per_device
            most = math.floor((topology.memory - state) / per_image)
            most = min(most, plan.per_device - 1)
        elif plan.per_device > 1:
            most = plan.per_device // 2
        config = self.experiment.config
        most -= most % config.accumulate
        if most > 0:
            lines.append(
                f"fewer images per device: about {most} may fit (--per-device-batch "
                f"{most}; --max-batch finds the largest number)"
            )
            more = math.ceil(plan.batch_size / most)
            lines.append(
                f"more chips: the batch of {plan.batch_size} on at least {more} devices"
            )
        if plan.per_device > config.accumulate:
            lines.append(
                f"--config.accumulate=N, which divides {plan.per_device}: computes the "
                "images of a device in N parts"
            )
        if not config.remat:
            lines.append("--config.remat=*/block_*: computes activations again")
        if config.model.get("dtype") == "float32":
            lines.append("--config.model.dtype=bfloat16")
        lines.append("a smaller patch_size, or a smaller model")
        return lines

    @functools.cached_property
    def _state(self):
        return jax.eval_shape(self.experiment.init)

    @property
    def gradient_bytes(self) -> int:
        """Total bytes of the gradients, which devices average in each step.

        Gradients of frozen parameters are zero, and the compiler removes them.
        """
        params = self._state.params
        frozen = matching(params, self.experiment.config.optimizer.freeze)
        return _nbytes(params) - _nbytes(
            jax.tree.map(lambda leaf, out: leaf if out else None, params, frozen)
        )

    def _step(self, crop: tuple[int, int], batch_size: int):
        """Returns the mapped step, and the shapes of its arguments on their devices."""
        mesh = self.topology.mesh
        expand, images, batch = self._data(crop, batch_size)
        constants = {"loss": self.experiment.loss.constants_shapes(), "data": images}
        rng = jax.eval_shape(lambda: jax.random.key(0))
        everywhere, split = parallel.replicated(mesh), parallel.split(mesh)
        layout = self.experiment.layout(self._state, mesh)
        return self.experiment.mapped_step(expand, mesh), (
            _on(self._state, layout),
            _on(constants, everywhere),
            _on(batch, split),
            _on(rng, everywhere),
        )

    def _data(self, crop: tuple[int, int], batch_size: int):
        """Returns `expand`, its resident arrays, and a batch from the loader."""
        height, width = crop
        keys = catalogue.keys_of(self.experiment.config.data.train.name)
        count, *size = self.resident or (1, height, width)
        if size[0] < height or size[1] < width:
            raise ValueError(
                f"A crop of {height} x {width} is larger than the images of {size[0]} "
                f"x {size[1]} (height x width)."
            )
        crops = transforms.Plan(
            sizes=np.tile(size, (batch_size, 1)),
            stages=(transforms.Stage(1, height, batch_size, width),),
            augment=transforms.Augment(**self.experiment.config.data.augment.to_dict()),
            seed=0,
        ).batch(0)
        if self.experiment.model.overview:
            crops["window"] = np.zeros((batch_size, 4), np.float32)
        if self.resident:
            images = jax.ShapeDtypeStruct((count, *size, 3), np.uint8)
            resident = dict.fromkeys(keys, images) | self._overviews(keys, count)
            return pipeline.expand_crops, resident, crops
        pixels = jax.ShapeDtypeStruct((batch_size, *crop, 3), np.uint8)
        partners = ("partner_", "") if "share" in crops else ("",)
        images = {partner + key: pixels for partner in partners for key in keys}
        numbers = {key: crops[key] for key in pipeline.NUMBERS if key in crops}
        images |= self._overviews(keys, batch_size)
        return pipeline.expand_images, {}, images | numbers

    def _overviews(self, keys: Sequence[str], count: int):
        """Returns the shapes of the overviews of `count` records, {} without them."""
        side = self.experiment.model.overview
        views = jax.ShapeDtypeStruct((count, side, side, 3), np.float32)
        names = [name for key, name in pipeline.OVERVIEWS.items() if key in keys]
        return dict.fromkeys(names, views) if side else {}


def search(
    plan: Callable[[int], StepPlan], start: int, *, accumulate: int = 1
) -> list[StepPlan]:
    """Finds the largest number of images per device that fits, among powers of two.

    Args:
        plan: compiles the step for a number of images per device.
        start: number of images to start from.
        accumulate: in how many parts they are computed; the numbers tried are powers
            of two times this one.

    Returns:
        All plans made. The last one is the largest that fits, or the smallest if none
        does.
    """
    parts = max(start // accumulate, 1)
    per_device = accumulate * 2 ** (parts.bit_length() - 1)
    plans = [plan(per_device)]
    growing = plans[0].fits
    while plans[-1].fits == growing and (growing or per_device > accumulate):
        per_device = per_device * 2 if growing else per_device // 2
        plans.append(plan(per_device))
    return sorted(
        plans,
        key=lambda made: (made.fits, made.fits * made.per_device, -made.per_device),
    )


def read_exhausted(message: str) -> tuple[int | None, int | None]:
    """Returns the needed and the available bytes from XLA's message."""
    found = (_NEEDED.search(message), _LIMIT.search(message))
    return tuple(match and _bytes(match.groups()) for match in found)


def _bytes(groups: Sequence[str | None]) -> int:
    number, unit = [group for group in groups if group is not None]
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _on(tree: Any, sharding) -> Any:
    """Returns the shapes of a tree with a sharding, or with a tree of them."""

    def shape(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: shape(leaf, sharding), tree)
    return jax.tree.map(shape, tree, sharding)


def _use_cpu_only() -> None:
    jax.config.update("jax_platforms", "cpu")
    # Cached programs have no compile time and, on some platforms, no analysis.
    jax.config.update("jax_enable_compilation_cache", False)


def _cpu_devices(count: int) -> list:
    _use_cpu_only()
    # If JAX is already initialised, use the devices that it has.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if count > len(devices):
        raise ValueError(
            f"cpu:{count} is not available: JAX runs with {len(devices)} CPU devices."
        )
    return devices[:count]


def _tpu_devices(name: str) -> list:
    os.environ.update(_ENVIRONMENT)
    try:
        import libtpu  # noqa: F401  checked here, since JAX's own error is longer
    except ImportError:
        raise ImportError(
            "Planning for TPUs needs libtpu: pip install 'llie-jax[tpu]'."
        ) from None
    _use_cpu_only()
    options = {}
    if name.partition(":")[0] in _MEGACORE:
        options["chip_config_name"] = "megacore"
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0].partition("; ")[0]
        raise ValueError(
            f"There is no topology {name!r} ({reason}). {_accepted()}"
        ) from None


def _tpu_memory(device) -> int | None:
    """Returns the memory of a device, from the compiler's out-of-memory error.

    It is less than the chip's memory, because the runtime reserves a part.
    """
    huge = jax.ShapeDtypeStruct(
        (2**20, 2**21), np.uint8, sharding=SingleDeviceSharding(device)
    )
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        return read_exhausted(str(error))[1]
    return None


def _accepted() -> str:
    return f"Use a name such as {', '.join(EXAMPLES)}."
