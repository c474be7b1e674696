import json

import numpy as np
import pytest

from llie_jax import metrics
from llie_jax.metrics import protocol as protocols


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (16, 20, 3)).astype(np.uint8)
    image = target / 255 + rng.normal(0, 0.1, target.shape)
    return image.astype(np.float32), target


def test_presets_differ_as_they_say(pair):
    image, target = pair
    comparing = {n: p for n, p in protocols.PROTOCOLS.items() if p.needs_target}
    found = {n: p.score(image, target) for n, p in comparing.items()}
    clipped = np.clip(image, 0, 1)
    rounded = metrics.values.to_levels(image)
    truncated = metrics.values.to_levels(image, rounding="truncate")
    compute = metrics.compute
    assert found["default"] == {
        "psnr": compute("rgb_uint8", rounded, target),
        "ssim": compute("gauss11", rounded, target),
    }
    assert found["retinexformer"] == {
        "psnr": compute("rgb_float", clipped, target),
        "ssim": compute("gauss11", rounded, target),
    }
    assert found["cidnet"] == {
        "psnr": compute("rgb_uint8", truncated, target),
        "ssim": compute("gauss11", truncated, target),
    }
    error = np.mean((image.astype(np.float64) - target / 255) ** 2)
    assert found["darkir"]["psnr"] == pytest.approx(-10 * np.log10(error))
    # SNR-Net's differ in what the model sees, and score like most.
    rest = {n: row for n, row in found.items() if not n.startswith("snr")}
    assert len({tuple(row.values()) for row in rest.values()}) == len(rest)
    assert all(found[n] == found["default"] for n in found.keys() - rest.keys())


def test_saved_files_score_alike_under_rounding_protocols(pair):
    image, target = pair
    saved = metrics.values.to_levels(image)
    scores = [
        protocols.get(name).score(saved, target) for name in ("default", "cidnet")
    ]
    assert scores[0] == scores[1]


def test_padding_keeps_the_models_multiple():
    assert protocols.get("default").padding(8, "constant") == (8, "constant")
    assert protocols.get("retinexformer").padding(1, "constant") == (4, "reflect")
    assert protocols.get("retinexformer").padding(8, "constant") == (8, "reflect")
    assert protocols.get("retinexformer").padding(6, "constant") == (12, "reflect")
    assert protocols.get("darkir").padding(4, "reflect") == (8, "constant")


def test_sizes_of_snr_net():
    sizes = {n: (p.size, p.pair_size) for n, p in protocols.PROTOCOLS.items()}
    assert sizes["snr"] == ((400, 608), None)
    assert sizes["snr_syn"] == ((384, 384), None)
    assert sizes["snr_video"] == (None, (512, 960))
    assert sizes["default"] == (None, None)


def test_a_size_takes_the_place_of_padding():
    snr = protocols.get("snr")
    assert snr.padding(16, "reflect") == (1, "reflect")
    with pytest.raises(ValueError, match=r"to 400 x 608; this model needs .* of 32"):
        snr.padding(32, "reflect")
    # Resized pairs are padded where they must be.
    assert protocols.get("snr_video").padding(24, "constant") == (24, "constant")


def test_images_are_saved_as_they_are_scored(pair):
    image, _ = pair
    for name, rounding in (
        ("default", "nearest"),
        ("darkir", "nearest"),
        ("cidnet", "truncate"),
    ):
        np.testing.assert_array_equal(
            protocols.get(name).to_levels(image),
            metrics.values.to_levels(image, rounding=rounding),
        )


def test_an_own_protocol(pair):
    image, target = pair
    own = protocols.Protocol("own", "luma only", {"psnr": "y_float"}, output="clip")
    assert protocols.get(own) is own
    assert own.score(image, target) == {
        "psnr": metrics.compute("y_float", np.clip(image, 0, 1), target)
    }


def test_every_protocol_has_known_metrics_and_a_plain_form(pair):
    for name, protocol in protocols.PROTOCOLS.items():
        assert protocol.name == name
        assert json.loads(json.dumps(protocol.to_dict()))["output"] == protocol.output
    assert protocols.get("snr").to_dict()["size"] == [400, 608]
    spec = {"name": "rgb_float", "clip": False}
    assert metrics.metric_name(spec) == "rgb_float(clip=False)"


def test_mistakes():
    with pytest.raises(ValueError, match="Did you mean 'retinexformer'"):
        protocols.get("retinexfomer")
    with pytest.raises(ValueError, match="accepted: round, truncate"):
        protocols.Protocol("own", "", {}, output="floor")
    with pytest.raises(ValueError, match=r"pair_size is \(0, 8\); give height and"):
        protocols.Protocol("own", "", {}, pair_size=(0, 8))
