"""Training with LFPV: resuming, logging, grafting, releasing."""

import jax
import numpy as np
import pytest
import safetensors

from llie_jax import weights
from llie_jax.cli import main
from llie_jax.configs import base
from llie_jax.nn import conv_kernels
from llie_jax.training import loop
from llie_jax.training.experiment import Experiment
from llie_jax.weights.run import read_log
from tests.training import toys


@pytest.fixture(scope="module", autouse=True)
def _native_convolutions():
    """Steps compile faster; the CPU's forms have tests of their own."""
    with conv_kernels.use_implementation("lax"):
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return toys.write_pairs(tmp_path_factory.mktemp("pairs"))


def config(pairs, *, wrapped=True, **changes):
    """A config of the toy backbone, with or without the bank."""
    found = toys.config(pairs)
    found.model = base.spec("toy_backbone")
    if wrapped:
        found = base.add_lfpv(found, weight=0.5, num_nodes=3, patch_size=2)
    base.override(found, changes)
    return base.check(found)


@pytest.fixture(scope="module")
def unbroken(pairs, tmp_path_factory):
    """An uninterrupted run of 8 steps: its folder and its result."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, loop.train(config(pairs), workdir, progress=False)


@pytest.fixture(scope="module")
def backbone(pairs, tmp_path_factory):
    """A run of only the backbone."""
    workdir = tmp_path_factory.mktemp("backbone")
    return workdir, loop.train(config(pairs, wrapped=False), workdir, progress=False)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_terms_are_logged_apart(unbroken):
    workdir, _ = unbroken
    lines = [line for line in read_log(workdir / "log.jsonl") if "loss" in line]
    assert len(lines) == 4
    for line in lines:
        total = line["backbone_pixel"] + line["lfpv_pixel"]
        np.testing.assert_allclose(line["loss"], total, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 5])
def test_a_broken_run_goes_on_with_the_same_bank(pairs, unbroken, tmp_path, stop):
    part = loop.train(config(pairs), tmp_path, stop_at=stop, progress=False)
    assert part.step == stop
    last = loop.train(config(pairs), tmp_path, progress=False)
    same(last.state, unbroken[1].state)
    bank = last.state.collections["lfpv"]
    assert np.std(bank["c_v"]) > 0.5
    assert np.any(np.asarray(bank["c_v"]) != part.state.collections["lfpv"]["c_v"])


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [(), ("backbone/*",)])
def test_a_trained_backbone_is_grafted(pairs, backbone, tmp_path, freeze):
    workdir, trained = backbone
    changes = {"init_from": str(workdir), "optimizer.freeze": freeze}
    result = loop.train(config(pairs, **changes), tmp_path, stop_at=1, progress=False)
    # The weights of a run are the averaged ones.
    before, after = trained.state.ema_params, result.state.params["backbone"]
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert any(jax.tree.leaves(moved)) == (not freeze)
    if not freeze:  # one step of Adam is as long as the rate
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=0.011), before, after
        )


def test_the_graft_of_another_backbone(pairs, backbone, tmp_path):
    changes = {"init_from": str(backbone[0]), "model.backbone.width": 5}
    with pytest.raises(
        ValueError, match=r"lfpv on toy_backbone.*params/first/kernel \(2, 2, 3, 4\)"
    ):
        loop.train(config(pairs, **changes), tmp_path, progress=False)


def test_crops_that_patches_do_not_divide(pairs):
    found = config(pairs, **{"stages.s0.patch_size": 18})
    with pytest.raises(ValueError, match="lfpv on toy_backbone needs multiples of 4"):
        Experiment.from_config(found)


def test_release_files_hold_what_inference_needs(unbroken, tmp_path, capsys):
    workdir, _ = unbroken
    file = tmp_path / "bank.safetensors"
    assert main.main(["convert", str(workdir), str(file)]) == 0
    capsys.readouterr()
    with safetensors.safe_open(file, framework="numpy") as opened:
        names = set(opened.keys())
    assert {name.split("/")[1] for name in names} == {"c_v", "c_p", "backbone", "query"}
    run, variables = weights.load(workdir)
    model, released = weights.load(file)
    image = np.random.default_rng(0).random((1, 16, 24, 3), np.float32)
    same(
        jax.jit(model.apply)(released, image).image,
        jax.jit(run.apply)(variables, image).image,
    )
    with pytest.raises(
        ValueError, match="no updaters, as is the case for release files"
    ):
        model.apply(released, image, train=True)


@pytest.mark.slow
def test_training_goes_on_from_a_release_file(pairs, unbroken, tmp_path):
    workdir, _ = unbroken
    file = tmp_path / "bank.safetensors"
    _, variables = weights.load(workdir)
    weights.save(file, weights.describe(workdir)["spec"], variables)
    changes = {"init_from": str(file)}
    with pytest.raises(ValueError, match="Missing names: params/updaters/embedding"):
        loop.train(config(pairs, **changes), tmp_path / "a", progress=False)
    changes["init_missing"] = "params/updaters/*"
    result = loop.train(
        config(pairs, **changes), tmp_path / "b", stop_at=1, progress=False
    )
    assert result.step == 1
