"""What an LFPV bank does, against numbers made by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import metrics
from llie_jax.inference import programs
from llie_jax.models.base import variable_shapes
from llie_jax.studies import bank, bank_numbers, bank_report, frame
from tests.evaluation.toys import Gain, MemorySource

NODES, SIDE = 5, 2
SPEC = {
    "name": "lfpv",
    "backbone": {"name": "retinexformer", "width": 4, "num_blocks": (1, 1)},
    "num_nodes": NODES,
    "patch_size": SIDE,
}


@pytest.fixture(scope="module")
def made():
    """A model with its updaters, as in a run, and a bank that is not zero."""
    model = llie_jax.build(SPEC)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype),
        variable_shapes(model),
    )


@pytest.fixture(scope="module")
def source():
    return MemorySource([(16, 20), (14, 18), (16, 20)])


def study(model, variables, source, *, max_images=None, **options):
    """Returns the findings."""
    asked = bank.BankStudy(**options)
    subject = asked.subject(model, variables, source, max_images=max_images)
    advanced = []
    found = asked.run(subject, lambda: advanced.append(1))
    assert len(advanced) == asked.steps(subject)
    return found


@pytest.fixture(scope="module")
def findings(made, source):
    return study(*made, source)


@pytest.fixture(scope="module")
def result(findings):
    return findings.numbers


def test_entropy():
    shares = jnp.array(
        [[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25] * 4, [0.5, 0.25, 0.25, 0]]
    )
    np.testing.assert_allclose(bank_numbers.entropy(shares), [1, 0, 2, 1.5], atol=1e-6)


def test_cosine_similarity():
    nodes = np.array([[3.0, 4.0], [-4.0, 3.0], [-6.0, -8.0], [1.0, 0.0]])
    wanted = [[1, 0, -1, 0.6], [0, 1, 0, -0.8], [-1, 0, 1, -0.6], [0.6, -0.8, -0.6, 1]]
    for shape in ((4, 2), (4, 1, 2, 1)):  # vectors, patches
        found = bank_numbers.cosine_similarity(nodes.reshape(shape))
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    found = bank_numbers.describe_nodes(nodes)
    assert found["mean_similarity"] == pytest.approx(2 * (-1 - 0.8) / 12)
    with_zeros = bank_numbers.cosine_similarity(np.array([[0.0, 0.0], [0.0, 2.0]]))
    assert with_zeros.tolist() == [[0, 0], [0, 1]]


def test_nodes_without_anything_to_compare():
    zeros = bank_numbers.describe_nodes(np.zeros((3, 2)))
    assert zeros["empty"]
    assert zeros["similarity"] is None
    assert zeros["mean_similarity"] is None
    one = bank_numbers.describe_nodes(np.ones((1, 2)))
    assert not one["empty"]
    assert one["similarity"] == pytest.approx(np.ones((1, 1)))
    assert one["mean_similarity"] is None


def row(backbone, after):
    return {
        "backbone": backbone,
        "bank": after,
        "gain": after - backbone,
        "difference": 1.0,
    }


def test_split():
    images = {"a": row(20.0, 21), "b": row(24.0, 24.5), "c": row(30.0, 29.5)}
    found = bank_numbers.split(images)
    assert found["threshold"] == 24
    assert found["is_median"]
    fitted, others = (found[part] for part in bank_numbers.PARTS)
    assert (fitted["images"], others["images"]) == (2, 1)
    assert (fitted["backbone"], fitted["bank"], fitted["gain"]) == (27, 27, 0)
    assert (others["backbone"], others["bank"], others["gain"]) == (20, 21, 1)
    found = bank_numbers.split(images, 31.0)
    assert not found["is_median"]
    assert found["fully_fitted"] == {
        "images": 0,
        **dict.fromkeys(("backbone", "bank", "gain", "difference")),
    }
    assert found["not_fully_fitted"]["images"] == 3


def test_a_study_is_what_the_model_gives(made, source, result):
    """The padding of the second image does not count."""
    model, variables = made
    backbone = {"params": variables["params"]["backbone"]}

    @jax.jit
    def run(image):
        plain = model.backbone.apply(backbone, image).image
        by_pixel, _ = model.apply(variables, image, method="assign")
        return plain, model.apply(variables, image).image, by_pixel

    use, entropies, places = [], [], []
    for index, name in enumerate(source.names):
        image, target = source[index]["image"], source[index]["target"]
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, 16 - height), (0, 20 - width), (0, 0)), "reflect")
        padded = jnp.asarray(padded[None] / 255, jnp.float32)
        *images, by_pixel = run(padded)
        before, after = (np.clip(x[0, :height, :width], 0, 1) for x in images)
        found = result["images"][name]
        psnr = [metrics.compute("rgb_uint8", x, target) for x in (before, after)]
        assert [found["backbone"], found["bank"]] == pytest.approx(psnr, abs=1e-3)
        assert found["gain"] == pytest.approx(found["bank"] - found["backbone"])
        difference = 255 * np.mean(np.abs(before - after))
        assert found["difference"] == pytest.approx(difference, rel=1e-3)
        side = model.feature_stride
        inside = by_pixel[0, : -(-height // side), : -(-width // side)]
        inside = np.asarray(inside).reshape(-1, NODES)
        use.append(inside.sum(0))
        entropies.append(-np.sum(inside * np.log2(inside)))
        places.append(len(inside))
    found = result["nodes"]["vector"]
    assert found["places"] == sum(places)
    np.testing.assert_allclose(found["use"], np.sum(use, 0) / sum(places), rtol=1e-4)
    assert found["entropy_per_place"] == pytest.approx(
        sum(entropies) / sum(places), rel=1e-4
    )
    mean = np.array(found["use"])
    assert found["entropy_of_mean"] == pytest.approx(-np.sum(mean * np.log2(mean)))
    assert found["largest_entropy"] == math.log2(NODES)
    assert sum(result["nodes"]["patch"]["use"]) == pytest.approx(1, abs=1e-5)
    assert result["psnr"]["gain"] == pytest.approx(
        np.mean([image["gain"] for image in result["images"].values()])
    )
    assert [photo["name"] for photo in result["photos"]] == ["0"]


def test_one_compilation_for_each_size(made, source):
    bank._assigned.clear_cache()
    programs.PROGRAMS.clear()
    study(*made, source)
    # 14 x 18 is padded to 16 x 20; with and without the bank it is the same program.
    # The second one computes the keys of the bank.
    assert bank._assigned._cache_size() == 1
    assert len(programs.PROGRAMS) == 2


def test_a_bank_of_zeros(made, source):
    model, variables = made
    state = jax.tree.map(jnp.zeros_like, variables["lfpv"])
    changed = {**variables, "lfpv": state}
    result = study(model, changed, source, max_images=1).numbers
    assert result["psnr"]["gain"] == pytest.approx(0, abs=1e-4)
    assert result["psnr"]["difference"] == pytest.approx(0, abs=1e-3)
    for nodes in result["nodes"].values():
        assert nodes["empty"]
        np.testing.assert_allclose(nodes["use"], 1 / NODES, rtol=1e-5)
        assert nodes["entropy_per_place"] == pytest.approx(math.log2(NODES))
    text = bank_report.lines({"data": {"images": 1}, **result})
    assert "vectors: the bank is empty (all zeros)" in text


def test_assignment_is_drawn_in_places():
    seen = {"node": np.array([[0, 1], [1, 1]]), "share": np.ones((2, 2)), "side": 2}
    drawn = bank_report.assignment(seen, (3, 4))
    assert drawn.shape == (3, 4, 3)
    assert drawn.dtype == np.uint8
    assert len(np.unique(drawn[:2, :2].reshape(-1, 3), axis=0)) == 1
    assert np.any(drawn[0, 0] != drawn[0, 2])
    assert np.all(drawn[2] == drawn[0, 2])
    dim = bank_report.assignment({**seen, "share": np.zeros((2, 2))}, (3, 4))
    assert dim.max() < drawn.max()
    # Even 16 nodes can be told apart.
    seen = {"node": np.arange(16)[None], "share": np.ones((1, 16)), "side": 1}
    colours = bank_report.assignment(seen, (1, 16))[0].astype(int)
    distance = np.abs(colours[:, None] - colours).sum(-1) + 999 * np.eye(16)
    assert distance.min() > 40


def test_large_photos_are_scaled_down(made, source, monkeypatch):
    monkeypatch.setattr(bank, "PHOTO_SIDE", 20)
    photo = np.zeros((32, 40, 3), np.uint8)
    found = study(*made, source, photos=[("p", photo)], max_images=1)
    assert found.numbers["photos"][0]["size"] == [32, 40]
    assert found.numbers["photos"][0]["studied_size"] == [16, 20]
    assert found.pictures[0]["photo"].shape == (16, 20, 3)


def test_report(findings, tmp_path):
    facts = {
        "model": SPEC,
        "weights_sha256": "0",
        "data": {"name": "toys", "split": "test", "images": 3},
        "device": "cpu",
        "versions": {},
    }
    numbers = facts | findings.numbers
    report = frame.Report(bank.BankStudy(), numbers, findings.pictures)
    report.write_page(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<title>LFPV bank on toys test</title>" in page
    assert page.count("<svg") == 5
    assert page.count("data:image/png") == 4
    assert page.count("data:image/jpeg") == 2
    assert page.count("<tr>") == 1 + 3 + 6  # images, and settings
    assert "this threshold is ours" in page
    text = "\n".join(report.lines())
    assert "vectors: mean cosine similarity" in text
    assert "fully fitted by the backbone: 2 images" in text


def test_mistakes(made, source):
    with pytest.raises(ValueError, match="Gain has no bank; give weights of an LFPV"):
        study(Gain(), {}, source)
    with pytest.raises(ValueError, match="fitted=nan; give a PSNR in dB"):
        study(*made, source, fitted=math.nan)
    with pytest.raises(ValueError, match="toys test holds no images to study"):
        study(*made, MemorySource([]))
    with pytest.raises(
        ValueError, match="study of a bank needs target; the records of"
    ):
        study(*made, MemorySource([(16, 20)], paired=False))
    model, variables = made
    state = jax.tree.map(lambda x: x * jnp.nan, variables["lfpv"])
    with pytest.raises(ValueError, match="0: the model's output is not finite"):
        study(model, {**variables, "lfpv": state}, source)
