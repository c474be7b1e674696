"""Trains a model. Started again with the same --workdir, it goes on where it was."""

import argparse
import sys

from llie_jax.cli.main import guarded

EXAMPLES = """
examples:
  python train.py --config darkir_demo --workdir runs/demo
  python train.py --config cidnet:data=lol_v1,reallocate=adr --workdir runs/cidnet
      --config.data.train.root=data/lol_v1 --config.optimizer.learning_rate=2e-4

--config takes the name of a recipe in llie_jax/configs, or a file, and arguments of the
recipe behind a colon. Every value of a config can be changed with --config.KEY=VALUE;
llie_jax/configs/base.py explains the keys. The folder of a run gets config.json,
checkpoints/, log.jsonl, TensorBoard events/, samples/ and report.html. Ctrl-C saves and
leaves.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all flags but `--config.KEY`."""
    found = argparse.ArgumentParser(
        prog="train.py",
        usage="python train.py --config FILE --workdir DIR [--config.KEY=VALUE ...]",
        description=__doc__,
        epilog=EXAMPLES.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --config.KEY is not short for anything
    )
    found.add_argument("--config", required=True, metavar="FILE", help="the experiment")
    found.add_argument(
        "--workdir", required=True, metavar="DIR", help="the folder of the run"
    )
    found.add_argument(
        "--stop-at", type=int, metavar="N", help="save and stop after step N"
    )
    return found


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Trains; returns the exit status.

    Raises:
        ValueError, OSError: if an argument is wrong, or files are missing.
    """
    import jax

    from llie_jax import parallel
    from llie_jax.cli.experiment import load_config

    config = load_config(args.config, overrides)
    parallel.start()  # before anything touches the devices

    from llie_jax.training.loop import NonFiniteError, train

    try:
        result = train(config, args.workdir, stop_at=args.stop_at)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            "error: the devices have too little memory for this step. Use a smaller "
            "batch_size or patch_size in config.stages, or "
            "--config.model.dtype=bfloat16; `llie-jax plan` says what fits.",
            file=sys.stderr,
        )
        return 1
    if result.signal is not None and not result.finished:
        return 128 + result.signal
    return 0


if __name__ == "__main__":
    arguments, others = parser().parse_known_args()
    sys.exit(guarded(run, arguments, others))
