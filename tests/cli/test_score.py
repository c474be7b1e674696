import json

import numpy as np
import pytest

from llie_jax import metrics
from llie_jax.cli import main
from llie_jax.features import weights
from llie_jax.image import io
from llie_jax.metrics import niqe
from llie_jax.metrics import protocol as protocols
from tests.features import test_lpips
from tests.metrics import toys


@pytest.fixture(autouse=True)
def one_subcommand(monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("score",))


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    pred, gt = tmp_path / "my results", tmp_path / "gt"
    for folder in (pred, gt):
        folder.mkdir()
    for index in range(3):
        target = rng.integers(0, 256, (16, 20, 3)).astype(np.uint8)
        io.write_image(gt / f"{index}.png", target)
        io.write_image(pred / f"{index}.bmp", target // 2 + 60)
    return pred, gt


def score(pred, gt, *options):
    return main.main(["score", "--pred", str(pred), "--gt", str(gt), *options])


def score_alone(pred, *options):
    return main.main(["score", "--pred", str(pred), *options])


def test_table_and_json(folders, tmp_path, capsys):
    pred, gt = folders
    path = tmp_path / "new" / "scores.json"
    assert score(pred, gt, "--json", str(path)) == 0
    found = json.loads(path.read_text())
    expected = {
        name: {
            column: metrics.compute(
                metric,
                io.read_rgb(pred / f"{name}.bmp"),
                io.read_rgb(gt / f"{name}.png"),
            )
            for column, metric in {"psnr": "rgb_uint8", "ssim": "gauss11"}.items()
        }
        for name in "012"
    }
    assert found["images"] == expected
    assert found["count"] == 3
    assert found["protocol"] == "default"
    mean = np.mean([row["psnr"] for row in expected.values()])
    assert found["mean"]["psnr"] == pytest.approx(mean)
    out = capsys.readouterr().out
    assert f"{mean:.2f}" in out
    assert "mean of 3" in out


def test_equal_folders_score_inf(folders, tmp_path, capsys):
    path = tmp_path / "scores.json"
    assert score(folders[1], folders[1], "--json", str(path)) == 0
    assert json.loads(path.read_text())["mean"] == {"psnr": "inf", "ssim": 1.0}
    assert "inf" in capsys.readouterr().out


def test_protocol(folders, tmp_path):
    path = tmp_path / "scores.json"
    assert score(*folders, "--protocol", "retinexformer", "--json", str(path)) == 0
    assert json.loads(path.read_text())["protocol"] == "retinexformer"


@pytest.mark.parametrize("command", ["score", "eval"])
def test_help_lists_every_protocol(monkeypatch, capsys, command):
    monkeypatch.setattr(main, "SUBCOMMANDS", (command,))
    with pytest.raises(SystemExit):
        main.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"metrics: {', '.join(protocols.PROTOCOLS)} (default" in text


def test_the_folders_of_a_file_mean_the_same_from_everywhere(
    folders, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pred, gt = folders
    assert score(pred.name, gt.name, "--json", "scores.json") == 0
    found = json.loads((tmp_path / "scores.json").read_text())["data"]
    assert (found["pred"], found["gt"]) == (str(pred), str(gt))


def test_without_references(folders, tmp_path, monkeypatch, capsys):
    pred, _ = folders
    assert score_alone(pred) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"which {pred} does not have. " in error
    assert "with a reference: psnr (rgb_uint8), ssim (gauss11)" in error
    path = tmp_path / "scores.json"
    with toys.registered(monkeypatch):
        level = protocols.Protocol("level", "", {"level": "toy_level"})
        monkeypatch.setitem(protocols.PROTOCOLS, "level", level)
        assert score_alone(pred, "--protocol", "level", "--json", str(path)) == 0
        found = json.loads(path.read_text())
        for name, row in found["images"].items():
            image = io.read_rgb(pred / f"{name}.bmp")
            assert row == {"level": metrics.compute("toy_level", image)}
        assert found["count"] == 3
        assert found["data"] == {"pred": str(pred)}
        out = capsys.readouterr().out
        assert "LEVEL is toy_level" in out
        # References are paired, but no metric reads them.
        assert score(*folders, "--protocol", "level") == 0
        io.write_image(pred / "0.png", np.zeros((16, 20, 3), np.uint8))
        assert score_alone(pred, "--protocol", "level") == 2
        assert "cannot be scored; two files of one name" in capsys.readouterr().err


def test_gt_mean_is_marked_in_the_table(folders, tmp_path, capsys):
    path = tmp_path / "scores.json"
    assert score(*folders, "--gt-mean", "--json", str(path)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "PSNR GT mean is gtmean, SSIM GT mean is gtmean_ssim" in out
    assert "PSNR GT mean (dB), uses the reference" in out
    found = json.loads(path.read_text())
    assert list(found["mean"]) == ["psnr", "ssim", "psnr_gt_mean", "ssim_gt_mean"]
    assert found["mean"]["psnr_gt_mean"] > found["mean"]["psnr"]
    options = found["options"]
    assert options["gt_mean"] == ["psnr_gt_mean", "ssim_gt_mean"]
    assert (options["self_ensemble"], options["tile"]) == (None, None)
    assert score(*folders, "--protocol", "darkir", "--gt-mean") == 2
    assert "'darkir' has no scores with GT mean" in capsys.readouterr().err


def test_without_a_network(folders, tmp_path, capsys):
    """LPIPS is left out, and the table says so."""
    path = tmp_path / "scores.json"
    for pred, gt in (folders, large(tmp_path)):
        assert score(pred, gt, "--json", str(path)) == 0
        assert "not computed: LPIPS (`llie-jax features" in capsys.readouterr().out
        found = json.loads(path.read_text())
        assert found["options"]["protocol"]["not_computed"] == ["lpips"]
        assert list(found["mean"]) == ["psnr", "ssim"]


def large(tmp_path):
    """Pairs that are large enough for every network."""
    found = tmp_path / "large" / "pred", tmp_path / "large" / "gt"
    rng = np.random.default_rng(0)
    for folder in found:
        folder.mkdir(parents=True)
        pixels = rng.integers(0, 256, (200, 210, 3)).astype(np.uint8)
        io.write_image(folder / "a.png", pixels)
    return found


def test_lpips_is_a_column_where_its_network_is(tmp_path, monkeypatch, capsys):
    test_lpips.use_synthetic(monkeypatch, "alex", "vgg")
    pred, gt = large(tmp_path)
    path = tmp_path / "scores.json"
    pair = [io.read_rgb(folder / "a.png") for folder in (pred, gt)]
    for protocol, spec in (
        ("default", "lpips_alex"),
        ("lednet", {"name": "lpips_vgg", "swapped": True}),
        ("darkir", "lpips_vgg_unshifted"),
    ):
        assert score(pred, gt, "--protocol", protocol, "--json", str(path)) == 0
        found = json.loads(path.read_text())
        assert found["mean"]["lpips"] == metrics.compute(spec, *pair)
        net = "alex" if protocol == "default" else "vgg"
        assert found["options"]["constants"] == {"lpips": f"synthetic {net}"}
    assert "LPIPS is lpips_vgg_unshifted" in capsys.readouterr().out


def test_niqe_needs_no_references(tmp_path, monkeypatch, capsys):
    pred, _ = large(tmp_path)
    assert score_alone(pred, "--protocol", "niqe") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No pristine parameters of NIQE" in error
    rng = np.random.default_rng(0)
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(weights, "cache", lambda: cache)
    rows = rng.normal(1, 0.3, (60, 36))
    niqe.save_parameters(
        cache / "niqe.npz", rows.mean(0), np.cov(rows, rowvar=False), "by hand"
    )
    path = tmp_path / "scores.json"
    assert score_alone(pred, "--protocol", "niqe", "--json", str(path)) == 0
    found = json.loads(path.read_text())
    assert found["mean"]["niqe"] == metrics.compute("niqe", io.read_rgb(pred / "a.png"))
    assert found["options"]["constants"]["niqe"].startswith("by hand (sha256 ")
    out = capsys.readouterr().out
    assert "NIQE with other pristine parameters than papers" in out


def test_mistakes(folders, tmp_path, capsys):
    pred, gt = folders

    def message(*arguments):
        assert score(*arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "Did you mean 'cidnet'" in message(pred, gt, "--protocol", "cidnett")
    assert "too late for saved" in message(pred, gt, "--protocol", "snr_video")
    assert "no folder" in message(tmp_path / "absent", gt)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images" in message(empty, empty)
    assert "references without a result: 0.png, 1.png, 2.png" in message(empty, gt)

    io.write_image(pred / "extra.png", np.zeros((16, 20, 3), np.uint8))
    assert "results without a reference: extra.png" in message(pred, gt)
    (pred / "extra.png").unlink()

    io.write_image(pred / "1.png", np.zeros((16, 20, 3), np.uint8))
    assert "two files of one name" in message(pred, gt)
    (pred / "1.png").unlink()

    io.write_image(pred / "1.bmp", np.zeros((16, 24, 3), np.uint8))
    error = message(pred, gt)
    assert "1.bmp: image is 16 x 24 but target is 16 x 20" in error

    (pred / "1.bmp").write_bytes(b"BM")
    assert "1.bmp" in message(pred, gt)

    (tmp_path / "file").write_text("")
    json_path = tmp_path / "file" / "scores.json"
    assert "Cannot write to" in message(gt, gt, "--json", str(json_path))


def test_predictions_of_a_classifier(tmp_path, capsys):
    gt, pred, path = (tmp_path / name for name in ("gt.csv", "pred.csv", "s.json"))
    gt.write_text("name,label\na,cat\nb,dog\n")
    pred.write_text("name,label\na,cat\nb,cat\n")
    options = ("--task", "classification")
    assert score(pred, gt, *options, "--json", str(path)) == 0
    assert json.loads(path.read_text())["mean"] == {"top1": 0.5}
    assert "top1 of 2 images: 0.5000" in capsys.readouterr().out
    assert score_alone(pred, *options) == 2
    assert "needs the true labels: --gt" in capsys.readouterr().err
    assert score(pred, gt, *options, "--protocol", "cidnet") == 2
    assert "leave them out with --task" in capsys.readouterr().err
