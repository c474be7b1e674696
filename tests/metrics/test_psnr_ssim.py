import hashlib
import json
import math

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as oracle

from llie_jax import metrics, registry
from llie_jax.image import io
from llie_jax.metrics import in_training

PSNR = ("rgb_uint8", "rgb_uint8_trunc", "rgb_float", "y_float")
SSIM = ("gauss11", "gauss11_y", "uniform7", "uniform7_gray", "gauss_volume")
GOLDEN_NAMES = {
    "rgb_uint8": ("psnr", "rgb_uint8"),
    "rgb_uint8_trunc": ("psnr", "rgb_uint8"),  # the golden images are 8-bit already
    "rgb_float": ("psnr", "retinexformer_float01"),
    "y_float": ("psnr", "y_bt601_float"),
    "gauss11": ("ssim", "gauss11_valid_rgb"),
    "gauss11_y": ("ssim", "gauss11_valid_y_bt601"),
    "uniform7": ("ssim", "uniform7_skimage_rgb"),
    "uniform7_gray": ("ssim", "uniform7_skimage_gray_cv2"),
    "gauss_volume": ("ssim", "gauss11x11x11_replicate_volumetric"),
}


def pair(height=37, width=52, seed=0):
    """Returns a smooth target and a darker, noisy version of it, both uint8."""
    rng = np.random.default_rng(seed)
    target = ndimage.gaussian_filter(rng.random((height, width, 3)), (3, 3, 0))
    target = (target - target.min()) / np.ptp(target)
    image = 0.8 * target + rng.normal(0, 0.03, target.shape)
    return metrics.values.to_levels(image), metrics.values.to_levels(target)


@pytest.fixture(scope="module")
def reference(shared):
    return json.loads((shared / "golden" / "metrics.json").read_text())


@pytest.fixture(scope="module", params=["g1", "g2", "g3", "g4"])
def golden_pair(request, shared, reference):
    name = request.param
    folder = shared / "golden" / "images"
    image = io.read_rgb(folder / f"{name}_pred.png")
    target = io.read_rgb(folder / f"{name}_gt.png")
    values = reference["pairs"][name]
    assert hashlib.sha256(image.tobytes()).hexdigest() == values["sha256_pred_pixels"]
    return image, target, values


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_images(golden_pair, name):
    image, target, values = golden_pair
    group, key = GOLDEN_NAMES[name]
    tolerance = {"psnr": 1e-4, "ssim": 1e-5}[group]
    assert metrics.compute(name, image, target) == pytest.approx(
        values[group][key], abs=tolerance
    )


def test_golden_rounding(golden_pair):
    image, target, values = golden_pair
    image = image / 255
    image = np.clip(0.987 * image + 0.0231 - 0.02 * (image > 0.9), 0, 1)
    expected = values["rounding"]
    for name, key in {
        "rgb_float": "psnr_float",
        "rgb_uint8": "psnr_q8",
        "rgb_uint8_trunc": "psnr_t8",
    }.items():
        assert metrics.compute(name, image, target) == pytest.approx(
            expected[key], abs=1e-4
        )
    truncated = metrics.values.to_levels(image, rounding="truncate")
    as_float = {"name": "gauss11", "quantize": False}
    for value, key in (
        (metrics.compute("gauss11", image, target), "ssim_q8"),
        (metrics.compute("gauss11", truncated, target), "ssim_t8"),
        (metrics.compute(as_float, image, target), "ssim_float"),
    ):
        assert value == pytest.approx(expected[key], abs=1e-5)


def test_golden_in_training(golden_pair):
    image, target, values = golden_pair
    image, target = (jnp.asarray(x[None] / 255, jnp.float32) for x in (image, target))
    assert float(in_training.psnr(image, target)[0]) == pytest.approx(
        values["psnr"]["rgb_uint8"], abs=1e-3
    )
    assert float(in_training.ssim(image, target)[0]) == pytest.approx(
        values["ssim"]["gauss11_valid_rgb"], abs=1e-4
    )


@pytest.mark.parametrize("size", [(37, 52), (11, 11), (12, 40)])
def test_scikit_image_agrees(size):
    image, target = pair(*size)
    gaussian = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    colour = {"channel_axis": 2, "data_range": 255}
    gray = [
        np.rint(x @ np.array([0.299, 0.587, 0.114]))
        for x in (image.astype(float), target)
    ]
    expected = {
        "rgb_uint8": oracle.peak_signal_noise_ratio(target, image, data_range=255),
        "gauss11": oracle.structural_similarity(image, target, **gaussian, **colour),
        "uniform7": oracle.structural_similarity(image, target, **colour),
        "uniform7_gray": oracle.structural_similarity(*gray, data_range=255),
    }
    for name, value in expected.items():
        assert metrics.compute(name, image, target) == pytest.approx(value, abs=1e-9)


def test_gauss_volume_is_one_three_dimensional_window():
    image, target = (x.astype(float) for x in pair(13, 14))
    tap = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = tap[:, None, None] * tap[:, None] * tap
    window /= window.sum()

    def mean(x):
        return ndimage.correlate(x, window, mode="nearest")

    m1, m2 = mean(image), mean(target)
    v1, v2 = mean(image**2) - m1**2, mean(target**2) - m2**2
    covariance = mean(image * target) - m1 * m2
    c1, c2 = 6.5025, 58.5225
    expected = np.mean(
        ((2 * m1 * m2 + c1) * (2 * covariance + c2))
        / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))
    )
    value = metrics.compute("gauss_volume", *pair(13, 14))
    assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", PSNR)
def test_psnr_extremes(name):
    black = np.zeros((4, 4, 3), np.uint8)
    white = black + 255
    assert metrics.compute(name, white, white) == math.inf
    peak_over_range = {"y_float": 255 / 219}.get(name, 1)
    assert metrics.compute(name, black, white) == pytest.approx(
        20 * math.log10(peak_over_range)
    )


@pytest.mark.parametrize("name", SSIM)
def test_ssim_extremes(name):
    image, _ = pair()
    assert metrics.compute(name, image, image) == pytest.approx(1, abs=1e-6)
    black, white = np.zeros_like(image), np.full_like(image, 255)
    # Constant images: only the means differ, (2ab + C1) / (a^2 + b^2 + C1).
    a, b = (16, 235) if name == "gauss11_y" else (0, 255)
    expected = (2 * a * b + 2.55**2) / (a**2 + b**2 + 2.55**2)
    assert metrics.compute(name, black, white) == pytest.approx(expected, abs=1e-5)
    if name != "gauss_volume":  # that one mixes the channels
        assert metrics.compute(name, image, 255 - image) < 0.1


def test_one_level_of_difference():
    target = np.full((8, 8, 3), 100, np.uint8)
    expected = 20 * math.log10(255)
    assert metrics.compute("rgb_uint8", target + 1, target) == pytest.approx(expected)
    one_channel = target.copy()
    one_channel[..., 0] += 1
    assert metrics.compute("rgb_uint8", one_channel, target) == pytest.approx(
        expected + 10 * math.log10(3)
    )


def test_8_bit_and_float_images_give_the_same():
    image, target = pair()
    for name in PSNR + SSIM:
        for dtype in (np.float32, np.float64):
            value = metrics.compute(
                name, (image / 255).astype(dtype), (target / 255).astype(dtype)
            )
            # In float64, truncating v/255 can lose a level, as it does in the scripts.
            if (name, dtype) != ("rgb_uint8_trunc", np.float64):
                assert value == pytest.approx(
                    metrics.compute(name, image, target), abs=1e-6
                )


def test_rounding_ties_to_even_and_truncation():
    image = np.array([0.5, 1.5, 2.5, 2.999, -3, 400]) / 255
    levels = metrics.values.to_levels
    np.testing.assert_array_equal(levels(image), [0, 2, 2, 3, 0, 255])
    truncated = levels(image, rounding="truncate")
    np.testing.assert_array_equal(truncated, [0, 1, 2, 2, 0, 255])


def test_clipping_is_an_option_of_rgb_float():
    target = np.full((4, 4, 3), 255, np.uint8)
    image = np.full((4, 4, 3), 1.1, np.float32)
    assert metrics.compute("rgb_float", image, target) == math.inf
    unclipped = {"name": "rgb_float", "clip": False}
    assert metrics.compute(unclipped, image, target) == pytest.approx(20, abs=1e-4)


def test_in_training_agrees_with_the_host():
    pairs = [pair(seed=seed) for seed in range(3)]
    image, target = (
        jnp.asarray(np.stack(x) / 255, jnp.float32) for x in zip(*pairs, strict=True)
    )
    psnr, ssim = in_training.psnr(image, target), in_training.ssim(image, target)
    chex.assert_shape([psnr, ssim], (3,))
    for index, (one, other) in enumerate(pairs):
        expected = metrics.compute("rgb_uint8", one, other)
        assert float(psnr[index]) == pytest.approx(expected, abs=1e-3)
        expected = metrics.compute("gauss11", one, other)
        assert float(ssim[index]) == pytest.approx(expected, abs=1e-4)
    assert np.isinf(in_training.psnr(target, target)).all()
    with pytest.raises(ValueError, match="at least 11 x 11"):
        in_training.ssim(image[:, :8], target[:, :8])


def test_what_is_known_about_each():
    assert set(PSNR + SSIM) <= set(registry.names("metric"))
    for name in PSNR + SSIM:
        card = metrics.card(name)
        assert card.needs_target
        assert card.higher_is_better
        assert card.used_by
        assert card.unit == ("dB" if name in PSNR else "")
        least = 1 if name in PSNR or name == "gauss_volume" else 7
        assert card.minimum_size == (11 if name.startswith("gauss11") else least)
    with pytest.raises(TypeError, match=r"no fact 'units'\. Did you mean 'unit'"):
        metrics.MetricCard(used_by="nobody", units="dB")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("rgb_uint", "ok", "ok"), ValueError, "Did you mean 'rgb_uint8'"),
        (("gauss11", "ok"), ValueError, "needs a target"),
        (("gauss11", "small", "small"), ValueError, "at least 11 x 11 pixels; got 8"),
        (("rgb_uint8", "ok", "small"), ValueError, "16 x 16 but target is 8 x 16"),
        (("rgb_uint8", "integers", "ok"), TypeError, "image is int64; expected uint8"),
        (("rgb_uint8", "to_255", "ok"), ValueError, "floating point and reaches 200"),
        (("rgb_uint8", "nan", "ok"), ValueError, "image has 3 values that are not"),
        (("rgb_uint8", "ok", "nan"), ValueError, "target has 3 values that are not"),
        (
            ("rgb_uint8", "gray", "gray"),
            ValueError,
            r"\[16, 16\]; expected \[H, W",
        ),
    ],
)
def test_mistakes(arguments, error, message):
    images = {
        "ok": np.zeros((16, 16, 3), np.uint8),
        "small": np.zeros((8, 16, 3), np.uint8),
        "integers": np.zeros((16, 16, 3), np.int64),
        "to_255": np.full((16, 16, 3), 200.0),
        "nan": np.zeros((16, 16, 3)),
        "gray": np.zeros((16, 16), np.uint8),
    }
    images["nan"][3, 3] = np.nan
    name, *rest = arguments
    with pytest.raises(error, match=message):
        metrics.compute(name, *(images[key] for key in rest))


def test_16_bit_images_are_scored_in_full_or_rounded():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 65536, (16, 16, 3)).astype(np.uint16)
    image = np.rint(target / 257).astype(np.uint8)
    error = np.mean((image / 255 - target / 65535) ** 2)
    assert metrics.compute("rgb_float", image, target) == pytest.approx(
        10 * np.log10(1 / error)
    )
    # What is saved with 8 bits are the nearest levels, not the high bytes.
    assert metrics.compute("rgb_uint8", image, target) == np.inf
    truncated = (target >> 8).astype(np.uint8)
    assert metrics.compute("rgb_uint8", truncated, target) < 60
    for metric in ("gauss11", "gauss11_y", "uniform7", "gauss_volume"):
        assert metrics.compute(metric, target, image) == pytest.approx(1)
