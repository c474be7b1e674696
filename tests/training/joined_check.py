"""A user's own script, which joins the processes as is; run by test_processes.

The arguments are the recipe, the run's folder, and the step to stop at.
"""

import sys

from llie_jax import cluster
from llie_jax.cli.experiment import load_config
from llie_jax.training.loop import train


def main(recipe, workdir, stop_at):
    with cluster.joined():
        train(load_config(recipe), workdir, stop_at=int(stop_at))


if __name__ == "__main__":
    main(*sys.argv[1:])
