"""Trains a model. Started again with the same --workdir, it goes on where it was.

Usage: python train.py --config FILE --workdir DIR [--config.KEY=VALUE ...]

Examples:
  python train.py --config llie_jax/configs/darkir_demo.py --workdir runs/demo
  python train.py --config llie_jax/configs/darkir_lol_v1.py --workdir runs/lol
      --config.data.train.root=data/lol_v1 --config.optimizer.learning_rate=2e-4

Every value of a config can be changed with --config.KEY=VALUE; llie_jax/configs/base.py
explains the keys. --stop_at N saves and stops after step N. The run's folder gets
config.json, checkpoints/, log.jsonl, TensorBoard events, samples/ and report.html.
"""

import sys

from absl import flags
from ml_collections import config_flags

from llie_jax.cli.main import guarded

_FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file("config", flag_values=_FLAGS)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder.", flag_values=_FLAGS)
_STOP_AT = flags.DEFINE_integer("stop_at", None, "Step.", flag_values=_FLAGS)


def run(argv: list[str]) -> int:
    """Trains as the command line says; returns the exit status.

    Raises:
        ValueError: if a flag is missing or wrong.
    """
    # Before anything else touches the devices.
    from llie_jax.training import parallel

    parallel.start()

    from llie_jax.training.loop import NonFiniteError, train

    try:
        rest = _FLAGS(argv)[1:]
    except (flags.Error, AttributeError) as error:
        raise ValueError(error) from error
    if rest or not (_FLAGS.config and _FLAGS.workdir):
        problem = (
            f"I do not know {rest[0]!r}" if rest else "Give --config and --workdir"
        )
        raise ValueError(f"{problem}; see python train.py --help")
    try:
        result = train(_FLAGS.config, _FLAGS.workdir, stop_at=_FLAGS.stop_at)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result.signal is not None and not result.finished:
        return 128 + result.signal
    return 0


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0)
    sys.exit(guarded(run, sys.argv))
