"""`llie-jax plan`: whether a training run fits a TPU slice, without having one."""

import argparse
import dataclasses
import functools

HELP = "Compile a recipe's training step for a TPU slice and report whether it fits."
EXAMPLES = """
  llie-jax plan --config darkir_demo --topology cpu:8
  llie-jax plan --config darkir:size=l --topology v5e:4x8 --config.model.dtype=bfloat16
  llie-jax plan --config cidnet --topology v4:2x2x2 --max-batch --quick --json plan.json
  llie-jax plan --config darkir --topology v5e:2x2,v5e:16x16 --per-device-batch 2

It needs no TPU, only the TPU compiler: pip install 'llie-jax[tpu]'. --config.KEY=VALUE
changes values of the config, as in `llie-jax train`. The data set may be absent.
Exit status: 0 if it fits, 1 if it does not, 2 if an argument is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the subcommand."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="RECIPE",
        help="name of a recipe in llie_jax/configs, or a Python file; "
        "arguments follow a colon",
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="TPU type and layout, such as v5e:4x8 or v4:2x2x2; or cpu:8; several with "
        "commas",
    )
    parser.add_argument(
        "--per-device-batch",
        type=int,
        metavar="N",
        help="images per device and step, instead of the config's batch_size",
    )
    parser.add_argument(
        "--max-batch",
        action="store_true",
        help="find the largest number of images per device that fits, a power of two "
        "(times config.accumulate)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less compiler effort: several times faster, but the reported memory is "
        "larger than that of the real program",
    )
    parser.add_argument(
        "--resident",
        metavar="COUNTxHEIGHTxWIDTH",
        help="size of a training set that lives on the devices; without it, the host "
        "cuts the crops",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the plan to FILE")
    parser.set_defaults(overrides=[])  # takes --config.KEY=VALUE, see `cli.main`


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns the exit status."""
    resident = _parse_resident(args.resident)
    if args.per_device_batch is not None and args.per_device_batch < 1:
        raise ValueError(
            f"--per-device-batch is {args.per_device_batch}; give 1 or more."
        )

    from llie_jax.cli import experiment, output
    from llie_jax.data import Stage
    from llie_jax.training import capacity
    from llie_jax.training.experiment import Experiment

    config = experiment.load_config(args.config, args.overrides)
    reports = []
    for name in args.topology.split(","):
        # Before any computation, because JAX fixes its devices at the first one.
        topology = capacity.open_topology(name)
        planner = capacity.Planner(
            Experiment.from_config(config),
            topology,
            resident=resident,
            quick=args.quick,
        )
        stages = {
            name: (Stage(**stage).crop, _per_device(args, name, stage, topology))
            for name, stage in config.stages.items()
        }
        plans = _plan_all(planner, stages, search=args.max_batch)
        reports.append(_report(planner, plans))
        _show(output.console(), reports[-1])
    if len(reports) > 1:
        _show_scaling(output.console(), reports)
    fits = all(report["fits"] for report in reports)
    if args.json:
        several = {"fits": fits, "plans": reports}
        output.write_json(args.json, several if len(reports) > 1 else reports[0])
    return 0 if fits else 1


def _parse_resident(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        count, height, width = (int(number) for number in text.lower().split("x"))
    except ValueError:
        count = height = width = 0
    if min(count, height, width) < 1:
        raise ValueError(
            f"--resident is {text!r}; give COUNTxHEIGHTxWIDTH, for example 485x400x600."
        )
    return count, height, width


def _per_device(args, name: str, stage, topology) -> int:
    """Returns the images per device of a stage.

    Raises:
        ValueError: if the batch size is not divisible by the number of devices.
    """
    from llie_jax import parallel

    if args.per_device_batch is not None:
        return args.per_device_batch
    if args.max_batch:
        return max(1, stage.batch_size // topology.devices)
    key = f"config.stages.{name}.batch_size"
    try:
        parallel.check_batch_size(stage.batch_size, topology.mesh, key)
    except ValueError as error:
        raise ValueError(f"{error} Or give --per-device-batch.") from None
    return stage.batch_size // topology.devices


def _plan_all(planner, stages: dict, *, search: bool) -> dict[str, list]:
    """Returns stage -> the plans made for it; the last one is the result."""
    from rich.console import Console

    from llie_jax.training import capacity

    console = Console(stderr=True, highlight=False)

    def compile_step(name, crop, per_device):
        size = "{} x {}".format(*crop)
        what = f"stage {name}, {per_device} crops of {size} per device"
        with console.status(f"Compiling the step of {what} ..."):
            made = planner.plan(crop, per_device)
        verdict = "fits" if made.fits else "does not fit"
        console.print(f"{what}: {verdict}, compiled in {made.compile_seconds:.0f} s")
        return made

    plans, done = {}, {}
    for name, (crop, per_device) in stages.items():
        key = crop if search else (crop, per_device)
        if key not in done:
            step = functools.partial(compile_step, name, crop)
            accumulate = planner.experiment.config.accumulate
            done[key] = (
                capacity.search(step, per_device, accumulate=accumulate)
                if search
                else [step(per_device)]
            )
        plans[name] = done[key]
    return plans


def _report(planner, plans: dict[str, list]) -> dict:
    """Returns the whole report in JSON's types."""
    from llie_jax import costs

    topology, config = planner.topology, planner.experiment.config
    spec = config.model.to_dict()
    stages = {}
    for name, (*others, made) in plans.items():
        stages[name] = {
            **dataclasses.asdict(made),
            "gradient_bytes": planner.gradient_bytes,
            "forward_macs_per_image": costs.count(spec, made.crop).macs,
            "advice": [] if made.fits else planner.advice(made),
            "tried": [
                {
                    key: getattr(other, key)
                    for key in ("per_device", "fits", "needed", "compile_seconds")
                }
                for other in others
            ],
        }
    return {
        "topology": {
            "name": topology.name,
            "kind": topology.kind,
            "chips": topology.chips,
            "devices": topology.devices,
            "hosts": topology.hosts,
            "memory_per_device": topology.memory,
        },
        "model": spec,
        "params": costs.count(spec, (64, 64)).params,
        "resident": planner.resident,
        "quick": planner.quick,
        "fits": all(stage["fits"] for stage in stages.values()),
        "stages": stages,
        "config": config.to_dict(),
    }


def _show(console, report: dict) -> None:
    """Prints the report."""
    from rich import box
    from rich.table import Table

    topology, model, stages = report["topology"], report["model"], report["stages"]
    on_tpu = topology["kind"] != "cpu"
    several = on_tpu and topology["devices"] != topology["chips"]
    parts = [
        f"{topology['name']}: {topology['chips']} {'chips' if on_tpu else 'devices'}",
        f"{topology['devices']} devices" if several else "",
        topology["kind"] if on_tpu else "",
        f"on {topology['hosts']} host{'s' if topology['hosts'] > 1 else ''}",
        f"{_gib(topology['memory_per_device'])} GiB for a program on each device",
    ]
    console.print(", ".join(filter(None, parts)))
    parts = [f"{model['name']}", f"{report['params']:,} parameters"]
    parts += [model["dtype"]] if "dtype" in model else []
    if report["resident"]:
        parts.append("{} pairs of {} x {} on every device".format(*report["resident"]))
    else:
        parts.append("crops cut by the host (see --resident)")
    if report["quick"]:
        parts.append("compiled with less effort (--quick)")
    console.print(", ".join(parts))

    rows = [_rows(stage) for stage in stages.values()]
    table = Table("per step", box=box.SIMPLE)
    for name in stages:
        table.add_column(f"stage {name}", justify="right")
    for label in rows[0]:
        table.add_row(label, *(row[label] for row in rows))
    console.print(table)
    for name, stage in stages.items():
        if stage["program"]:
            _show_program(console, stage["program"])
        if not stage["fits"]:
            console.print(f"Stage {name} does not fit. Try:")
            for line in stage["advice"]:
                console.print(f"  {line}", soft_wrap=True, markup=False)


def _rows(stage: dict) -> dict[str, str]:
    """Returns a stage's column of the table, label -> text."""
    forward = stage["forward_macs_per_image"]
    reduced = (stage["collectives"] or {}).get("all-reduce")
    return {
        "crop": "{} x {}".format(*stage["crop"]),
        "images": f"{stage['batch_size']}",
        "  per device": f"{stage['per_device']}",
        "fits": "yes" if stage["fits"] else "NO",
        "memory needed, GiB": _gib(stage["needed"]),
        "  state, batch, data": _gib(stage["arguments"]),
        "  temporaries": _gib(stage["temporaries"]),
        "  program": _gib(stage["code"]),
        "10^9 MACs, enhancing one image": f"{forward / 1e9:.2f}",
        "10^9 MACs, whole step, per device": f"{stage['macs'] / 1e9:.2f}",
        "all-reduce per chip, MB": "?" if reduced is None else _mb(reduced["bytes"]),
        "  of gradients": "?" if reduced is None else _mb(_gradients(stage, reduced)),
        "  besides, kB": "?" if reduced is None else _besides(stage, reduced),
        **_program_rows(stage["program"]),
        **_projection_rows(stage["projection"]),
        "compile time, s": f"{stage['compile_seconds']:.0f}",
    }


def _gradients(stage: dict, reduced: dict) -> int:
    """Returns the bytes of gradients that are reduced.

    There may be fewer than parameters have: the compiler leaves out gradients that are
    always zero, and sends equal ones once.
    """
    return min(stage["gradient_bytes"], reduced["bytes"])


def _besides(stage: dict, reduced: dict) -> str:
    """Returns the kB besides gradients: loss terms, and state that is averaged."""
    return f"{(reduced['bytes'] - _gradients(stage, reduced)) / 1e3:.1f}"


def _program_rows(program: dict | None) -> dict[str, str]:
    """Returns what a program for a TPU shows; nothing for other devices."""
    if program is None:
        return {}
    changes, overlap = program["layout_changes"], program["overlap"]
    return {
        "  beside computation": _mb(overlap["beside"]),
        "layout changes": f"{changes['count']}",
        "  share of the cycles": f"{100 * changes['cycles'] / program['cycles']:.0f} %",
        "padding, share of writes": f"{100 * program['padding']:.0f} %",
    }


def _projection_rows(projection: dict | None) -> dict[str, str]:
    """Returns bounds from published figures, see `chips.project`."""
    if projection is None:
        return {}
    return {
        "computation, ms, at least": f"{1e3 * projection['compute_seconds']:.1f}",
        "all-reduce, ms": f"{1e3 * projection['reduce_seconds']:.2f}",
        "scaling efficiency, at least": f"{100 * projection['efficiency']:.1f} %",
    }


def _show_program(console, program: dict) -> None:
    """Prints where the cycles go, and what fills only a part of the lanes."""
    costs = ", ".join(
        f"{name or 'outside of the modules'} {100 * share:.0f} %"
        for name, share in program["costs"][:5]
    )
    console.print(f"Estimated cycles: {costs}", soft_wrap=True, markup=False)
    if not program["lanes"]:
        return
    worst = program["lanes"][0]
    what = "channels" if worst["channels"] else "a side that is not the channels"
    line = f"Most padding: {worst['used']} of {worst['of']} lanes used, by {what}."
    if program["width"]:
        line += f" Width {program['width']} would fill the lanes of its channels."
    console.print(line, soft_wrap=True, markup=False)


def _show_scaling(console, reports: list[dict]) -> None:
    """Prints one line for each slice."""
    from rich import box
    from rich.table import Table

    table = Table("slice", box=box.SIMPLE)
    for label in ("chips", "stage", "memory, GiB", "all-reduce, MB", "efficiency"):
        table.add_column(label, justify="right")
    for report in reports:
        for name, stage in report["stages"].items():
            reduced = (stage["collectives"] or {}).get("all-reduce")
            projection = stage["projection"]
            share = projection and f"{100 * projection['efficiency']:.1f} %"
            table.add_row(
                report["topology"]["name"],
                f"{report['topology']['chips']}",
                name,
                _gib(stage["needed"]),
                "?" if reduced is None else _mb(reduced["bytes"]),
                share or "?",
            )
    console.print(table)


def _mb(value: int) -> str:
    return f"{value / 1e6:.2f}"


def _gib(value: int | None) -> str:
    return "?" if value is None else f"{value / 2**30:.2f}"
