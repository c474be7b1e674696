import dataclasses
import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from llie_jax import parallel
from llie_jax.configs import base
from llie_jax.data import pipeline
from llie_jax.models.base import Model
from llie_jax.nn import layers
from llie_jax.training import capacity
from llie_jax.training.experiment import Experiment
from llie_jax.types import Outputs

TINY = dict(
    width=2,
    encoder_blocks=(1,),
    middle_encoder_blocks=0,
    middle_decoder_blocks=0,
    decoder_blocks=(1,),
    frequency_gate=False,
)


def tiny_experiment(changes=None, **fields):
    config = base.get_config()
    config.model = base.spec("darkir", **TINY, **fields)
    base.override(config, changes or {})
    config.stages.s0.patch_size = 8
    config.ema.decay = 0.9
    return Experiment.from_config(config)


class OneConvolution(Model):
    """A model that compiles in a second."""

    multiple = 1

    @nn.compact
    def __call__(self, image, *, target=None, train=False):
        return Outputs(layers.Conv(3)(image))


def one_device(memory):
    mesh = Mesh(jax.devices()[:1], (parallel.AXIS,))
    return capacity.Topology(
        name="cpu:1", kind="cpu", mesh=mesh, chips=1, hosts=1, memory=memory
    )


def test_memory_named_by_the_compiler():
    both = "Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded"
    assert capacity.read_exhausted(both) == (17.5 * 2**30, 15.75 * 2**30)
    huge = (
        "Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(512.00M) exceeds available HBM (15.25G)."
    )
    assert capacity.read_exhausted(huge) == (2**29, 15.25 * 2**30)
    assert capacity.read_exhausted("RESOURCE_EXHAUSTED: something else") == (None, None)


def made(per_device, fits, needed=None):
    return capacity.StepPlan(
        crop=(8, 8),
        batch_size=per_device,
        per_device=per_device,
        fits=fits,
        needed=needed,
        macs=0,
        compile_seconds=0.0,
    )


@pytest.mark.parametrize("start", [1, 7, 12, 64])
def test_search_ends_with_the_largest_power_of_two(start):
    plans = capacity.search(lambda n: made(n, n <= 13), start)
    assert plans[-1].per_device == 8
    assert {8, 16} <= {p.per_device for p in plans}
    assert len(plans) <= 5


def test_search_tries_what_can_be_accumulated():
    plans = capacity.search(lambda n: made(n, n <= 13), 7, accumulate=3)
    assert [p.per_device for p in plans] == [24, 6, 12]
    for start in (1, 12):
        plans = capacity.search(lambda n: made(n, False), start, accumulate=6)
        assert plans[-1].per_device == 6


def test_a_batch_that_cannot_be_accumulated():
    planner = capacity.Planner(tiny_experiment({"accumulate": 4}), one_device(None))
    with pytest.raises(ValueError, match=r"6 images .*accumulate=4 does not divide"):
        planner.plan((8, 8), 6)


def test_search_where_nothing_fits_ends_with_one_image():
    plans = capacity.search(lambda n: made(n, False), 4)
    assert [p.per_device for p in plans] == [4, 2, 1]


@pytest.mark.parametrize(
    "name", ["", "v5e", "foo", "v5e:4x", "cpu:0", "v5e-8", "V5e:2x2"]
)
def test_a_bad_topology_is_named_with_examples(name):
    with pytest.raises(ValueError, match=r"not a topology.*v5e:16x16.*cpu:8"):
        capacity.open_topology(name)


def test_missing_libtpu_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    for key in capacity._ENVIRONMENT:
        monkeypatch.setenv(key, "")
    with pytest.raises(ImportError, match=r"pip install 'llie-jax\[tpu\]'"):
        capacity.open_topology("v5e:2x2")


def test_a_step_on_one_device_and_the_way_out_when_it_does_not_fit():
    experiment = dataclasses.replace(tiny_experiment(), model=OneConvolution())
    fitting = capacity.Planner(experiment, one_device(memory=None)).plan((8, 8), 2)
    assert fitting.fits
    assert fitting.batch_size == fitting.per_device == 2
    assert fitting.arguments > 2 * 2 * 8 * 8 * 3
    parts = fitting.arguments + fitting.outputs + fitting.temporaries + fitting.code
    assert fitting.needed == parts - fitting.aliased
    # The step needs no gradient of the image.
    assert fitting.macs == 2 * (2 * 8 * 8 * 3 * 3 * 3 * 3)

    planner = capacity.Planner(experiment, one_device(memory=fitting.needed - 1))
    advice = "\n".join(planner.advice(fitting))
    assert "--per-device-batch 1" in advice
    assert "on at least 2 devices" in advice
    assert "--config.model.dtype=bfloat16" in advice
    assert "--config.accumulate=N, which divides 2" in advice
    planner = capacity.Planner(tiny_experiment(dtype="bfloat16"), one_device(memory=1))
    advice = planner.advice(made(1, False, needed=10**9))
    assert len(advice) == 2
    assert advice[0].startswith("--config.remat=*/block_*")
    assert advice[1] == "a smaller patch_size, or a smaller model"


def test_resident_data_take_memory_on_each_device():
    resident = capacity.Planner(
        tiny_experiment(), one_device(None), resident=(50, 40, 60)
    )
    step, arguments = resident._step((8, 12), 4)
    _, constants, batch, _ = arguments
    assert constants["data"]["image"].shape == (50, 40, 60, 3)
    assert (batch["rows"].shape, batch["columns"].shape) == ((4, 8), (4, 12))
    assert jax.eval_shape(step, *arguments)[1]["loss"].shape == ()
    with pytest.raises(ValueError, match=r"A crop of 8 x 64 is larger than .* 40 x 60"):
        resident.plan((8, 64), 1)
    experiment = tiny_experiment({"data.train.size": (40, 64)})
    with pytest.raises(ValueError, match=r"all images to 40 x 64, .* are 40 x 60"):
        capacity.Planner(experiment, one_device(None), resident=(50, 40, 60))


def test_pmap_is_refused_on_several_hosts():
    experiment = tiny_experiment({"parallel": "pmap"})
    topology = dataclasses.replace(one_device(None), name="v5e:2x4", hosts=2)
    with pytest.raises(ValueError, match=r"one host; v5e:2x4 has 2.*shard_map"):
        capacity.Planner(experiment, topology)


def grouped(text):
    """Returns what grouped convolutions in StableHLO are grouped along."""
    return re.findall(r"(feature|batch)_group_count = (?:[2-9]|\d{2,})", text)


def test_a_tpu_gets_native_grouped_convolutions_though_this_is_a_cpu():
    experiment = tiny_experiment()
    step = jax.jit(experiment.train_step(pipeline.expand_images, None))
    pixels = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.uint8)
    traced = step.trace(
        jax.eval_shape(experiment.init),
        {"loss": {}, "data": {}},
        {
            "image": pixels,
            "target": pixels,
            "index": jax.ShapeDtypeStruct((1,), jnp.int32),
        },
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    tpu = grouped(traced.lower(lowering_platforms=("tpu",)).as_text())
    # Kernel gradients are grouped along the batch.
    assert {"feature", "batch"} == set(tpu)
    assert not grouped(traced.lower(lowering_platforms=("cpu",)).as_text())


@pytest.mark.slow
def test_a_tpu_slice_that_is_not_there(tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, the compiler for TPUs (extra 'tpu')")
    # In a new process, because JAX fixes its platforms at start-up.
    code = """
import jax
from tests.training.test_capacity import tiny_experiment
from llie_jax.training import capacity
for name, chips, hosts in (("v4:2x2x2", 8, 2), ("v5e:2x4", 8, 2)):
    topology = capacity.open_topology(name)
    assert (topology.chips, topology.devices, topology.hosts) == (chips, chips, hosts)
    assert 15e9 < topology.memory < 34e9, topology.memory
experiment = tiny_experiment()
planner = capacity.Planner(experiment, topology, quick=True)
made = planner.plan((8, 8), 2)
assert made.fits and made.batch_size == 16
params = sum(x.size for x in jax.tree.leaves(planner._state.params))
assert 4 * params <= made.collectives["all-reduce"]["bytes"] < 4 * params + 100
assert made.program.cycles > 0 and len(made.program.costs) == 10
assert 0 < made.projection.efficiency < 1
try:
    capacity.open_topology("v5e:3x5")
except ValueError as error:
    assert "v5e:16x16" in str(error)
print("done")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900
    )
    assert result.stdout.endswith("done\n"), result.stderr[-2000:]
