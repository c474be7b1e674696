import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from llie_jax import data, evaluation, metrics
from llie_jax.evaluation import scores as results
from llie_jax.image import io
from llie_jax.image.resize import resize_bilinear
from llie_jax.metrics.protocol import PROTOCOLS, Protocol
from llie_jax.models.base import ModelCard
from llie_jax.registry import register
from tests.evaluation import toys
from tests.metrics import toys as metric_toys

SIZES = [(16, 20), (13, 17), (16, 20), (24, 24), (15, 18)]
GAIN = np.float32(1.8713)  # no value is half-way between two levels
VARIABLES = {"params": {"gain": GAIN}}


def evaluate(model=None, source=None, variables=VARIABLES, **options):
    return evaluation.evaluate(
        model or toys.Gain(),
        variables,
        toys.MemorySource(SIZES) if source is None else source,
        progress=False,
        **options,
    )


def test_scores_are_those_of_the_whole_cropped_images():
    source = toys.MemorySource(SIZES)
    scores = evaluate(source=source, batch_size=2)
    assert list(scores.images) == source.names  # in the source's order
    for record in (source[index] for index in range(len(source))):
        output = GAIN * (record["image"].astype(np.float32) / 255)
        for column, metric in {"psnr": "rgb_uint8", "ssim": "gauss11"}.items():
            assert scores.images[record["name"]][column] == pytest.approx(
                metrics.compute(metric, output, record["target"]), abs=1e-9
            )
            assert scores.inputs[record["name"]][column] == pytest.approx(
                metrics.compute(metric, record["image"], record["target"]), abs=1e-9
            )
    expected = np.mean([row["psnr"] for row in scores.images.values()])
    assert scores.mean["psnr"] == pytest.approx(expected)
    assert scores.count == len(SIZES)


def test_one_compilation_for_each_padded_size():
    toys.SHAPES.clear()
    model = toys.Gain(value=3.0)  # a model that no other test has compiled
    one = evaluate(model, batch_size=2)
    traced = sorted(toys.SHAPES)
    # The first, on the smallest image, only finds out what can be precomputed.
    assert traced == [(1, 4, 4, 3), (2, 16, 20, 3), (2, 24, 24, 3)]
    assert evaluate(model, batch_size=2).images == one.images
    assert sorted(toys.SHAPES) == traced


def test_batch_size_changes_nothing():
    assert evaluate(batch_size=3).images == evaluate().images


def test_tiles():
    # A gain is the same for every pixel, so tiles change nothing but rounding.
    scores = evaluate(tile=18)
    assert scores.facts["options"]["tiled"] == ["3"]
    whole = evaluate()
    for name, row in scores.images.items():
        assert row == pytest.approx(whole.images[name], abs=0.05)


def test_images_are_saved(tmp_path):
    source = toys.MemorySource(SIZES[:2])
    source.names[1] = "scene/photo"
    evaluate(source=source, save_images=tmp_path)
    image = source[1]["image"]
    expected = metrics.values.to_levels(GAIN * (image / np.float32(255)))
    np.testing.assert_array_equal(io.read_rgb(tmp_path / "scene/photo.png"), expected)
    assert io.read_rgb(tmp_path / "0.png").shape == (16, 20, 3)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../x", "", "..\\x"])
def test_no_image_is_saved_outside_the_folder(tmp_path, name):
    source = toys.MemorySource(SIZES[:2])
    source.names[1] = name
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        evaluate(source=source, save_images=tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())  # found before anything is enhanced


def test_pictures_are_bounded_and_spread():
    scores = evaluate(max_report_images=3)
    assert [picture.name for picture in scores.pictures] == ["0", "2", "4"]
    assert evaluate(max_report_images=0).pictures == []
    large = evaluate(source=toys.MemorySource([(20, 1300)])).pictures[0]
    assert large.image.shape == large.output.shape == large.target.shape == (9, 600, 3)


def test_gt_mean_is_an_extra_column_and_a_mark():
    plain, scores = evaluate(), evaluate(gt_mean=True)
    assert list(scores.columns) == ["psnr", "ssim", "psnr_gt_mean", "ssim_gt_mean"]
    for column in plain.columns:
        assert scores.mean[column] == plain.mean[column]
    options = scores.to_dict()["options"]
    assert options["gt_mean"] == ["psnr_gt_mean", "ssim_gt_mean"]
    assert plain.to_dict()["options"]["gt_mean"] == []
    assert scores.marks == []  # the columns are, not the others beside them
    with pytest.raises(ValueError, match="'snr' has no scores with GT mean"):
        evaluate(gt_mean=True, protocol="snr")


NIQE = {"niqe", "cidnet_unpaired", "darkir_unpaired"}
"""Protocols of scores that small images do not have."""


def test_all_protocols():
    scores = evaluate(all_protocols=True, protocol="cidnet")
    assert scores.other["protocols"]["cidnet"] == pytest.approx(scores.mean)
    native = {name for name, p in PROTOCOLS.items() if not (p.size or p.pair_size)}
    assert set(scores.other["protocols"]) == native - NIQE
    # The metrics see the raw output, regardless of how the protocol rounds.
    default = scores.other["protocols"]["default"]
    assert scores.other["metrics"]["rgb_uint8"] == pytest.approx(default["psnr"])


class Brightened(toys.Gain):
    """Adds the given levels."""

    @nn.compact
    def __call__(self, image, *, target=None, train=False, level=0.0, offset=0.0):
        outputs = super().__call__(image)
        shift = jnp.reshape(level, (-1, 1, 1, 1)) + jnp.reshape(offset, (-1, 1, 1, 1))
        return outputs.replace(image=outputs.image + shift)


@pytest.mark.parametrize("tile", [None, 18])
def test_inputs_made_from_the_reference_mark_the_scores(tile):
    source = toys.MemorySource(SIZES)
    scores = evaluate(
        Brightened(),
        source,
        protocol=Protocol("own", "", {"psnr": "rgb_float"}, output="raw"),
        batch_size=2,
        tile=tile,
        inputs={"offset": lambda image: np.float32(image.mean() / 2550)},
        reference_inputs={
            "level": lambda image, target: np.float32(
                (target.mean() - GAIN * image.mean()) / 255
            )
        },
    )
    options = scores.to_dict()["options"]
    assert options["uses_reference"] == ["level"]
    assert options["inputs"] == ["offset"]
    for record in (source[index] for index in range(len(source))):
        image, target = (record[key] / np.float32(255) for key in ("image", "target"))
        shift = target.mean() - GAIN * image.mean() + image.mean() / 10
        assert scores.images[record["name"]]["psnr"] == pytest.approx(
            metrics.compute(
                {"name": "rgb_float", "clip": True}, GAIN * image + shift, target
            ),
            abs=1e-3,
        )
    plain = evaluate().to_dict()["options"]
    assert plain["uses_reference"] == plain["inputs"] == []


def test_images_that_must_not_be_padded_are_named():
    source = toys.MemorySource([(16, 20), (24, 24)])
    assert evaluate(Unpadded(), source).count == 2
    with pytest.raises(ValueError, match=r"^1: The image is 13 x 17; Unpadded"):
        evaluate(Unpadded(), toys.MemorySource(SIZES))


@register("toy_gain_unpadded", ModelCard(padding=False))
class Unpadded(toys.Gain):
    """A model whose images must not be padded."""


def resizing(**sizes):
    return Protocol("own", "", {"psnr": "rgb_float"}, output="clip", **sizes)


def test_a_protocol_that_resizes_for_the_model():
    source = toys.MemorySource(SIZES)
    scores = evaluate(toys.Shade(), source, protocol=resizing(size=(12, 20)))
    for record in (source[index] for index in range(len(source))):
        image = jnp.asarray(record["image"][None], jnp.float32) / 255
        # The map is computed before resizing, not from the resized image.
        small, shade = (
            resize_bilinear(x, (12, 20)) for x in (image, image[..., :1] ** 2)
        )
        output = resize_bilinear(GAIN * small * shade, image.shape[1:3])[0]
        assert scores.images[record["name"]]["psnr"] == pytest.approx(
            metrics.compute("rgb_float", np.asarray(output), record["target"]), abs=1e-4
        )
        # The input is scored unresized.
        assert scores.inputs[record["name"]]["psnr"] == pytest.approx(
            metrics.compute("rgb_float", record["image"], record["target"])
        )
    found = scores.to_dict()["options"]
    assert found["protocol"]["size"] == [12, 20]
    assert found["pad_multiple"] == 1


def test_resized_images_have_one_compilation_for_each_size_of_their_own():
    toys.SHAPES.clear()
    evaluate(toys.Gain(value=5.0), protocol=resizing(size=(12, 20)), batch_size=2)
    # One for the cache, and 13 x 17, 15 x 18, 16 x 20, 24 x 24.
    assert toys.SHAPES == [(1, 4, 4, 3)] + 4 * [(2, 12, 20, 3)]


def test_a_protocol_that_resizes_the_pairs():
    source = toys.MemorySource(SIZES)
    scores = evaluate(source=source, protocol=resizing(pair_size=(14, 18)))
    resized = data.ResizedSource(source, (14, 18))
    for record in (resized[index] for index in range(len(source))):
        output = GAIN * (record["image"] / np.float32(255))
        assert scores.images[record["name"]]["psnr"] == pytest.approx(
            metrics.compute("rgb_float", output, record["target"]), abs=1e-4
        )
    assert {picture.output.shape for picture in scores.pictures} == {(14, 18, 3)}
    assert scores.facts["data"]["fingerprint"] == source.fingerprint()
    assert scores.to_dict()["options"]["protocol"]["pair_size"] == [14, 18]


def test_scores_on_crops_are_marked():
    source = toys.MemorySource([(13, 17), (12, 16)])
    whole, cropped = (evaluate(source=source, crop_multiple=n) for n in (1, 4))
    record = source[0]
    output = GAIN * (record["image"][:12, :16] / np.float32(255))
    assert cropped.images["0"]["psnr"] == pytest.approx(
        metrics.compute("rgb_uint8", output, record["target"][:12, :16]), abs=1e-4
    )
    assert cropped.images["0"] != whole.images["0"]
    assert cropped.images["1"] == whole.images["1"]
    assert cropped.inputs["1"] == whole.inputs["1"]
    assert cropped.marks == ["on crops to multiples of 4"]
    assert whole.marks == []
    with pytest.raises(ValueError, match="1 is smaller than 13 x 13"):
        evaluate(source=source, crop_multiple=13)
    with pytest.raises(ValueError, match="crop_multiple is 0"):
        evaluate(source=source, crop_multiple=0)


def test_result_file(tmp_path):
    scores = evaluate(variables={"params": {"gain": jnp.float32(2)}})
    assert set(scores.mean.values()) == {np.inf, 1.0}
    results.write_json(tmp_path / "scores.json", scores)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["protocol"] == "default"
    assert found["mean"] == {"psnr": "inf", "ssim": 1.0}
    assert found["images"]["0"]["psnr"] == "inf"
    assert found["count"] == len(SIZES)
    assert found["device"] == f"{jax.local_device_count()} x cpu"
    assert found["data"]["fingerprint"] == toys.MemorySource(SIZES).fingerprint()
    assert found["options"]["pad_multiple"] == 4
    assert found["options"]["protocol"]["metrics"]["psnr"] == "rgb_uint8"
    assert found["versions"]["jax"] == jax.__version__
    assert {"model", "weights_sha256"} <= found.keys()
    assert 0 < found["input"]["mean"]["psnr"] < 20
    results.write_csv(tmp_path / "scores.csv", scores)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "name,psnr,ssim,input_psnr,input_ssim"
    assert lines[1].startswith("0,inf,1.0,")
    assert len(lines) == 1 + len(SIZES)


@pytest.fixture
def level(monkeypatch):
    """A protocol whose metric needs no reference."""
    with metric_toys.registered(monkeypatch):
        yield Protocol("level", "how bright", {"level": "toy_level"})


def test_images_without_references(level, tmp_path):
    source = toys.MemorySource(SIZES, paired=False)
    scores = evaluate(source=source, protocol=level, save_images=tmp_path / "images")
    assert list(scores.images) == source.names
    for record in (source[index] for index in range(len(source))):
        image = record["image"]
        output = metrics.values.to_levels(GAIN * (image / np.float32(255)))
        saved = io.read_rgb(tmp_path / "images" / f"{record['name']}.png")
        np.testing.assert_array_equal(saved, output)
        assert scores.images[record["name"]] == {"level": output.mean() / 255}
        assert scores.inputs[record["name"]] == {"level": image.mean() / 255}
    assert all(picture.target is None for picture in scores.pictures)
    assert len(scores.pictures) == len(SIZES)
    results.write_json(tmp_path / "scores.json", scores)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["options"]["protocol"]["metrics"] == {"level": "toy_level"}
    results.write_csv(tmp_path / "scores.csv", scores)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "name,level,input_level"
    # References that no metric needs do not change the scores.
    assert evaluate(protocol=level).images == scores.images


def test_other_definitions_without_references(level, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "level", level)
    source = toys.MemorySource(SIZES, paired=False)
    scores = evaluate(source=source, protocol="level", all_protocols=True)
    assert scores.other["protocols"]["level"] == pytest.approx(scores.mean)
    without = {name for name, each in PROTOCOLS.items() if not each.needs_target}
    assert set(scores.other["protocols"]) == without - NIQE == {"level"}
    # NIQE needs larger images, and parameters.
    assert set(scores.other["metrics"]) == {"toy_level"}
    # With references, metrics of both kinds.
    other = evaluate(all_protocols=True).other
    assert {"toy_level", "rgb_uint8"} <= set(other["metrics"])
    assert other["protocols"]["level"] == pytest.approx(scores.mean)


def test_a_protocol_that_needs_references(level):
    source = toys.MemorySource(SIZES, paired=False)
    toys.SHAPES.clear()
    with pytest.raises(
        ValueError, match=r"toys test does not have\. .* psnr \(rgb_uint8\)"
    ):
        evaluate(toys.Gain(value=7.0), source=source)
    mixed = Protocol("mixed", "", {"psnr": "rgb_uint8", "level": "toy_level"})
    with pytest.raises(ValueError, match=r"without: level \(toy_level\)"):
        evaluate(toys.Gain(value=7.0), source=source, protocol=mixed)
    assert toys.SHAPES == []  # nothing ran


def test_a_metric_gets_its_batches_and_loads_once(level):
    # 16 x 20 and 15 x 18 pad to one size, so they share a batch of the model.
    sizes = [(16, 20)] * 4 + [(15, 18)] * 2 + [(24, 24)]
    protocol = Protocol("both", "", {"d": "toy_distance", "psnr": "rgb_uint8"})
    source = toys.MemorySource(sizes)
    scores = evaluate(source=source, protocol=protocol, batch_size=2)
    assert metric_toys.LOADED == ["network"]
    # Outputs and inputs, at most three of one size at a time.
    assert sorted(metric_toys.CALLS) == sorted(2 * [3, 1, 2, 1])
    plain = evaluate(source=source)
    for record in (source[index] for index in range(len(sizes))):
        row = scores.images[record["name"]]
        assert row["psnr"] == plain.images[record["name"]]["psnr"]
        output = metrics.values.to_levels(GAIN * (record["image"] / np.float32(255)))
        expected = 10 * np.abs(output.astype(float) - record["target"]).mean()
        assert row["d"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": toys.MemorySource([])}, "toys test holds no images"),
        ({"source": toys.MemorySource([(16, 20), (8, 40)])}, "1: gauss11 needs images"),
        (
            {"variables": {"params": {"gain": jnp.nan}}},
            "0: the model's output is not finite",
        ),
        ({"protocol": "defualt"}, "Did you mean 'default'"),
        ({"batch_size": 0}, "batch_size is 0; give at least 1"),
        ({"tile": -1}, "tile is -1"),
        ({"protocol": "snr", "tile": 64}, "'snr' resizes whole images; leave out tile"),
        (
            {"protocol": resizing(size=(12, 18))},
            "to 12 x 18; this model needs multiples of 4",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**options)
