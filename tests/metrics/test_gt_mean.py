"""GT mean, MAE and cropped borders."""

import json
import math

import numpy as np
import pytest

from llie_jax import metrics
from llie_jax.image import io
from llie_jax.metrics import protocol as protocols

VARIANTS = ("retinexformer", "cidnet", "llflow")


@pytest.fixture(scope="module", params=["g1", "g2", "g3", "g4"])
def golden_pair(request, shared):
    golden = json.loads((shared / "golden" / "metrics.json").read_text())
    folder = shared / "golden" / "images"
    image = io.read_rgb(folder / f"{request.param}_pred.png")
    target = io.read_rgb(folder / f"{request.param}_gt.png")
    return image, target, golden["pairs"][request.param]


def test_golden(golden_pair):
    image, target, values = golden_pair
    for variant in VARIANTS:
        expected = values["gt_mean"][variant]
        found = metrics.compute(f"gtmean_{variant}", image, target)
        assert found == pytest.approx(expected["psnr"], abs=1e-3)
        found = metrics.compute(f"gtmean_{variant}_ssim", image, target)
        assert found == pytest.approx(expected["ssim"], abs=1e-4)
    expected = values["gt_mean"]["canonical"]
    found = metrics.compute("gtmean", image, target)
    assert found == pytest.approx(expected["psnr_uint8"], abs=1e-3)
    found = metrics.compute("gtmean_ssim", image, target)
    assert found == pytest.approx(expected["ssim_uint8"], abs=1e-4)


def test_golden_borders(golden_pair):
    image, target, values = golden_pair
    for spec, group, key, tolerance in (
        ({"name": "rgb_uint8", "crop_border": 4}, "psnr", "rgb_uint8_crop4", 1e-4),
        (
            {"name": "gauss11", "crop_border": 4},
            "ssim",
            "gauss11_valid_rgb_crop4",
            1e-5,
        ),
        ("gauss11_y_full", "ssim", "gauss11_replicate_y_fork", 1e-5),
        ("rgb_uint8", "psnr", "cidnet_eps1e-8", 1e-4),
    ):
        found = metrics.compute(spec, image, target)
        assert found == pytest.approx(values[group][key], abs=tolerance), spec


def test_it_removes_a_factor_on_the_image():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    darker = target / 510
    assert metrics.compute("rgb_uint8", darker, target) < 12
    assert metrics.compute("gtmean", darker, target) == math.inf
    assert metrics.compute("gtmean_ssim", darker, target) == pytest.approx(1)
    assert metrics.compute("gtmean_retinexformer", darker, target) > 100
    black = np.zeros_like(target)
    for name in ("gtmean", *(f"gtmean_{variant}" for variant in VARIANTS)):
        assert metrics.compute(name, black, target) == pytest.approx(
            metrics.compute("rgb_uint8", black, target), abs=1e-4
        )


def test_each_script_has_its_own_mean_and_rounding():
    """Constant colours, by hand."""
    image = np.empty((16, 16, 3))
    image[:] = np.array([200.6, 100.0, 50.0]) / 255
    target = np.empty((16, 16, 3), np.uint8)
    target[:] = [100, 120, 90]

    def psnr(pixels):
        error = (np.asarray(pixels, float) - [100, 120, 90]) ** 2
        return 10 * math.log10(255**2 / error.mean())

    right, wrong = np.array([0.299, 0.587, 0.114]), np.array([0.114, 0.587, 0.299])
    pixels, reference = np.array([200.6, 100, 50]), np.array([100, 120, 90])
    ratio = (right @ reference) / (right @ pixels)
    expected = {"gtmean": np.rint(pixels * ratio)}
    ratio = (wrong @ reference) / (wrong @ pixels)
    expected["gtmean_retinexformer"] = np.minimum(pixels * ratio, 255)
    truncated = np.floor(pixels)
    ratio = np.rint(right @ reference) / np.rint(right @ truncated)
    expected["gtmean_cidnet"] = truncated * ratio
    ratio = (wrong @ reference) / pixels.mean()
    expected["gtmean_llflow"] = np.floor(pixels * ratio)
    found = {name: metrics.compute(name, image, target) for name in expected}
    for name, scaled in expected.items():
        assert found[name] == pytest.approx(psnr(scaled), abs=1e-4), name
    assert len({round(value, 2) for value in found.values()}) == 4


def test_llflow_sees_the_output_before_it_is_clipped():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    image = (1.5 * target / 255 - 0.1).astype(np.float32)
    found = protocols.get("llflow").score(image, target)
    assert found["psnr"] == metrics.compute("rgb_uint8_trunc", image, target)
    assert found["psnr_gt_mean"] == metrics.compute("gtmean_llflow", image, target)
    clipped = metrics.compute("gtmean_llflow", np.clip(image, 0, 1), target)
    assert abs(found["psnr_gt_mean"] - clipped) > 0.1


def test_columns_with_gt_mean_are_extra():
    for name, protocol in protocols.PROTOCOLS.items():
        if not protocol.gt_mean:
            with pytest.raises(ValueError, match="these have: default, retinexformer"):
                protocol.with_gt_mean()
            continue
        more = protocol.with_gt_mean()
        assert list(more.metrics)[: len(protocol.metrics)] == list(protocol.metrics)
        assert more.uses_reference == list(protocol.gt_mean)
        assert protocol.uses_reference == (
            list(protocol.gt_mean) if name == "llflow" else []
        )


def test_mae():
    target = np.full((4, 4, 3), 51, np.uint8)
    image = np.full((4, 4, 3), 0.3, np.float32)
    image[..., 0] = 1.5  # clipped
    expected = (0.8 + 0.1 + 0.1) / 3
    assert metrics.compute("mae", image, target) == pytest.approx(expected, abs=1e-7)
    assert not metrics.card("mae").higher_is_better


def test_borders_that_leave_nothing():
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="crop_border=10 leaves nothing of 20 x 20"):
        metrics.compute({"name": "rgb_uint8", "crop_border": 10}, image, image)
    with pytest.raises(ValueError, match="crop_border=5 leaves less than a window"):
        metrics.compute({"name": "gauss11", "crop_border": 5}, image, image)
