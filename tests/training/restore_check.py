"""Restores a run on the devices of this process, or of all; run by test_processes.

The arguments are the config and the workdir. Process 0 prints the digests of the
restored state as a JSON line.
"""

import json
import sys

from llie_jax import cluster, parallel
from llie_jax.cli.experiment import load_config
from llie_jax.training.experiment import Experiment
from llie_jax.training.initial import begin
from llie_jax.weights.run import RunFolder
from llie_jax.weights.store import Store, digests


def main(config, workdir):
    experiment = Experiment.from_config(load_config(config))
    with Store(RunFolder.at(workdir).checkpoints, writing=True) as store:
        state, step = begin(experiment, store, parallel.make_mesh(), None)
        found = {"step": step, "digests": digests(state)}
    if parallel.is_first():
        print(json.dumps(found))


if __name__ == "__main__":
    with cluster.joined():
        main(*sys.argv[1:])
