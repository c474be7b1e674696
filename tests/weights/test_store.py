"""Tests of the checkpoints of a run: no damage is read silently."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.weights import record as records
from llie_jax.weights.digest import digests
from llie_jax.weights.store import Store, Weights
from tests.conftest import ROOT

EXPECTED = {
    "params/last/bias": np.zeros(3, np.float32),
    "params/first/kernel": np.zeros((256, 512), np.float32),
    "batch_stats/mean": np.zeros(16, np.float32),
}


def make(seed):
    """A training state of 2 MB: parameters, optimizer, averages."""
    rng = np.random.default_rng(seed)

    def params():
        return {
            "first": {"kernel": rng.normal(size=(256, 512)).astype(np.float32)},
            "last": {"bias": rng.normal(size=3).astype(np.float32)},
        }

    state = {
        "step": np.int32(seed),
        "params": params(),
        "collections": {"batch_stats": {"mean": np.ones(16, np.float32)}},
        "opt_state": [params(), {"nu": params()}],
        "ema_params": params(),
    }
    return jax.tree.map(jnp.asarray, state)


TEMPLATE = jax.eval_shape(lambda: make(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Steps 1 and 2; the second is the best."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Store(folder, writing=True) as store:
        for step in (1, 2):
            store.save(make(step), step=step, psnr=20.0 + step)
        store.wait()
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of that folder, to be damaged."""
    return shutil.copytree(folder, tmp_path / "run" / "checkpoints")


def equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def is_intact(found: Weights, step: int) -> bool:
    state = make(step)
    expected = {
        "params/last/bias": state["ema_params"]["last"]["bias"],
        "params/first/kernel": state["ema_params"]["first"]["kernel"],
        "batch_stats/mean": state["collections"]["batch_stats"]["mean"],
    }
    facts = (found.step, found.averaged, found.metrics)
    return facts == (step, True, {"psnr": 20.0 + step}) and equal(
        found.tensors, expected
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_found_out(copy, seed):
    draw = random.Random(seed)
    files = [f for f in sorted((copy / "2").rglob("*")) if f.is_file()]
    files = [f for f in files if f.stat().st_size]
    # Half of the damages hit array files, weighted by size; the others any file.
    sizes = [f.stat().st_size if seed % 2 else 1 for f in files]
    [file] = draw.choices(files, sizes)
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)

    with Store(copy) as store:
        try:
            assert is_intact(store.read(EXPECTED), 2)
        except ValueError as error:
            assert "Other steps: 1" in str(error)  # noqa: PT017 - either is right
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        with Store(copy, writing=True) as store:
            state, step = store.restore(TEMPLATE)
    assert equal(state, make(step))
    assert (step == 1) == any("Checkpoint 2 is left" in str(w.message) for w in seen)


READER = """
import sys
from llie_jax.weights.store import Store
import jax
with Store(sys.argv[1]) as store:
    shapes = {"params/last/bias": jax.ShapeDtypeStruct((3,), "float32")}
    shapes["params/first/kernel"] = jax.ShapeDtypeStruct((256, 512), "float32")
    shapes["batch_stats/mean"] = jax.ShapeDtypeStruct((16,), "float32")
    try:
        store.read(shapes)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
"""


def test_damage_is_one_line_and_no_traceback(copy):
    for file in copy.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:20])
    done = subprocess.run(
        [sys.executable, "-c", READER, copy],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: The checkpoint {copy / '2'} cannot be read")


def test_the_damaged_array_is_named(copy):
    path = copy / "2" / "digest" / "metadata"
    record = records.read(copy / "2")
    record.arrays["ema_params/first/kernel"] = 64 * "0"
    path.write_text(json.dumps(record.to_json()))
    expected = r"/2 cannot be read \(not as they were saved: ema_params/first/kernel\)"
    with (
        Store(copy) as store,
        pytest.raises(ValueError, match=expected + r"\. Other steps: 1\."),
    ):
        store.read(EXPECTED)
    with Store(copy) as store:
        assert is_intact(store.read(EXPECTED, step=1), 1)


@pytest.mark.parametrize("text", ['{"psnr": 92.0}', '{"psnr": 2', "[]", "\0", None])
def test_damaged_scores_are_ignored(copy, text):
    path = copy / "2" / "metrics" / "metrics"
    path.write_text(text) if text else path.unlink()
    expected = "Checkpoint 2: its file of scores is damaged and ignored"
    with Store(copy) as store, pytest.warns(UserWarning, match=expected):
        assert is_intact(store.read(EXPECTED), 2)
    with Store(copy, writing=True) as store:
        with pytest.warns(UserWarning, match=expected):
            state, step = store.restore(TEMPLATE)
        assert step == 2
        assert equal(state, make(2))
        for step in (3, 4):
            store.save(make(step), step=step)
        store.wait()
        assert store.steps() == [2, 3, 4]  # still the best


@pytest.mark.parametrize(
    "text", ["{}", '{"arrays": {}, "metrics": {"psnr": 22.0}}', "\0", None]
)
def test_damaged_digests(copy, text):
    path = copy / "2" / "digest" / "metadata"
    path.write_text(text) if text else shutil.rmtree(path.parent)
    with Store(copy) as store, pytest.raises(ValueError, match=r"/2 cannot be read"):
        store.read(EXPECTED)
    with (
        Store(copy, writing=True) as store,
        pytest.warns(UserWarning, match=r"Checkpoint 2 is left out, and moved to"),
    ):
        state, step = store.restore(TEMPLATE)
    assert step == 1
    assert equal(state, make(1))
    assert (copy.parent / "2.damaged" / "state").is_dir()


def test_a_damaged_best_one_is_set_aside(copy):
    with Store(copy, writing=True) as store:
        store.save(make(3), step=3)
        store.wait()
    (copy / "2" / "digest" / "metadata").write_text('{"psnr": 1.0}')
    with (
        Store(copy, writing=True) as store,
        pytest.warns(UserWarning, match=r"Checkpoint 2 is left out"),
    ):
        assert store.restore(TEMPLATE)[1] == 3
    assert not (copy / "2").exists()


def without_digest(checkpoint):
    """Makes a checkpoint as the first versions saved it."""
    shutil.rmtree(checkpoint / "digest")
    path = checkpoint / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    del metadata["item_handlers"]["digest"]
    path.write_text(json.dumps(metadata))


def test_checkpoints_without_digests_are_used_and_this_is_said(copy):
    for step in (1, 2):
        without_digest(copy / str(step))
    message = "Checkpoint 2 cannot be verified: an older version"
    with Store(copy) as store, pytest.warns(UserWarning, match=message):
        found = store.read(EXPECTED)
    assert (found.step, found.metrics) == (2, {})
    with Store(copy, writing=True) as store:
        with pytest.warns(UserWarning, match=message):
            state, step = store.restore(TEMPLATE)
        assert step == 2
        assert equal(state, make(2))
        store.save(make(3), step=3)
        store.wait()
        assert store.steps() == [2, 3]


def test_digests_without_facts_are_verified(copy):
    """As the versions saved them whose records have no digest of their own."""
    path = copy / "2" / "digest" / "metadata"
    old = json.loads(path.read_text())
    del old["facts"], old["sha256"]
    path.write_text(json.dumps(old))
    with Store(copy) as store:
        assert is_intact(store.read(EXPECTED), 2)
        assert store.check(2).facts == {}
    old["metrics"] = {"psnr": 99.0}
    path.write_text(json.dumps(old))
    with Store(copy) as store, pytest.raises(ValueError, match="scores are damaged"):
        store.read(EXPECTED)


def test_every_checkpoint_is_checked_without_its_model(copy):
    with Store(copy) as store:
        assert store.check(2).metrics == {"psnr": 22.0}
    for file in (copy / "2" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-9])
    with Store(copy) as store:
        with pytest.raises(ValueError, match=r"."):
            store.check(2)
        assert store.check(1).metrics == {"psnr": 21.0}


def test_the_facts_of_a_run_are_in_every_checkpoint(tmp_path):
    facts = {"config": {"seed": 3, "sizes": (1, 2)}, "bound": float("inf")}
    with Store(tmp_path, writing=True, facts=facts) as store:
        store.save(make(1), step=1)
        store.wait()
    expected = {"config": {"seed": 3, "sizes": [1, 2]}, "bound": "inf"}
    assert records.newest(tmp_path) == (1, records.read(tmp_path / "1"))
    assert records.newest(tmp_path)[1].facts == expected
    (tmp_path / "7").mkdir()
    assert records.newest(tmp_path)[0] == 1
    assert records.newest(tmp_path / "nowhere") is None


def test_half_a_removal_leaves_nothing_behind(copy):
    """Old checkpoints are moved away before they are deleted."""
    (copy / ".removed" / "0" / "state").mkdir(parents=True)
    with Store(copy, writing=True) as store:
        assert store.steps() == [1, 2]
        assert not (copy / ".removed").exists()
        for step in (3, 4):
            store.save(make(step), step=step)
        store.wait()
        assert store.steps() == [2, 3, 4]
    assert sorted(path.name for path in copy.iterdir()) == ["2", "3", "4"]


def test_the_last_two_and_the_best_are_kept(tmp_path):
    with Store(tmp_path, writing=True) as store:
        for step, psnr in ((1, 20.0), (2, 21.0), (3, 19.0), (4, None), (5, None)):
            store.save(make(step), step=step, psnr=psnr)
        store.wait()
        assert store.steps() == [2, 4, 5]


def test_digests_tell_dtype_shape_and_values_apart():
    arrays = {
        "zeros": np.zeros((2, 3), np.float32),
        "shape": np.zeros((3, 2), np.float32),
        "dtype": np.zeros((2, 3), np.int32),
        "value": np.full((2, 3), -0.0, np.float32),
        "half": jnp.zeros((2, 3), jnp.bfloat16),
        "scalar": np.float32(0),
        "empty": np.zeros((0, 3), np.float32),
    }
    found = digests({"a": arrays})
    assert set(found) == {f"a/{name}" for name in arrays}
    assert len(set(found.values())) == len(arrays)
    turned = np.zeros((3, 2), np.float32).T
    assert digests([turned])["0"] == found["a/zeros"]
    assert digests([jnp.asarray(turned)])["0"] == found["a/zeros"]


def test_what_is_saved_survives_a_loss_of_power(tmp_path, monkeypatch):
    """All files are synced before the checkpoint gets its name, then that name."""
    synced, sync = [], os.fsync

    def record(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with Store(tmp_path, writing=True) as store:
        store.save(make(1), step=1)
        store.wait()
    unfinished = [path for path in synced if ".orbax-checkpoint-tmp" in path]
    inner = {re.sub(r".*\.orbax-checkpoint-tmp[^/]*", "", path) for path in unfinished}
    saved = [p for p in (tmp_path / "1").rglob("*") if p.name != "commit_success.txt"]
    assert {str(p).removeprefix(str(tmp_path / "1")) for p in saved} <= inner
    assert synced[-1] == str(tmp_path)
