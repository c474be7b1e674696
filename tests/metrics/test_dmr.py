"""Degeneration and POI of images with known values."""

import numpy as np
import pytest

from llie_jax.metrics import dmr


def test_degeneration():
    image = np.full((4, 6, 3), 0.5)
    assert dmr.degeneration(image, image) == 100.0  # floor of the squared error
    assert dmr.degeneration(image, image + 0.1) == pytest.approx(20.0)
    assert dmr.degeneration(image, image + 1e-6) == 100.0
    # Clipped: 1.5 counts as 1.
    assert dmr.degeneration(image, image + 1) == pytest.approx(-20 * np.log10(0.5))
    # In 8 bits, 0.5 is 128 and 0.503 too.
    near = image + 0.003
    assert dmr.degeneration(image, near) == pytest.approx(-20 * np.log10(0.003))
    assert dmr.degeneration(image, near, rounded=True) == 100.0
    far = dmr.degeneration(image, image + 0.1, rounded=True)
    assert far == pytest.approx(-20 * np.log10(25 / 255))
    with pytest.raises(ValueError, match=r"\(4, 6, 3\) and \(4, 5, 3\)"):
        dmr.degeneration(image, image[:, 1:])


def test_poi_is_strict():
    assert dmr.poi([20.0, 21.0, 22.0, 23.0], [20.0, 21.5, 21.0, 30.0]) == 50.0
    with pytest.raises(ValueError, match="2 and 1 scores"):
        dmr.poi([1.0, 2.0], [1.0])
