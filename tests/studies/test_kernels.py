"""How the kernels of images compare."""

import numpy as np
import pytest

import llie_jax
from llie_jax.studies import kernels
from tests.evaluation.toys import MemorySource
from tests.studies.conftest import ATTENTION, BACKBONE


def test_kernel_variation():
    given = np.array([[3.0, 4.0], [3.0, 4.0]])
    assert kernels.kernel_variation(given) == 0
    given = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    # |x - y| / |x| over ordered pairs: 1, 1, (0 has no length), 1/2, 1.
    found = kernels.kernel_variation(given[[0, 2]])
    assert found == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(ValueError, match="there is 1"):
        kernels.kernel_variation(given[:1])


def test_kernels_of_a_model(made):
    study = kernels.KernelStudy()
    source = MemorySource([(16, 20), (14, 18)], paired=False)
    subject = study.subject(*made, source)
    advanced = []
    found = study.run(subject, lambda: advanced.append(1))
    assert len(advanced) == study.steps(subject)
    result, maps = found.numbers, found.pictures
    place = f"{ATTENTION[2]}/reallocate"
    assert set(maps) == {f"{place}/squeeze", f"{place}/expand"}
    assert maps[f"{place}/squeeze"].shape == (2, 36)
    assert result["kernels"][f"{place}/squeeze"] > 0
    assert result["kernels"][f"{place}/expand"] == 0  # it begins with zeros
    page = "".join(study.sections(result, maps))
    assert page.count("data:image/png") == 2
    assert place in page
    assert study.lines(result)[0].startswith("kernels differ between images by")


def test_models_without_generated_kernels():
    with pytest.raises(ValueError, match="Retinexformer generates no kernels"):
        kernels.KernelStudy().check(llie_jax.build(BACKBONE))
