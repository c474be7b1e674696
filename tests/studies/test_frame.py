"""What all studies share, with a study that only counts."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax import metrics, weights
from llie_jax.studies import frame
from tests.evaluation.toys import Gain, MemorySource

SIZES = [(8, 8), (6, 7), (8, 8)]
VARIABLES = {"params": {"gain": jnp.float32(1.5)}}


@dataclasses.dataclass(frozen=True)
class Count(frame.Study):
    """Counts images, and finds one number that is infinite."""

    topic = " of counting"
    needs = ("image",)
    label = "count"

    def check(self, model):
        if not isinstance(model, Gain):
            raise ValueError("no gain")

    def steps(self, subject):
        return subject.count

    def run(self, subject, advance=frame.no_progress):
        names = []
        for record in subject:
            names.append(record["name"])
            advance()
        return frame.Findings({"names": names, "best": math.inf}, np.zeros(3))

    def title(self, numbers):
        return f"{len(numbers['names'])} < 9"

    def lines(self, numbers):
        return [f"best {numbers['best']}", "  a detail"]

    def sections(self, numbers, pictures):
        return [f"<h2>{pictures.size} pictures</h2>"]

    def rows(self, numbers):
        return {"counted": "by hand"}


@pytest.fixture
def source():
    return MemorySource(SIZES)


def test_a_subject_is_the_first_images_without_the_cache(source):
    variables = {**VARIABLES, "cache": {"x": 1}}
    subject = Count().subject(Gain(), variables, source, max_images=2)
    assert subject.count == len(list(subject)) == 2
    assert subject.variables == VARIABLES
    assert Count().subject(Gain(), variables, source, max_images=9).count == 3


def test_what_a_study_refuses(source):
    with pytest.raises(ValueError, match="no gain"):
        Count().subject(None, VARIABLES, source)
    with pytest.raises(ValueError, match="toys test holds no images to study"):
        Count().subject(Gain(), VARIABLES, MemorySource([]))
    alone = MemorySource(SIZES, paired=False)
    assert Count().subject(Gain(), VARIABLES, alone).count == 3

    class Paired(Count):
        needs = ("image", "target")

    with pytest.raises(ValueError, match="The study of counting needs target"):
        Paired().subject(Gain(), VARIABLES, alone)


def test_a_report(source, tmp_path, monkeypatch):
    described = {"spec": {"name": "gain"}, "weights_sha256": "abc"}
    monkeypatch.setattr(weights, "describe", {"toy.safetensors": described}.get)
    study = Count()
    subject = study.subject(Gain(), VARIABLES, source)
    report = frame.report(study, subject, study.run(subject), "toy.safetensors")
    content = report.json()
    assert content.pop("versions").keys() == {"llie_jax", "jax"}
    assert content.pop("device")
    assert content == {
        "model": {"name": "gain"},
        "weights_sha256": "abc",
        "data": {"name": "toys", "split": "test", "images": 3},
        "names": ["0", "1", "2"],
        "best": "inf",
    }
    assert report.lines() == ["best inf", "  a detail"]
    report.write_page(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in (
        "<h1>3 &lt; 9</h1>",
        "<p>best inf</p>",
        "<h2>3 pictures</h2>",
        "<td>counted</td><td>by hand</td>",
    ):
        assert text in page
    assert "a detail" not in page


def test_a_baseline_is_compared_with_changed_models(source):
    subject = Count().subject(Gain(), VARIABLES, source)
    advanced = []
    baseline = frame.Baseline(subject, lambda: advanced.append(1))
    for record, output, psnr in zip(
        subject, baseline.outputs, baseline.psnr, strict=True
    ):
        wanted = np.clip(1.5 * record["image"] / 255, 0, 1)
        np.testing.assert_allclose(output, wanted, atol=1e-6)
        assert psnr == metrics.compute(frame.PSNR, output, record["target"])
    outputs, psnr = baseline.with_params({"gain": jnp.float32(2)})
    assert psnr == [math.inf] * 3  # the target is the doubled image
    np.testing.assert_allclose(outputs[1], 2 * source[1]["image"] / 255, atol=1e-6)
    assert len(advanced) == 6
    with pytest.raises(ValueError, match="0: the model's output is not finite"):
        baseline.with_params({"gain": jnp.float32(math.nan)})
