import json
import os
import re
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import safetensors
import safetensors.numpy

import llie_jax
from llie_jax import registry, weights
from llie_jax.training.state import create_train_state
from llie_jax.types import Pretrained
from llie_jax.weights import release
from llie_jax.weights.store import Store
from tests.conftest import ROOT

SPEC = {
    "name": "darkir",
    "width": 2,
    "encoder_blocks": [1],
    "middle_encoder_blocks": 0,
    "middle_decoder_blocks": 0,
    "decoder_blocks": [0],
    "dilations": [1],
}


@pytest.fixture(scope="module")
def state():
    """A train state whose averaged parameters are twice the raw ones."""
    model, rng = llie_jax.build(SPEC), np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: create_train_state(
            model, optax.adamw(1e-3), jax.random.key(0), average=True
        )
    )
    state = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
    return state.replace(ema_params=jax.tree.map(lambda x: 2 * x, state.params))


def equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, state):
    """A run with steps 1 (best), 2 and 3 (not validated)."""
    workdir = tmp_path_factory.mktemp("run")
    config = {"model": registry.complete_spec(SPEC), "seed": 0}
    (workdir / "config.json").write_text(json.dumps(config))
    with Store(workdir / "checkpoints", writing=True) as store:
        for step, psnr in ((1, 21.0), (2, 20.0), (3, None)):
            scaled = jax.tree.map(lambda x, s=step: s * x, state.ema_params)
            store.save(state.replace(ema_params=scaled), step=step, psnr=psnr)
        store.wait()
    return workdir


class TestReleaseFile:
    @pytest.fixture
    def path(self, tmp_path, state):
        path = tmp_path / "new" / "small.safetensors"
        weights.save(
            path,
            SPEC,
            {"params": state.params},
            trained_on="LOL-v1",
            score={"psnr": 20.5},
            note="x",
        )
        return path

    def test_round_trip(self, path, state):
        model, variables = weights.load(path)
        assert model == llie_jax.build(SPEC)
        equal(variables, {"params": state.params})
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_arrays_keep_their_shape_and_order(self, tmp_path):
        arrays = {"scalar": np.float32(3.0), "turned": np.arange(6).reshape(2, 3).T}
        weights.write_safetensors(tmp_path / "a.safetensors", arrays, {})
        with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
            for name, value in arrays.items():
                assert file.get_tensor(name).shape == value.shape
                np.testing.assert_array_equal(file.get_tensor(name), value)

    def test_contents(self, path):
        with safetensors.safe_open(path, "numpy") as file:
            metadata, names = file.metadata(), list(file.keys())
        assert "params/encoders_0/block_0/beta" in names
        assert json.loads(metadata["spec"]) == registry.complete_spec(SPEC)
        assert json.loads(metadata["score"]) == {"psnr": 20.5}
        assert metadata["llie_jax_version"] == llie_jax.__version__
        assert metadata["trained_on"] == "LOL-v1"
        assert {"protocol", "licence", "note"} <= metadata.keys()

    def test_same_bytes_again(self, path, state):
        first = path.read_bytes()
        for _ in range(3):
            weights.save(
                path,
                SPEC,
                {"params": state.params},
                note="x",
                score={"psnr": 20.5},
                trained_on="LOL-v1",
            )
            assert path.read_bytes() == first

    def test_describe(self, path):
        found = weights.describe(str(path))
        assert found["weights"] == str(path)
        assert found["weights_sha256"] == weights.file_sha256(path)
        assert found["spec"] == registry.complete_spec(SPEC)
        assert (found["source"], found["step"]) == ("file", None)

    def test_variables_of_another_model_are_not_saved(self, tmp_path, state):
        path = tmp_path / "a.safetensors"
        with pytest.raises(ValueError, match=r"Other shapes: params/"):
            weights.save(path, {**SPEC, "width": 4}, {"params": state.params})
        assert not path.exists()

    def test_wrong_names_and_shapes(self, path):
        tensors = safetensors.numpy.load_file(path)
        tensors["params/stranger"] = tensors.pop("params/intro/bias")
        tensors["params/ending/bias"] = np.zeros(5, np.float32)
        weights.write_safetensors(path, tensors, {"spec": SPEC})
        expected = (
            r"Unknown names: params/stranger\. Missing names: params/intro/bias\. "
            r"Other shapes: params/ending/bias \(5,\) instead of \(3,\)"
        )
        with pytest.raises(ValueError, match=expected):
            weights.load(path)

    def test_no_spec(self, path):
        weights.write_safetensors(path, {"a": np.zeros(1)}, {})
        with pytest.raises(ValueError, match="does not name its model"):
            weights.load(path)

    def test_unknown_model(self, path):
        weights.write_safetensors(path, {}, {"spec": {"name": "darkr"}})
        with pytest.raises(ValueError, match="Did you mean 'darkir'"):
            weights.load(path)

    @pytest.mark.parametrize("length", [0, 5, 100, -1])
    def test_damaged(self, path, length):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="damaged"):
            weights.load(path)


class TestRun:
    @pytest.mark.parametrize(("step", "expected"), [("best", 1), ("latest", 3), (2, 2)])
    def test_step(self, workdir, state, step, expected):
        model, variables = weights.load(workdir, step=step)
        assert model == llie_jax.build(SPEC)
        scaled = jax.tree.map(lambda x: expected * x, state.ema_params)
        equal(variables, {"params": scaled})

    def test_folders_inside(self, workdir):
        expected = weights.describe(workdir)
        assert weights.describe(workdir / "checkpoints")["step"] == expected["step"]
        found = weights.describe(workdir / "checkpoints" / "2")
        assert found["step"] == 2
        assert found["weights_sha256"] != expected["weights_sha256"]

    def test_describe(self, workdir):
        found = weights.describe(workdir)
        assert found["source"] == "run"
        assert found["averaged"]
        assert found["metadata"] == {"psnr": 21.0}
        assert found["path"] == str(workdir / "checkpoints" / "1")
        assert found["spec"] == registry.complete_spec(SPEC)
        assert len(found["weights_sha256"]) == 64

    def test_without_averaging(self, tmp_path, workdir, state):
        shutil.copy(workdir / "config.json", tmp_path)
        plain = state.replace(ema_params=None)
        with Store(tmp_path / "checkpoints", writing=True) as store:
            store.save(plain, step=7)
            store.wait()
        equal(weights.load(tmp_path)[1], {"params": state.params})
        assert not weights.describe(tmp_path)["averaged"]

    @pytest.mark.slow
    def test_one_process_of_two_reads_alone(self, tmp_path, workdir, state):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
        }
        command = (sys.executable, "-m", "tests.weights.lone_reader", workdir, tmp_path)
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environment, "JAX_PROCESS_ID": str(i)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        expected = sum(leaf.sum() for leaf in jax.tree.leaves(state.ema_params))
        try:
            for process in processes:
                out, err = process.communicate(timeout=120)
                assert process.returncode == 0, err
                total = float(re.search("^total (.*)$", out, re.MULTILINE)[1])
                assert total == pytest.approx(float(expected), rel=1e-4)
        finally:
            for process in processes:
                process.kill()

    def test_absent_step(self, workdir):
        with pytest.raises(
            ValueError, match=r"no checkpoint of step 9\. Steps: 1, 2, 3"
        ):
            weights.load(workdir, step=9)
        with pytest.raises(ValueError, match="or 'best', 'latest'"):
            weights.load(workdir, step="last")

    def test_other_model(self, tmp_path, workdir):
        shutil.copytree(workdir, tmp_path / "run")
        config = {"model": {**registry.complete_spec(SPEC), "width": 4}}
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            ValueError, match=r"do not fit the model.*Other shapes: par"
        ):
            weights.load(tmp_path / "run")

    def test_damaged_checkpoint(self, tmp_path, workdir):
        shutil.copytree(workdir, tmp_path / "run")
        for file in (tmp_path / "run/checkpoints/1/state").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:10])
        with pytest.raises(ValueError, match=r"cannot be read.*Other steps: 2, 3"):
            weights.load(tmp_path / "run")

    def test_not_begun(self, tmp_path, workdir):
        with pytest.raises(FileNotFoundError, match=r"is neither a run.*config\.json"):
            weights.load(tmp_path)
        shutil.copy(workdir / "config.json", tmp_path)
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
            weights.load(tmp_path)

    def test_config_without_model(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(ValueError, match="no spec under `model`"):
            weights.load(tmp_path)


class TestPublished:
    RECORD = Pretrained(
        spec=SPEC,
        file="official.pt",
        origin="https://example.org",
        licence="MIT",
        trained_on="x",
        score={"psnr": 1.0},
        protocol="y",
        sha256="abc",
    )

    @pytest.fixture
    def folder(self, monkeypatch, tmp_path):
        record = self.RECORD
        monkeypatch.setattr(release, "published", lambda: {"darkir.test": record})
        monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
        return tmp_path

    def test_to_be_fetched(self, folder):
        expected = rf"Get official\.pt from https://example\.org.*convert.*{folder}"
        expected += r'.* --spec .{"width": 2,'
        with pytest.raises(FileNotFoundError, match=expected):
            weights.load("darkir.test")

    def test_load_checks_the_hash(self, folder, state):
        path = folder / "darkir.test.safetensors"
        variables = {"params": state.params}
        weights.save(path, SPEC, variables, source_sha256="abc")
        equal(weights.load("darkir.test")[1], variables)
        assert weights.describe("darkir.test")["source"] == "published"
        weights.save(path, SPEC, variables, source_sha256="def")
        with pytest.raises(ValueError, match="SHA-256 def, but the official"):
            weights.load("darkir.test")

    def test_another_model(self, folder, state):
        path = folder / "darkir.test.safetensors"
        spec = {**SPEC, "dilations": [2]}
        weights.save(path, spec, {"params": state.params}, source_sha256="abc")
        with pytest.raises(ValueError, match="holds"):
            weights.load("darkir.test")

    def test_records_of_the_models(self):
        for name, record in weights.published().items():
            assert name.split(".")[0] == record.spec["name"]
            registry.complete_spec(record.spec)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'darkir\.lol_blur'"):
        weights.load("darkir.lolblur")


def test_pickled_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="llie-jax convert"):
        weights.load(tmp_path / "model.pth")
