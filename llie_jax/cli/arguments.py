"""Option types that subcommands share; imports nothing slow."""

import argparse
import math
from typing import Any

_LARGEST = 10**9

PROTOCOLS = (
    "default",
    "retinexformer",
    "cidnet",
    "cidnet_unpaired",
    "darkir",
    "darkir_unpaired",
    "lednet",
    "snr",
    "snr_syn",
    "snr_video",
    "llflow",
    "niqe",
)
"""The names in `llie_jax.metrics.protocol`, which is slow to import, for help texts."""


def positive(text: str) -> int:
    """Parses a whole number of at least 1; argparse reports the error."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    if number > _LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:20]} is above {_LARGEST:,}")
    return number


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `processes`."""
    group = parser.add_argument_group(
        "several processes",
        "found by JAX on SLURM, Open MPI, Kubernetes and Cloud TPUs; elsewhere, start "
        "the same command once for each process, with these",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0"
    )
    group.add_argument(
        "--num-processes", type=positive, metavar="N", help="how many there are"
    )
    group.add_argument(
        "--process-id", type=int, metavar="I", help="number of this one, from 0"
    )
    group.add_argument(
        "--start-timeout",
        type=positive,
        metavar="SECONDS",
        help="how long to wait for the others; default: five minutes",
    )


def processes(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `llie_jax.cluster.joined`."""
    found = {
        "coordinator": args.coordinator,
        "num_processes": args.num_processes,
        "process_id": args.process_id,
        "timeout": args.start_timeout,
    }
    return {name: value for name, value in found.items() if value is not None}


def above_zero(text: str) -> float:
    """Parses a finite number above 0; argparse reports the error."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def name_part(text: str) -> str:
    """Parses what is appended to a file's name, which stays in its folder."""
    if "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a folder in it")
    return text


def size(text: str, option: str) -> tuple[int, int]:
    """Returns the (height, width) of HEIGHTxWIDTH.

    Raises:
        ValueError: if it is something else.
    """
    try:
        height, width = (int(side) for side in text.lower().split("x"))
        if max(height, width) > 2**16:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{option} is {text!r}; give HEIGHTxWIDTH in pixels, for example 256x256."
        ) from None
    return height, width


def model(text: str) -> dict[str, Any]:
    """Returns the spec of `darkir`, `darkir-l` or `{"name": "darkir", ...}`.

    Raises:
        ValueError: if the model or its size is unknown, or it is not JSON.
    """
    from llie_jax import messages
    from llie_jax.cli import output
    from llie_jax.models import base

    if text.lstrip().startswith("{"):
        return output.read_json_argument(text, "The model")
    name, _, size = text.partition("-")
    if not size:
        return {"name": name}
    sizes = base.card(name).sizes
    if size not in sizes:
        raise ValueError(
            f"{name!r} has no size {size!r}.{messages.suggest(size, sizes)} "
            f"Sizes: {', '.join(sizes) or 'none'}."
        )
    return {"name": name, **sizes[size]}
