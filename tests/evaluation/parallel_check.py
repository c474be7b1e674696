"""Scores of toy pairs on all devices of all processes; run by test_parallel.

The argument is a folder for the saved images, or a number of images to take the mean
over. Each process prints one JSON line.
"""

import json
import pathlib
import sys

import jax

from llie_jax import cluster, evaluation, parallel
from tests.evaluation import toys
from tests.evaluation.test_evaluator import SIZES, VARIABLES


class Recorded(toys.MemorySource):
    """Records which images are read; one of them may be damaged."""

    damaged = -1

    def __init__(self, sizes):
        super().__init__(sizes)
        self.read = []

    def __getitem__(self, index):
        if index == self.damaged:
            raise ValueError(f"{index} is damaged")
        self.read.append(index)
        return super().__getitem__(index)


def run(source, **options):
    """Returns the scores as in a file, the images read, and the pictures."""
    found = evaluation.evaluate(
        toys.Gain(), VARIABLES, source, progress=False, max_report_images=3, **options
    )
    return {
        "scores": found.to_dict(),
        "read": source.read,
        "pictures": [picture.name for picture in found.pictures],
    }


def main():
    """Prints one JSON line."""
    if sys.argv[1].isdecimal():
        source = toys.MemorySource((SIZES * 3)[: int(sys.argv[1])], paired=True)
        found = evaluation.evaluate(toys.Gain(), VARIABLES, source, progress=False)
        print(json.dumps(found.to_dict()["mean"]))
        return
    folder = pathlib.Path(sys.argv[1])
    alone = parallel.make_mesh(jax.local_devices())
    result = {
        "number": jax.process_index(),
        "together": run(Recorded(SIZES), save_images=folder, batch_size=3),
        "tiled": run(Recorded(SIZES), tile=18),
        "alone": run(Recorded(SIZES), mesh=alone),
    }
    if jax.process_count() == 1:
        result["pmap"] = run(Recorded(SIZES), mapping="pmap")
    else:
        source = Recorded(SIZES)
        source.damaged = 3
        try:
            run(source)
        except ValueError as error:
            result["error"] = str(error)
    print(json.dumps(result))


if __name__ == "__main__":
    with cluster.joined():
        main()
