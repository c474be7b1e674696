"""Metrics without references, with constants, and in batches."""

import numpy as np
import pytest

from llie_jax import metrics
from llie_jax.metrics import protocol as protocols
from tests.metrics import toys


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    with toys.registered(monkeypatch):
        yield


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (7, 12, 16, 3)).astype(np.uint8) for _ in range(2)]


def test_one_image_without_a_reference(pairs):
    image = pairs[0][0]
    expected = image.mean() / 255
    assert metrics.compute("toy_level", image) == pytest.approx(expected)
    halved = {"name": "toy_level", "white": 510.0}
    assert metrics.compute(halved, image) == pytest.approx(expected / 2)
    with pytest.raises(ValueError, match="toy_level takes no target"):
        metrics.compute("toy_level", image, image)
    with pytest.raises(ValueError, match="rgb_uint8 needs a target"):
        metrics.compute("rgb_uint8", image)


def test_columns_get_what_they_need(pairs):
    images, targets = pairs
    columns = {"level": "toy_level", "psnr": "rgb_uint8", "distance": "toy_distance"}
    scorer = metrics.Scorer(columns)
    assert scorer.batch == 3
    rows = scorer(images, targets)
    assert toys.LOADED == ["network"]
    assert toys.CALLS == [3, 3, 1]
    for row, image, target in zip(rows, images, targets, strict=True):
        assert list(row) == list(columns)
        assert row["level"] == metrics.compute("toy_level", image)
        assert row["psnr"] == metrics.compute("rgb_uint8", image, target)
        difference = 10 * np.abs(image.astype(float) - target).mean()
        assert row["distance"] == pytest.approx(difference, rel=1e-12)


def test_constants_are_loaded_once(pairs):
    constants = {}
    columns = {"a": "toy_distance", "b": {"name": "toy_distance", "file": "other"}}
    scorers = [
        metrics.Scorer(columns, constants=constants),
        metrics.Scorer({"c": "toy_distance"}, constants=constants),
    ]
    assert toys.LOADED == ["network", "other"]
    for scorer in scorers:
        for image, target in zip(*pairs, strict=True):
            scorer([image], [target])
    assert toys.LOADED == ["network", "other"]


def test_errors_name_the_image(pairs):
    images, targets = pairs
    scorer = metrics.Scorer({"psnr": "rgb_uint8", "ssim": "gauss11"})
    names = [f"photo {k}" for k in range(7)]
    broken = [*images[:6], np.full((12, 16, 3), np.nan)]
    with pytest.raises(ValueError, match="photo 6: image holds 576 values that are"):
        scorer(broken, targets, names=names)
    with pytest.raises(ValueError, match="photo 0: gauss11 needs images of at least"):
        scorer([x[:8] for x in images], [x[:8] for x in targets], names=names)
    with pytest.raises(ValueError, match=r"^rgb_uint8 needs a target"):
        scorer(images)


def test_a_protocol_without_references(pairs, monkeypatch):
    image = pairs[0][0] / np.float32(255) + 0.2
    without = protocols.Protocol("level", "", {"level": "toy_level"}, output="clip")
    assert not without.needs_target
    without.check_keys(("image",), "the photos")
    expected = metrics.compute("toy_level", np.clip(image, 0, 1))
    assert without.score(image) == {"level": expected}
    assert without.score(image, image) == {"level": expected}

    comparing = {n: p for n, p in protocols.PROTOCOLS.items() if p.needs_target}
    monkeypatch.setattr(protocols, "PROTOCOLS", comparing)
    mixed = protocols.Protocol(
        "mixed", "", {"psnr": "rgb_uint8", "level": "toy_level", "ssim": "gauss11"}
    )
    assert mixed.needs_target
    mixed.check_keys(("image", "target"), "the pairs")
    with pytest.raises(ValueError, match="'mixed' needs references") as raised:
        mixed.check_keys(("image",), "image_folder all")
    message = str(raised.value)
    assert "image_folder all does not have: psnr (rgb_uint8), ssim (gauss11)" in message
    assert "without one do level (toy_level). Use data with references." in message
    monkeypatch.setitem(protocols.PROTOCOLS, "level", without)
    with pytest.raises(
        ValueError, match=r"do none of its metrics.*, or the protocol level\."
    ):
        protocols.get("default").check_keys(("image",), "image_folder all")
