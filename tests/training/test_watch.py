"""What a run says about itself: speed, stalls, spikes, traces."""

import sys
import time

import jax
import numpy as np
import pytest

from llie_jax.training import chips, loop, watch
from llie_jax.training.utilisation import step_flops
from llie_jax.training.watch import Spikes, Watchdog
from llie_jax.weights.run import RunFolder, read_log
from tests import processes
from tests.training import toys


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return toys.write_pairs(tmp_path_factory.mktemp("pairs"))


def test_stacks_when_no_step_ends(capfd):
    watchdog = Watchdog(0.2)
    watchdog.start()
    time.sleep(0.5)
    watchdog.stop()
    shown = capfd.readouterr().err
    assert "Timeout" in shown
    assert "test_stacks_when_no_step_ends" in shown
    quiet = Watchdog(0.3)
    quiet.start()
    for _ in range(10):
        time.sleep(0.05)
        quiet.step()
    quiet.stop()
    assert "Timeout" not in capfd.readouterr().err


def test_spikes_are_far_above_the_median_of_those_before():
    spikes = Spikes(3.0, window=4)
    assert spikes.find([9.0]) is None  # too few are known
    assert spikes.find([1.0, 1.0, 1.1]) is None
    assert spikes.find([2.9, 3.5, 1.0]) == 1
    assert spikes.find([1.0]) is None
    assert Spikes(0.0, window=4).find([1.0, 1.0, 1.0, 1e9]) is None


def spiking(monkeypatch, *reads):
    """Makes the second loss of some reads of the terms a spike."""
    count = iter(range(100))
    found = lambda self, losses: 1 if next(count) in reads else None  # noqa: E731
    monkeypatch.setattr(watch.Spikes, "find", found)


def test_a_spike_goes_back_to_the_checkpoint_before(pairs, tmp_path, monkeypatch):
    config = toys.config(pairs)
    before = loop.train(config, tmp_path / "before", stop_at=4, progress=False)
    spiking(monkeypatch, 2)  # steps 5 and 6
    found = loop.train(config, tmp_path / "run", stop_at=6, progress=False)
    assert int(found.state.step) == 6
    for name in ("params", "opt_state", "ema_params"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(found.state, name),
            getattr(before.state, name),
        )
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [x["rolled_back_to"] for x in lines if "rolled_back_to" in x] == [4]
    # What follows is the same after an interruption.
    spiking(monkeypatch, 2)
    unbroken = loop.train(config, tmp_path / "unbroken", progress=False)
    spiking(monkeypatch)
    resumed = loop.train(config, tmp_path / "run", progress=False)
    jax.tree.map(
        np.testing.assert_array_equal, resumed.state.params, unbroken.state.params
    )


def test_spikes_have_a_bound(pairs, tmp_path, monkeypatch):
    spiking(monkeypatch, 1, 2, 3)
    config = toys.config(pairs, **{"spike.max_rollbacks": 2})
    with pytest.raises(loop.LossSpikeError, match=r"step 8: .* after 2 rollbacks"):
        loop.train(config, tmp_path, progress=False)


def test_speed_and_utilisation_in_the_log(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(chips.CHIPS, "cpu", chips.Chip(1e9, 1e9))
    config = toys.config(pairs)
    loop.train(config, tmp_path, profile=2, progress=False)
    place, *lines = read_log(tmp_path / "log.jsonl")
    assert (place["step"], place["devices"], place["processes"]) == (0, 1, 1)
    line = next(line for line in lines if "loss" in line)
    assert line["images_per_second"] == pytest.approx(4 * line["steps_per_second"])
    assert line["images_per_second_per_device"] == line["images_per_second"]
    assert line["gradient_norm"] > 0
    # Two convolutions of 3x3, 3 to 4 and 4 to 3 channels; 4 crops of 16x16.
    flops = 4 * 3 * 2 * 16**2 * 9 * (12 + 12)
    assert step_flops(config)(0) == step_flops(config)(7) == flops
    mfu = flops * line["steps_per_second"] / 1e9
    assert line["mfu"] == pytest.approx(mfu)
    assert list(RunFolder.at(tmp_path).profile.rglob("*.xplane.pb"))


def test_weights_and_biases_need_a_package(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = toys.config(pairs, **{"log.wandb": "trials"})
    with pytest.raises(ImportError, match=r"'trials'.*pip install 'llie-jax\[wandb\]'"):
        loop.train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weights_and_biases_offline(pairs, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra 'wandb'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = toys.config(pairs, **{"log.wandb": "trials"})
    loop.train(config, tmp_path, progress=False)
    assert list((tmp_path / "wandb").rglob("*.wandb"))


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices(pairs, tmp_path):
    def train(devices, folder, stop_at):
        arguments = (pairs, tmp_path / folder, stop_at)
        process = processes.start(
            "tests.training.resume_check", *arguments, devices=devices
        )
        return processes.result(process)

    train(4, "run", 4)
    found = train(2, "run", 0)
    unbroken = train(1, "unbroken", 0)
    assert found["step"] == unbroken["step"] == 8
    np.testing.assert_allclose(found["params"], unbroken["params"], rtol=0, atol=1e-5)
    places = [x for x in read_log(tmp_path / "run" / "log.jsonl") if "devices" in x]
    assert [(place["step"], place["devices"]) for place in places] == [(0, 4), (4, 2)]
