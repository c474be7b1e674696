"""NIQE beside a plain implementation, and its pristine parameters."""

import json

import numpy as np
import pytest
from scipy import io as matlab
from scipy import ndimage, special

from llie_jax import metrics
from llie_jax.cli import main
from llie_jax.features import packages, weights
from llie_jax.image import io
from llie_jax.metrics import niqe
from tests.features import test_trunks

NAMES = {
    "basicsr_current_y": {"name": "niqe"},
    "basicsr_current_y_crop4": {"name": "niqe", "crop_border": 4},
    "basicsr_current_gray": {"name": "niqe_yiq"},
    "fork_bilinear_noround_y": {"name": "niqe_legacy"},
    "cidnet_rgb_as_bgr_y": {"name": "niqe_swapped"},
}


@pytest.mark.parametrize("pair", ["g1", "g2", "g3", "g4"])
def test_golden(shared, pair):
    golden = json.loads((shared / "golden" / "metrics.json").read_text())
    parameters = str(shared / "golden" / "niqe_pris_params.npz")
    for part in ("pred", "gt"):
        image = io.read_rgb(shared / "golden" / "images" / f"{pair}_{part}.png")
        expected = golden["pairs"][pair]["niqe"][part]
        for key, spec in NAMES.items():
            found = metrics.compute({**spec, "parameters": parameters}, image)
            assert found == pytest.approx(expected[key], rel=1e-3), key
    *_, origin = niqe.load_parameters(parameters)
    assert origin == niqe.ORIGINAL


def texture(height=211, width=290, seed=0):
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.random((height, width, 3)), (1.5, 1.5, 0))
    image = (image - image.min()) / np.ptp(image)
    return metrics.values.to_levels(0.8 * image)


@pytest.fixture
def parameters(tmp_path):
    """Random pristine parameters."""
    rng = np.random.default_rng(1)
    rows = rng.normal(1, 0.3, (60, 36))
    path = tmp_path / "own.npz"
    niqe.save_parameters(path, rows.mean(0), np.cov(rows, rowvar=False), "by hand")
    return str(path)


def plain_features(block):
    """18 features of one block, by a search over the grid of shapes."""
    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = special.gamma(2 / shapes) ** 2
    ratios /= special.gamma(1 / shapes) * special.gamma(3 / shapes)

    def fit(x):
        left = np.sqrt(np.mean(x[x < 0] ** 2))
        right = np.sqrt(np.mean(x[x > 0] ** 2))
        skew = left / right
        ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        shape = shapes[np.argmin((ratios - ratio) ** 2)]
        scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
        return shape, left * scale, right * scale

    shape, left, right = fit(block)
    found = [shape, (left + right) / 2]
    for offset in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = fit(block * np.roll(block, offset, (0, 1)))
        mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
        found += [shape, mean, left, right]
    return found


def test_the_definition(parameters):
    image = texture()
    mean0, covariance0, _ = niqe.load_parameters(parameters)
    luma = 16 + image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255
    luma = luma[:192, :288]  # unrounded: `niqe_legacy`, whose half size is plain means
    taps = np.exp(-0.5 * ((np.arange(7) - 3) / (7 / 6)) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    rows = [[] for _ in range(6)]
    for side in (96, 48):
        centre = ndimage.correlate(luma, window, mode="nearest")
        square = ndimage.correlate(luma**2, window, mode="nearest")
        normal = (luma - centre) / (np.sqrt(np.abs(square - centre**2)) + 1)
        for k in range(6):
            column, row = divmod(k, 2)
            block = normal[row * side :, column * side :][:side, :side]
            rows[k] += plain_features(block)
        luma = (
            luma[::2, ::2] + luma[1::2, ::2] + luma[::2, 1::2] + luma[1::2, 1::2]
        ) / 4
    difference = mean0 - np.mean(rows, axis=0)
    inverse = np.linalg.pinv((covariance0 + np.cov(rows, rowvar=False)) / 2)
    expected = np.sqrt(difference @ inverse @ difference)
    spec = {"name": "niqe_legacy", "parameters": parameters}
    assert metrics.compute(spec, image) == pytest.approx(expected, rel=1e-5)


def test_variants_differ(parameters):
    image = texture()
    specs = {name: {"name": name, "parameters": parameters} for name in registered()}
    found = {name: metrics.compute(spec, image) for name, spec in specs.items()}
    assert len({round(value, 6) for value in found.values()}) == 4
    swapped = metrics.compute(specs["niqe_swapped"], image[..., ::-1])
    assert swapped == found["niqe"]
    for name in specs:
        card = metrics.card(name)
        assert not card.needs_target
        assert not card.higher_is_better


def registered():
    return ("niqe", "niqe_legacy", "niqe_swapped", "niqe_yiq")


def test_small_and_empty_images(parameters):
    spec = {"name": "niqe", "parameters": parameters}
    with pytest.warns(UserWarning, match="100 x 250 pixels means little: below 192"):
        found = metrics.compute(spec, texture(100, 250))
    assert np.isfinite(found)
    with pytest.raises(ValueError, match="at least 96 x 96 pixels; got 95 x 250"):
        metrics.compute(spec, texture(95, 250))
    cropped = {**spec, "crop_border": 4}
    with pytest.raises(ValueError, match="at least 96 x 96 pixels; 92 x 242 are left"):
        metrics.compute(cropped, texture(100, 250))
    # Without texture nothing is defined.
    flat = np.full((192, 192, 3), 90, np.uint8)
    assert np.isnan(metrics.compute(spec, flat))
    # A flat block is left out of the covariance, and of the mean.
    image = texture(192, 384)
    image[:96, :96] = 90
    assert np.isfinite(metrics.compute(spec, image))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_where_parameters_come_from(tmp_path, empty_cache, parameters, monkeypatch):
    image = texture()
    with pytest.raises(FileNotFoundError) as raised:
        metrics.compute("niqe", image)
    for part in (
        str(empty_cache / "niqe.npz"),
        "https://github.com/XPixelGroup/BasicSR",
        "niqe_pris_params.npz",
        "llie-jax niqe-fit FOLDER",
    ):
        assert part in str(raised.value)
    expected = metrics.compute({"name": "niqe", "parameters": parameters}, image)

    mean, covariance, origin = niqe.load_parameters(parameters)
    assert origin.startswith("by hand (sha256 ")
    mat = tmp_path / "hub" / "pyiqa" / "niqe_modelparameters.mat"
    mat.parent.mkdir(parents=True)
    matlab.savemat(mat, {"mu_prisparam": mean[None], "cov_prisparam": covariance})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert metrics.compute("niqe", image) == pytest.approx(expected)
    assert niqe.load_parameters()[2].startswith("niqe_modelparameters.mat")

    basicsr = tmp_path / "site" / "basicsr" / "metrics"
    basicsr.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(packages, "locate", test_trunks.LOCATE)
    np.savez(
        basicsr / "niqe_pris_params.npz",
        mu_pris_param=mean[None] + 1,
        cov_pris_param=covariance,
        gaussian_window=np.zeros((7, 7)),
    )
    assert metrics.compute("niqe", image) != pytest.approx(expected)

    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, mu_pris_param=np.zeros(3))
    with pytest.raises(ValueError, match=r"wrong\.npz does not hold the pristine"):
        niqe.load_parameters(wrong)
    wrong.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"wrong\.npz does not hold the pristine"):
        niqe.load_parameters(wrong)


def test_fit(tmp_path, empty_cache, monkeypatch, capsys):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("niqe-fit",))
    folder = tmp_path / "photos"
    folder.mkdir()
    images = [texture(200, 400, seed) for seed in range(6)]
    images[0][:96, :96] = 90  # not sharp
    for number, image in enumerate(images):
        io.write_image(folder / f"{number}.png", image)
    assert main.main(["niqe-fit", str(folder)]) == 0
    assert "fitted to 6 photos" in capsys.readouterr().out
    mean, covariance, origin = niqe.load_parameters()
    assert origin.startswith("fitted to 6 photos (sha256 ")
    rows = np.concatenate(
        [niqe.block_features(niqe.NIQE().luma(image))[0] for image in images]
    )[1:]
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False))
    assert main.main(["niqe-fit", str(folder)]) == 2
    assert "may hold the original parameters" in capsys.readouterr().err
    assert main.main(["niqe-fit", str(folder), "--overwrite"]) == 0
    # The images themselves are near, noise is far.
    noise = np.random.default_rng(0).integers(0, 256, (200, 400, 3)).astype(np.uint8)
    near, far = (metrics.compute("niqe", x) for x in (images[1], noise))
    assert near < 10 < far

    (folder / "5.png").unlink()
    for number in range(1, 5):
        (folder / f"{number}.png").unlink()
    assert main.main(["niqe-fit", str(folder), "--overwrite"]) == 2
    assert "1 images have 7 sharp blocks of 96 x 96" in capsys.readouterr().err
    assert main.main(["niqe-fit", str(folder), "--out", "a.mat"]) == 2
    assert "written to a .npz; got a.mat" in capsys.readouterr().err
