"""The effect of resetting layers."""

import numpy as np
import pytest

from llie_jax.metrics import dmr
from llie_jax.studies import frame, redundancy
from tests.evaluation.toys import MemorySource
from tests.studies.conftest import ATTENTION

FIRST_TWO = redundancy.ResetStudy(kinds=("attention",), pattern="*/[eb][no]*", seeds=2)


@pytest.fixture(scope="module")
def subject(made):
    return FIRST_TWO.subject(*made, MemorySource([(16, 20), (14, 18)]))


def test_a_study(subject):
    result = FIRST_TWO.run(subject).numbers
    by_layer = result["layers"]["attention"]
    assert list(by_layer) == ATTENTION[:2]
    values = [by_layer[layer]["degeneration"] for layer in by_layer]
    assert result["dmr"]["attention"]["value"] == pytest.approx(np.mean(values))
    assert result["dmr"]["attention"]["by_seed"] == pytest.approx(np.mean(values, 0))
    assert result["dmr"]["attention"]["layers"] == 2
    assert 0 < result["dmr"]["attention"]["value"] < 100
    found = result["poi"]["attention"]
    assert found["by_seed"] == pytest.approx(
        np.mean([by_layer[layer]["poi"] for layer in by_layer], 0)
    )
    eight = result["dmr"]["attention"]["in_8_bits"]["value"]
    assert 0 < abs(eight - result["dmr"]["attention"]["value"]) < 20
    group = result["reset"]["attention"]
    after = np.array(list(group["images"].values()))  # [images, seeds]
    before = np.array(list(result["images"].values()))
    assert group["psnr_change"] == pytest.approx(list((after.T - before).mean(1)))
    assert group["poi"] == [dmr.poi(before, seed) for seed in after.T]
    baseline = frame.Baseline(subject)
    single = FIRST_TWO.change(baseline, ATTENTION[:1], seed=1)
    assert np.mean(single.degeneration) == pytest.approx(values[0][1])


@pytest.mark.parametrize("measure", redundancy.MEASURES)
def test_progress_ends_at_the_number_of_steps(subject, measure):
    study = redundancy.ResetStudy(measure, pattern="*decoder_0*", seeds=1)
    assert set(study.layers(subject.model)) == {"attention", "feed_forward"}
    advanced = []
    result = study.run(subject, lambda: advanced.append(1)).numbers
    assert len(advanced) == study.steps(subject)
    assert bool(result["dmr"]) == bool(result["poi"]) == (measure != "together")
    assert bool(result["reset"]) == (measure in ("reset", "together"))


def test_any_module_can_be_reset(subject):
    study = redundancy.ResetStudy("dmr", pattern="*/reallocate", seeds=1)
    result = study.run(subject).numbers
    path = f"{ATTENTION[2]}/reallocate"
    assert list(result["layers"]) == ["module"]
    assert list(result["layers"]["module"]) == [path]
    text = "\n".join([*study.lines(result), *study.sections(result, None)])
    assert f"module       {path}" in text
    with pytest.raises(ValueError, match="no module that fits 'latent/"):
        redundancy.ResetStudy(pattern="latent/*").check(subject.model)


def test_a_pattern_for_layers_of_the_other_kind(subject):
    study = redundancy.ResetStudy(kinds=("attention",), pattern="*/feed_forward")
    with pytest.raises(ValueError, match="no attention layer that fits"):
        study.check(subject.model)
    study = redundancy.ResetStudy(pattern="*/reallocate", backbone_only=True)
    with pytest.raises(ValueError, match="backbone_only is for attention layers"):
        study.check(subject.model)


def test_as_trained_nothing_changes(subject):
    baseline = frame.Baseline(subject)
    _, psnr = baseline.with_params(subject.variables["params"])
    assert psnr == baseline.psnr


def test_mistakes(made):
    with pytest.raises(ValueError, match=r"Unknown measure 'dmt'. Did you mean 'dmr'"):
        redundancy.ResetStudy("dmt")
    with pytest.raises(
        ValueError, match="redundancy needs target; the records of toys"
    ):
        FIRST_TWO.subject(*made, MemorySource([(16, 20)], paired=False))


def test_report(subject):
    study = redundancy.ResetStudy(pattern=ATTENTION[0], seeds=1)
    result = study.run(subject).numbers
    page = "".join(study.sections(result, None))
    assert page.count("<svg") == 4
    assert ATTENTION[0] in page
    text = "\n".join(study.lines(result))
    assert "DMR attention" in text
    assert dmr.DMR in text
