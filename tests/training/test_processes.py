"""Runs of several processes: preempted, killed, and resumed elsewhere."""

import random
import re
import signal
import time

import numpy as np
import pytest
from flax import traverse_util

from llie_jax import cluster, weights
from llie_jax.weights.run import read_log
from tests import processes
from tests.test_cluster import EXPLICIT, finish, free_port
from tests.training import toys

pytestmark = pytest.mark.slow

EXPERIMENT = """
from tests.training import toys

def get_config():
    return toys.config(
        {root!r},
        **{{
            "stages.s0.steps": {steps},
            "stages.s0.batch_size": 8,
            "log.every_steps": 10,
            "evaluate.every_steps": 100,
            "checkpoint.every_steps": 20,
        }},
    )
"""
STEPS = 300


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    root = toys.write_pairs(folder / "pairs")
    path = folder / "experiment.py"
    path.write_text(EXPERIMENT.format(root=str(root), steps=STEPS))
    return path


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory):
    """Parameters of an unbroken run of two processes."""
    workdir = tmp_path_factory.mktemp("whole")
    train(config, workdir, count=2)
    return parameters(workdir)


def start(config, workdir, *more, count=1, devices=1):
    """Starts `llie-jax train` in one process, or in several with flags."""
    command = ["train", "--config", config, "--workdir", workdir, *more]
    address = f"127.0.0.1:{free_port()}"
    started = []
    for i in range(count):
        flags = ["--coordinator", address, "--num-processes", count, "--process-id", i]
        started.append(
            processes.start(
                "llie_jax.cli.main",
                *command,
                *(flags if count > 1 else ()),
                devices=devices,
            )
        )
    return started


def wait_for_step(workdir, step, started):
    path = workdir / "log.jsonl"
    limit = time.monotonic() + 200
    while max((line["step"] for line in read_log(path)), default=0) < step:
        assert all(process.poll() is None for process in started)
        assert time.monotonic() < limit
        time.sleep(0.02)


def parameters(workdir):
    _, variables = weights.load(workdir, step="latest")
    return traverse_util.flatten_dict(variables, sep="/")


def train(config, workdir, *more, **options):
    """Trains to the end of the command; returns what process 0 said."""
    ended = finish(start(config, workdir, *more, **options), timeout=300)
    assert [status for status, _ in ended] == [0] * len(ended), ended
    return ended[0][1]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("fault", [signal.SIGTERM, signal.SIGKILL])
def test_what_happens_to_one_process_happens_to_all(
    config, expected, tmp_path, number, fault
):
    broken = tmp_path / "broken"
    started = start(config, broken, count=2)
    wait_for_step(broken, 50, started)
    started[number].send_signal(fault)
    begun = time.monotonic()
    ended = finish(started, timeout=60)
    assert time.monotonic() - begun < 60
    said = "".join(error for _, error in ended)
    if fault == signal.SIGTERM:
        assert [status for status, _ in ended] == [128 + fault] * 2
        assert re.search(rf"stopped at step \d+ of {STEPS}", said)
    else:
        assert ended[number][0] == -fault
        status, error = ended[1 - number]
        assert status == cluster.LOST
        line = re.search(rf"^error: .*process {1 - number} of 2 on .*$", error, re.M)
        assert re.search(rf"process {number}(,| of 2) .*lost|is process 0", line[0])

    said = train(config, broken, count=2)
    assert re.search(r"resuming at step \d+", said), said
    found = parameters(broken)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_ten_kills_of_one_of_two_processes_lose_nothing(tmp_path):
    """At random moments after a new checkpoint, many of them during the next save."""
    steps, draw = 1500, random.Random(0)
    root = toys.write_pairs(tmp_path / "pairs")
    config = tmp_path / "experiment.py"
    config.write_text(EXPERIMENT.format(root=str(root), steps=steps))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole, count=2)
    for _ in range(10):
        before = saved(broken)
        started = start(config, broken, count=2)
        limit = time.monotonic() + 200
        while saved(broken) <= before:
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.4))
        number = draw.randrange(2)
        assert all(process.poll() is None for process in started), "finished too soon"
        kept = saved(broken)
        started[number].kill()
        ended = finish(started, timeout=60)
        assert ended[1 - number][0] == cluster.LOST, ended
        assert saved(broken) >= kept
    train(config, broken, count=2)
    found = parameters(broken)
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def saved(workdir):
    """The newest complete checkpoint."""
    folder = workdir / "checkpoints"
    return max((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), default=0)


def test_a_script_of_the_user_trains_in_two_processes(config, tmp_path):
    """It joins without a notice of preemption, and hears of it once."""
    workdir = tmp_path / "run"

    def run(stop_at):
        port = free_port()
        started = [
            processes.start(
                "tests.training.joined_check",
                *(config, workdir, stop_at),
                devices=1,
                **{k: v.format(i=i, port=port) for k, v in EXPLICIT.items()},
            )
            for i in range(2)
        ]
        ended = finish(started, timeout=300)
        assert [status for status, _ in ended] == [0, 0], ended
        return [error for _, error in ended]

    said = run(40)
    assert ["joined(preemptible=True)" in each for each in said] == [True, False]
    newest = workdir / "checkpoints" / "40"
    largest = max(newest.rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    said = run(60)
    assert "resuming at step 20" in said[0]
    assert ["Checkpoint 40 is left out" in each for each in said] == [True, False]


def test_a_run_of_four_devices_goes_on_elsewhere(config, tmp_path):
    saved = tmp_path / "saved"
    train(config, saved, "--stop-at", 40, devices=4)
    places = [
        {"devices": 4},
        {"devices": 1},
        {"devices": 2},
        {"devices": 8},
        {"devices": 1, "count": 2},
    ]
    restored = []
    for place in places:
        options = {**EXPLICIT, "JAX_NUM_PROCESSES": str(place.get("count", 1))}
        port = free_port()
        found = [
            processes.start(
                "tests.training.restore_check",
                config,
                saved,
                devices=place["devices"],
                **{k: v.format(i=i, port=port) for k, v in options.items()},
            )
            for i in range(place.get("count", 1))
        ]
        results = [processes.result(process) for process in found]
        restored.append(results[0])
    assert restored[0]["step"] == 40
    assert restored[0]["digests"]
    assert all(found == restored[0] for found in restored)
    # Elsewhere it trains on, one place after the other.
    for number, place in enumerate(places[1:], 1):
        step = 40 + 10 * number
        said = train(config, saved, "--stop-at", step, **place)
        assert f"resuming at step {step - 10}" in said
