"""kill -9 at random moments loses nothing before the last checkpoint."""

import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from flax import traverse_util

from llie_jax import weights
from llie_jax.weights.run import read_log
from llie_jax.weights.store import Store
from tests.conftest import ROOT
from tests.training import toys

EXPERIMENT = """
from tests.training import toys

def get_config():
    return toys.config(
        {root!r},
        **{{
            "stages.s0.steps": 1500,
            "log.every_steps": 10,
            "evaluate.every_steps": 100,
            "checkpoint.every_steps": 20,
        }},
    )
"""
KILLS = 5


def start(config, workdir):
    return subprocess.Popen(
        [sys.executable, "train.py", "--config", config, "--workdir", workdir],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def logged(workdir):
    path = workdir / "log.jsonl"
    return max((line["step"] for line in read_log(path)), default=0)


def saved(workdir):
    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    return max(steps, default=0)


@pytest.mark.slow
def test_killed_runs_end_like_an_unbroken_one(tmp_path):
    config = tmp_path / "experiment.py"
    root = toys.write_pairs(tmp_path / "pairs")
    config.write_text(EXPERIMENT.format(root=str(root)))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(config, whole).wait() == 0

    draw = random.Random(0)
    for _ in range(KILLS):
        before = saved(broken)
        process = start(config, broken)
        while saved(broken) <= before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.6))
        assert process.poll() is None, "finished before it could be killed"
        process.kill()
        process.wait()
        process.stderr.close()
        kept, reached = saved(broken), logged(broken)
        # At most the interval and the save in progress are lost.
        assert kept >= reached - 2 * 20
        process = start(config, broken)
        for line in process.stderr:
            if found := re.search(r"resuming at step (\d+)", line):
                assert int(found[1]) == kept
                break
        process.kill()
        process.wait()
        process.stderr.close()

    assert start(config, broken).wait() == 0
    states = []
    for workdir in (whole, broken):
        _, variables = weights.load(workdir, step="latest")
        states.append(traverse_util.flatten_dict(variables, sep="/"))
        with Store(workdir / "checkpoints") as store:
            assert store.steps()[-1] == 1500
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)
