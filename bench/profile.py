"""Where the time of a training step goes, and where that of its compilation.

python -m bench.profile --model cidnet
python -m bench.profile --model '{"name": "restormer", "reallocate": "adr"}' --size 256

Runs one step of the real training step (L1, AdamW) under JAX's profiler. Prints the
time of each kind of operation, by pass, the busiest operations, how busy the cores are,
and the passes of the compiler; writes bench/results/profile_NAME, .json and .svg.
Times of operations add up over threads. The persistent compilation cache is off.
"""

import argparse
import collections
import glob
import html
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping

import jax
import optax

import llie_jax
from bench import timing, workloads
from llie_jax.files import atomic
from llie_jax.report import charts

Times = collections.Counter[str]

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", re.MULTILINE)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_COLOURS = {
    "forward": "#4878a8",
    "backward": "#c0504d",
    "update": "#888888",
    "compilation": "#8064a2",
}


def events(folder: str) -> Iterator[tuple[str, str, float]]:
    """Yields (thread, name, seconds) of all events of a trace."""
    (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    for plane in jax.profiler.ProfileData.from_file(path).planes:
        for line in plane.lines:
            for event in line.events:
                yield line.name, event.name, event.duration_ns / 1e9


def compile_times(lowered) -> tuple[jax.stages.Compiled, Times]:
    """Compiles, and returns the seconds of each pass of the compiler's main thread."""
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = 3
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            compiled = lowered.compile()
        times: Times = collections.Counter()
        for thread, name, seconds in events(folder):
            if "CompilerThreadPool" in thread:
                times[name.partition("#")[0]] += seconds
    return compiled, times


def instructions(program: str) -> dict[str, str]:
    """Returns the instructions of an optimised program: name -> where it comes from.

    That is the scope of the model, as JAX writes it, or the instruction's own name.
    """
    found = {}
    for name, body in _INSTRUCTION.findall(program):
        origin = _OP_NAME.search(body)
        found[name] = origin.group(1) if origin else name
    return found


def kind(origin: str) -> tuple[str, str]:
    """Returns (pass, operation) of an instruction: ("backward", "dot_general").

    Loops are named by the layer that they belong to.
    """
    which = "update"
    if "jvp(" in origin:
        which = "backward" if "transpose(" in origin else "forward"
    if "_summed_conv" in origin:
        return which, "grouped convolution"
    operation = re.sub(r"[.\d]+$", "", origin.rpartition("/")[2])
    if "_dense_conv" in origin and operation in ("conv_general_dilated", "dot_general"):
        return which, "dense convolution"
    return which, operation


def phases(traced: float, passes: Times) -> dict[str, float]:
    """Returns the seconds from a Python function to a program, by phase.

    Args:
        traced: seconds of tracing.
        passes: from `compile_times`.
    """
    backend, kernels = passes["CpuCompiler::RunBackend"], passes["JitCompiler::Compile"]
    return {
        "tracing": traced,
        "passes over the program": passes["PjRtCpuClient::Compile"] - backend,
        "buffers, emitting kernels": backend - kernels,
        "compiling kernels": kernels,
    }


_STYLE = "font-family: sans-serif; font-size: 12px; background: white"


def chart(
    title: str,
    kinds: Mapping[tuple[str, str], float],
    compilation: Mapping[str, float],
    count: int = 14,
) -> str:
    """Returns the longest kinds of operations, and the compilation, as an SVG file."""
    longest = sorted(kinds.items(), key=lambda item: -item[1])[:count]
    rows = [
        (operation, _COLOURS[which], seconds / longest[0][1], f"{1e3 * seconds:.0f} ms")
        for (which, operation), seconds in longest
    ]
    most = max(compilation.values())
    rows += [
        (phase, _COLOURS["compilation"], seconds / most, f"{seconds:.1f} s")
        for phase, seconds in compilation.items()
    ]
    width, left, row = 640, 230, 22
    parts = [charts.heading(title), charts.legend(width - 8, _COLOURS)]
    for i, (name, colour, share, time_) in enumerate(rows):
        y = 34 + i * row + (12 if i >= len(longest) else 0)
        length = (width - left - 70) * share
        parts.append(
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{html.escape(name)}'
            f'</text><rect x="{left}" y="{y}" height="15" width="{length:.1f}" '
            f'fill="{colour}"/><text x="{left + length + 6:.1f}" y="{y + 12}">{time_}'
            "</text>"
        )
    height = 56 + row * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'style="{_STYLE}">{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Runs the benchmark and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="darkir", help="name, or spec as JSON")
    parser.add_argument("--size", type=int, default=128, help="pixels of each side")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--out", type=pathlib.Path, help="JSON file")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)

    spec = json.loads(args.model) if args.model.startswith("{") else args.model
    model = llie_jax.build(spec)
    name = spec if isinstance(spec, str) else spec["name"]
    image = workloads.dark_images(args.batch, args.size, args.size)
    run, state, rest = workloads.step_program(
        model, image, workloads.l1, optax.adamw(1e-4)
    )
    start = time.perf_counter()
    lowered = run.lower(state, *rest)
    traced = time.perf_counter() - start
    start = time.perf_counter()
    compiled, passes = compile_times(lowered)
    compilation = time.perf_counter() - start
    origins = instructions(compiled.as_text())

    def once():
        nonlocal state
        state, terms = compiled(state, *rest)
        jax.block_until_ready((state, terms))

    once()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(args.repeats):
        once()
    wall = (time.perf_counter() - wall) / args.repeats
    processor = (time.process_time() - processor) / args.repeats
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            once()
        operations: Times = collections.Counter()
        for _, event, seconds in events(folder):
            if event in origins:
                operations[event] += seconds
    kinds: collections.Counter[tuple[str, str]] = collections.Counter()
    for instruction, seconds in operations.items():
        kinds[kind(origins[instruction])] += seconds

    memory = compiled.memory_analysis()
    result = {
        **timing.machine(),
        "model": spec,
        "size": args.size,
        "batch": args.batch,
        "step_seconds": wall,
        "busy_cores": processor / wall,
        "trace_seconds": traced,
        "compile_seconds": compilation,
        "instructions": len(origins),
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "kinds": {" ".join(key): seconds for key, seconds in kinds.most_common()},
        "passes": dict(passes.most_common(20)),
    }
    title = f"{name}, step of {args.batch} x {args.size} x {args.size}"
    print(
        f"{title}: {1e3 * wall:.0f} ms, {100 * processor / wall:.0f} % of one core; "
        f"traced in {traced:.1f} s, compiled in {compilation:.1f} s, "
        f"{len(origins)} instructions"
    )
    for (which, operation), seconds in kinds.most_common(16):
        print(f"{1e3 * seconds:9.1f} ms  {which:9}{operation}")
    print("busiest operations:")
    for instruction, seconds in operations.most_common(10):
        print(f"{1e3 * seconds:9.1f} ms  {origins[instruction][-90:]}")
    print("compiler:")
    for step, seconds in passes.most_common(12):
        print(f"{seconds:9.2f} s   {step}")
    out = args.out or timing.RESULTS / f"profile_{name}.json"
    timing.write(out, result)
    with atomic(out.with_suffix(".svg")) as temporary:
        temporary.write_text(chart(title, kinds, phases(traced, passes)))


if __name__ == "__main__":
    main()
