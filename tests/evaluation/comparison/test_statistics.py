import math

import numpy as np
import pytest

from llie_jax.evaluation.comparison import statistics


def test_by_hand():
    found = statistics.paired([3, 4, 5, 6, 2, 1], [2, 3, 4, 5, 1, 1])
    assert (found.count, found.better, found.worse) == (6, 5, 0)
    assert found.mean == pytest.approx(5 / 6)
    assert found.p == pytest.approx(2 * 0.5**5)  # the tie is left out
    assert found.low < 5 / 6 < found.high


def test_the_interval_is_that_of_the_mean():
    rng = np.random.default_rng(1)
    first = rng.normal(20.3, 2, 400)
    found = statistics.paired(first, np.full(400, 20.0))
    half = 1.96 * first.std(ddof=1) / 20
    assert found.low == pytest.approx(first.mean() - 20 - half, abs=0.1 * half)
    assert found.high == pytest.approx(first.mean() - 20 + half, abs=0.1 * half)
    again = statistics.paired(first, np.full(400, 20.0))
    assert (again.low, again.high) == (found.low, found.high)


def test_lower_is_better():
    found = statistics.paired([0.1, 0.2, 0.3], [0.2, 0.3, 0.1], higher_is_better=False)
    assert (found.better, found.worse) == (2, 1)
    assert found.mean == pytest.approx(0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0], [2.0], dict(count=1, mean=-1.0, low=None, high=None, p=1.0)),
        ([2.0, 3.0], [1.0, 2.0], dict(mean=1.0, low=1.0, high=1.0, p=0.5)),
        ([1.0, 1.0], [1.0, 1.0], dict(mean=0.0, low=0.0, better=0, worse=0, p=1.0)),
        ([math.inf, 3.0], [2.0, 2.0], dict(count=1, left_out=1, mean=1.0, better=2)),
        ([math.inf], [math.inf], dict(count=0, left_out=1, mean=None, p=None)),
    ],
)
def test_limits(first, second, expected):
    found = statistics.paired(first, second)
    assert {key: getattr(found, key) for key in expected} == expected


def test_caution():
    assert "15 images decide little" in statistics.caution(15, 15)
    assert "1 image decides little" in statistics.caution(1, 1)
    assert "3 to 90 images decide little" in statistics.caution(3, 90)
    assert "With 3 the sign test cannot fall below 0.25" in statistics.caution(3, 90)
    assert "decide" not in statistics.caution(100, 100)
