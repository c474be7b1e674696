"""Training steps on 1 to 8 CPU devices, and in 1, 2 and 4 processes.

The global batch is the same everywhere, so the work is too: on a machine with fewer
cores than devices, the times show what dividing it costs, not how it scales. The last
column shows that all runs have the same numbers.

python -m bench.scaling
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

from bench import timing

SHAPES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 4), (4, 2))
"""Processes, and devices of each."""

MODEL = {"name": "zero_dce", "width": 16}
BATCH, SIDE, WARM = 8, 64, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        from llie_jax import cluster

        with cluster.joined():
            work(args.steps)
        return
    rows = [measure(processes, devices, args.steps) for processes, devices in SHAPES]
    print("processes  devices  ms per step  over one device  loss")
    for row in rows:
        ratio = row["ms_per_step"] / rows[0]["ms_per_step"]
        print(
            f"{row['processes']:9d}  {row['devices']:7d}  {row['ms_per_step']:11.1f}  "
            f"{ratio:15.2f}  {row['loss']:.7f}"
        )
    result = {"model": MODEL, "batch": BATCH, "side": SIDE, "rows": rows}
    timing.write(timing.RESULTS / "scaling.json", {**timing.machine(), **result})


def measure(processes: int, devices: int, steps: int) -> dict:
    """Returns what the first process of a run measures."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    joined = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": f"{processes}"}
    command = [sys.executable, "-m", "bench.scaling", "--worker", f"--steps={steps}"]
    started = [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
                **({**joined, "JAX_PROCESS_ID": f"{i}"} if processes > 1 else {}),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"{processes} processes with {devices} devices each failed.")
    lines = [line for line in outputs[0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


def work(steps: int) -> None:
    """Runs the steps in this process, joined to others; the first prints JSON."""
    import jax
    import numpy as np

    from llie_jax import parallel
    from llie_jax.configs import base
    from llie_jax.data import pipeline
    from llie_jax.training.experiment import Experiment

    mesh = parallel.make_mesh()
    config = base.get_config()
    config.model = base.spec(**MODEL)
    config.stages.s0.update(dict(patch_size=SIDE, batch_size=BATCH))
    base.override(config, {"optimizer": "sgd"})
    experiment = Experiment.from_config(config)
    init = jax.jit(experiment.init, out_shardings=parallel.replicated(mesh))
    state = init()
    step = experiment.mapped_step(pipeline.expand_images, mesh)
    constants = parallel.replicate({"data": {}, "loss": {}}, mesh)
    rng = parallel.replicate_key(jax.random.key(1), mesh)
    times = []
    for i in range(WARM + steps):
        draw = np.random.default_rng(i)
        target = draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
        whole = {"image": target // 4, "target": target, "index": np.arange(BATCH)}
        part = {key: parallel.own_part(value) for key, value in whole.items()}
        batch = parallel.shard_batch(part, mesh)
        start = time.perf_counter()
        state, terms = step(state, constants, batch, rng)
        jax.block_until_ready(state)
        times.append(1e3 * (time.perf_counter() - start))
    if parallel.is_first():
        found = {
            "processes": parallel.process_count(),
            "devices": mesh.size,
            "ms_per_step": statistics.median(times[WARM:]),
            "loss": float(terms["loss"]),
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
