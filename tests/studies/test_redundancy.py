"""Resetting layers, and how kernels of images compare."""

import jax
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax.metrics import dmr
from llie_jax.studies import redundancy, redundancy_report
from tests.evaluation.toys import MemorySource

BACKBONE = {"name": "retinexformer", "width": 4, "num_blocks": (1, 1)}
ADR = {
    "name": "adr",
    "width": 3,
    "conv": {"name": "orthogonal", "embedding_dim": 8, "decoder_gain": 8.0},
}
ATTENTION = [
    f"stage_0/denoiser/{place}/block_0/attention"
    for place in ("encoder_0", "bottleneck", "decoder_0")  # as they are run
]


@pytest.fixture(scope="module")
def made():
    model = llie_jax.build({**BACKBONE, "reallocate": ADR})
    image = np.zeros((1, 8, 8, 3), np.float32)
    return model, jax.jit(model.init)(jax.random.key(5), image)


@pytest.fixture(scope="module")
def study(made):
    return redundancy.Study(*made, MemorySource([(16, 20), (14, 18)]))


def changed(before, after):
    before, after = (traverse_util.flatten_dict(x, sep="/") for x in (before, after))
    assert before.keys() == after.keys()
    return {name for name in before if np.any(before[name] != after[name])}


def test_layers(made):
    model, _ = made
    assert redundancy.layers(model) == ATTENTION
    assert redundancy.layers(model, pattern="*decoder_0*") == ATTENTION[2:]
    found = redundancy.layers(model, "feed_forward")
    assert [path.rpartition("/")[2] for path in found] == ["feed_forward"] * 3
    with pytest.raises(ValueError, match="no attention layer that fits 'latent/"):
        redundancy.layers(model, pattern="latent/*")
    with pytest.raises(ValueError, match=r"Did you mean 'attention'"):
        redundancy.layers(model, "attenton")


@pytest.mark.parametrize(
    ("name", "attention", "feed_forward"),
    [("restormer", 44, 44), ("retinexformer", 8, 8), ("cidnet", 11, 11)],
)
def test_layers_of_the_full_backbones(name, attention, feed_forward):
    """CIDNet's discarded branch is no layer: resetting it would give 100 dB."""
    model = llie_jax.build(name)
    assert len(redundancy.layers(model)) == attention
    assert len(redundancy.layers(model, "feed_forward")) == feed_forward
    assert not any("i_lca5" in path for path in redundancy.layers(model))


def test_reset_touches_its_layers_only(made):
    model, variables = made
    params = variables["params"]

    def reset(*args, **kwargs):
        return redundancy.reset(model, params, *args, **kwargs)

    layer, other = ATTENTION[2:], ATTENTION[1]
    first = reset(layer, seed=0)
    names = changed(params, first)
    assert names
    assert all(name.startswith(f"{layer[0]}/") for name in names)
    assert any("reallocate" in name for name in names)
    assert not changed(first, reset(layer, seed=0))
    assert changed(first, reset(layer, seed=1)) <= names
    # A layer is drawn alike whichever others are.
    both = reset([other, *layer], seed=0)
    assert all(name.startswith(f"{other}/") for name in changed(first, both))
    backbone_only = changed(params, reset(layer, seed=0, backbone_only=True))
    assert backbone_only == {name for name in names if "reallocate" not in name}
    scale = f"{layer[0]}/scale"
    assert np.all(traverse_util.flatten_dict(first, sep="/")[scale] == 1)


def test_a_study(study):
    kinds = {"attention": ATTENTION[:2]}
    result = redundancy.run(study, kinds, seeds=range(2)).summary()
    by_layer = result["layers"]["attention"]
    assert list(by_layer) == ATTENTION[:2]
    values = [by_layer[layer]["degeneration"] for layer in by_layer]
    assert result["dmr"]["attention"]["value"] == pytest.approx(np.mean(values))
    assert result["dmr"]["attention"]["by_seed"] == pytest.approx(np.mean(values, 0))
    assert result["dmr"]["attention"]["layers"] == 2
    assert 0 < result["dmr"]["attention"]["value"] < 100
    group = result["reset"]["attention"]
    after = np.array(list(group["images"].values()))  # [images, seeds]
    before = np.array(list(result["images"].values()))
    assert group["psnr_change"] == pytest.approx(list((after.T - before).mean(1)))
    assert group["poi"] == [dmr.poi(before, seed) for seed in after.T]
    single = study.reset(ATTENTION[:1], seed=1)
    assert np.mean(single.degeneration) == pytest.approx(values[0][1])


def test_as_trained_nothing_changes(study):
    assert study.replaced(study.params) == study.psnr


def test_kernel_variation():
    kernels = np.array([[3.0, 4.0], [3.0, 4.0]])
    assert redundancy.kernel_variation(kernels) == 0
    kernels = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    # |x - y| / |x| over ordered pairs: 1, 1, (0 has no length), 1/2, 1.
    found = redundancy.kernel_variation(kernels[[0, 2]])
    assert found == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(ValueError, match="there is 1"):
        redundancy.kernel_variation(kernels[:1])


def test_kernels_of_a_model(study):
    result = redundancy.compare_kernels(study)
    place = f"{ATTENTION[2]}/reallocate"
    assert set(result["maps"]) == {f"{place}/squeeze", f"{place}/expand"}
    assert result["maps"][f"{place}/squeeze"].shape == (2, 36)
    assert result["kernels"][f"{place}/squeeze"] > 0
    assert result["kernels"][f"{place}/expand"] == 0  # it begins with zeros
    plain = llie_jax.build(BACKBONE)
    with pytest.raises(ValueError, match="Retinexformer generates no kernels"):
        redundancy.check_generates(plain)


def test_gradients_are_those_of_training_pairs(study):
    source = MemorySource([(9, 11), (8, 8), (20, 16)])
    found = study.gradients(source, count=2)
    assert len(found) == 2
    assert not changed(found[0], study.gradients(source, count=1)[0])
    with pytest.raises(ValueError, match="a side of 1 pixels; gradients need 2"):
        study.gradients(MemorySource([(8, 1)]))


def test_report(study, tmp_path):
    facts = {
        "study": "reset",
        "model": BACKBONE,
        "weights_sha256": "0",
        "data": {"name": "toys"},
        "backbone_only": False,
    }
    kinds = {"attention": ATTENTION[:1]}
    result = redundancy.run(study, kinds, seeds=[0]).summary()
    kernels = redundancy.compare_kernels(study)
    redundancy_report.write(tmp_path / "report.html", facts | result | kernels)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert page.count("data:image/png") == 2
    assert ATTENTION[0] in page
    text = "\n".join(redundancy_report.lines(facts | result))
    assert "DMR attention" in text
    assert dmr.DMR in text
