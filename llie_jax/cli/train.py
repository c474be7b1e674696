"""`llie-jax train`: trains a model, or resumes its run."""

import argparse
import sys

from llie_jax.cli.arguments import add_processes, positive, processes
from llie_jax.training import lock

HELP = "Train a model; rerunning with the same --workdir resumes the run."
EXAMPLES = """
  llie-jax train --config darkir_demo --workdir runs/demo
  llie-jax train --config cidnet:data=lol_v2_syn,reallocate=adr --workdir runs/adr \\
      --config.data.train.root=data/lol_v2 --config.optimizer.learning_rate=2e-4
  llie-jax train --config my_recipe.py --workdir runs/mine

Every value of a config can be changed with --config.KEY=VALUE; llie_jax/configs/base.py
explains the keys. The workdir gets config.json, checkpoints/, log.jsonl, TensorBoard
events/, samples/ and report.html. Ctrl-C saves a checkpoint and exits. Exit status: 0
trained to the end or to --stop-at, 1 the training or another process failed, 75 another
process was lost, 128 + N stopped by signal N: 143 in all if one of them got SIGTERM.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all flags but `--config.KEY`."""
    parser.set_defaults(overrides=[])  # takes --config.KEY=VALUE, see `cli.main`
    parser.add_argument(
        "--config",
        required=True,
        metavar="RECIPE",
        help="the experiment: a config file, or the name of a recipe in "
        "llie_jax/configs",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="the folder of the run"
    )
    parser.add_argument(
        "--profile",
        type=positive,
        default=0,
        metavar="STEPS",
        help="write a trace of JAX's profiler of a few steps to DIR/profile",
    )
    parser.add_argument(
        "--stop-at", type=positive, metavar="N", help="save and stop after step N"
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="resume although files of the data set were added, removed or changed",
    )
    add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Trains; returns the exit status.

    Raises:
        ValueError, OSError: if an argument is wrong, or files are missing.
    """
    lock.check_free(args.workdir)

    from llie_jax import cluster
    from llie_jax.cli.experiment import load_config

    config = load_config(args.config, args.overrides)

    import jax

    from llie_jax.training.loop import DivergedError, train

    try:
        with cluster.joined(**processes(args), preemptible=True):
            result = train(
                config,
                args.workdir,
                stop_at=args.stop_at,
                profile=args.profile,
                accept_changed_data=args.accept_changed_data,
            )
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            "error: the devices have too little memory for this step. Use "
            "--config.accumulate=N, --config.remat=*/block_*, "
            "--config.model.dtype=bfloat16, or a smaller batch_size or patch_size in "
            "config.stages; `llie-jax plan` says what fits.",
            file=sys.stderr,
        )
        return 1
    if result.signal is not None and not result.finished:
        return 128 + result.signal
    return 0
