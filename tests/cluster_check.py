"""One process of several; run by test_cluster.

The argument says what it does after it has joined: "sum" prints a JSON line with the
sum of all process numbers, "fail" raises in process 1 while the others compute,
"mistake" raises before anything is computed, "late" raises in process 0 when the others
are done, "kill" kills process 1 when it is done, "pod" joins as a TPU VM does, and
"newer" has a JAX whose coordination service is unknown.
"""

import json
import os
import signal
import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from llie_jax import cluster


def main(what):
    if what == "pod":
        # JAX finds no chip here, and so has switched the metadata server off.
        os.environ.pop("TPU_SKIP_MDS_QUERY")
    if what == "newer":
        cluster._state = None
    with cluster.joined(timeout=int(os.environ.get("TIMEOUT", cluster.JOIN_SECONDS))):
        number = jax.process_index()
        if what == "mistake" and number == 0:
            raise ValueError("the data are missing")
        total = multihost_utils.process_allgather(np.asarray(number)).sum()
        for step in range(1000 if what in ("fail", "mistake") else 0):
            if number == 1 and step == 3:
                raise ValueError("boom")
            multihost_utils.process_allgather(np.asarray(step))
            time.sleep(0.05)
        found = {"number": number, "count": jax.process_count(), "sum": int(total)}
        if number == 0:
            time.sleep(1)  # the others wait for it
            if what == "late":
                raise ValueError("too late")
        if number == 1 and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
