"""URetinex-Net against the official code, and what is particular to it."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import llie_jax
from llie_jax import convert, costs, evaluation, weights
from llie_jax.cli import main
from llie_jax.cli.experiment import load_config
from llie_jax.configs import uretinex as uretinex_config
from llie_jax.losses.weighted import WeightedLoss
from llie_jax.models import base, uretinex
from llie_jax.nn import conv_kernels
from llie_jax.training import loop
from llie_jax.training.experiment import Experiment
from tests.data import trees
from tests.official import nhwc

TINY = {"name": "uretinex", "width": 4, "rounds": 2, "reference_ratio": True}
STAGES = ("decompose", "unfold", "adjust")
NAMES = {
    "output": "output",
    "reflectance": "reflectance",
    "illumination": "illumination",
    "adjusted": "adjusted",
    "p0": "auxiliary_reflectance_0",
    "q0": "auxiliary_illumination_0",
    "p_last": "auxiliary_reflectance_2",
    "q_last": "auxiliary_illumination_2",
}


def read(path):
    """Returns a golden file's model and variables, its tensors, its other arrays."""
    with np.load(path) as file:
        arrays = dict(file)
    tensors = {k[6:]: v for k, v in arrays.items() if k.startswith("param:")}
    return *convert.from_torch(tensors), tensors, arrays


@pytest.fixture(scope="module")
def official(golden):
    return read(golden / "uretinex_random.npz")


@pytest.fixture(scope="module")
def outputs(official):
    """Outputs for the golden image with the fixed ratio, and with its reference's.

    The second is a batch: the same image, also with the dark image as its reference.
    """
    model, variables, _, arrays = official
    image, target = nhwc(arrays["input"]), nhwc(arrays["target"])
    images, targets = jnp.tile(image, (2, 1, 1, 1)), jnp.concatenate([target, image])

    def run(variables, images, **inputs):
        return model.apply(variables, images, **inputs)

    with (
        conv_kernels.use_implementation("lax"),
        jax.default_matmul_precision("highest"),
    ):
        return jax.jit(run)(variables, image), jax.jit(run)(
            variables, images, reference=targets
        )


def check(outputs, arrays, names):
    found = {"output": outputs.image, **outputs.aux}
    for name, ours in names.items():
        np.testing.assert_allclose(
            found[ours], nhwc(arrays[name]), atol=5e-6, rtol=0, err_msg=name
        )


@pytest.mark.slow  # the same network as with random weights
def test_published_weights_golden(shared):
    model, variables, _, arrays = read(shared / "golden" / "uretinex_lol.npz")
    assert llie_jax.registry.spec_of(model) == llie_jax.default_spec("uretinex")
    assert model.ratio == arrays["ratio"]
    with jax.default_matmul_precision("highest"):
        found = jax.jit(model.apply)(variables, nhwc(arrays["input"]))
    check(found, arrays, NAMES)


def test_golden(official, outputs):
    arrays = official[-1]
    fixed, seen = outputs
    check(fixed, arrays, NAMES)
    first = jax.tree.map(lambda leaf: leaf[:1], seen)
    names = {"output_reference": "output", "p_high": "reference_reflectance"}
    check(first, arrays, {**names, "q_high": "reference_illumination"})
    # The ratio is one per image.
    assert jnp.abs(seen.image[0] - seen.image[1]).max() > 1e-3


def test_the_reference_only_gives_the_ratio(official, outputs):
    model, variables, _, arrays = official
    option = model.with_options({"ratio": float(arrays["ratio_reference"])})
    with jax.default_matmul_precision("highest"):
        found = jax.jit(option.apply)(variables, nhwc(arrays["input"])).image
    np.testing.assert_allclose(found, outputs[1].image[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("stage", "term", "name"),
    [
        ("decompose", "reference_smoothness", "structure_aware"),
        ("unfold", "smoothness", "illumination_tv"),
        ("adjust", "gradient", "gradient"),
    ],
)
def test_loss_golden(official, outputs, stage, term, name):
    fixed, seen = outputs
    first = jax.tree.map(lambda leaf: leaf[:1], seen)
    spec = load_config(f"uretinex:stage={stage}").loss.terms[term].to_dict()
    loss = WeightedLoss({term: {**spec, "weight": 1.0}})
    found, _ = loss(fixed if stage == "adjust" else first, {}, {}, 0)
    np.testing.assert_allclose(found, official[-1][f"loss:{name}"], rtol=1e-5)


def test_costs_are_the_published_ones():
    found = costs.count("uretinex")
    assert found.params == found.inference_params == 340_105
    assert round(found.macs / 1e9, 2) == 56.92
    more = costs.count({"name": "uretinex", "reference_ratio": True})
    assert more.params - found.params == 20_548


def files_of(tensors):
    """Returns the tensors of each official file, by its name."""

    def part(ours, theirs):
        return {
            theirs + key.removeprefix(ours): value
            for key, value in tensors.items()
            if key.startswith(ours)
        }

    low, high = part("decom.", "model_R."), part("decom_high.", "model_R.")
    unfolding = part("restore.", "model_R.") | part("illum.", "model_L.")
    copies = part("decom.", "model_decom.") | unfolding
    return {
        "init_low.pth": low,
        "unfolding.pth": unfolding,
        "L_adjust.pth": copies | part("adjust.", "model_A."),
        "init_high.pth": high,
    }


def test_the_files_in_any_order(official):
    *_, tensors, _ = official
    files = files_of(tensors)
    for names in itertools.permutations(files):
        joined = convert.join_parts([files[name] for name in names])
        assert joined.keys() == tensors.keys()
        for key in joined:
            np.testing.assert_array_equal(joined[key], tensors[key])
    del files["init_high.pth"]
    joined = convert.join_parts(list(files.values()))
    assert set(tensors) - set(joined) == {k for k in tensors if "decom_high" in k}
    assert not convert.infer_spec(joined)["reference_ratio"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("init_low.pth", "L_adjust.pth"), r"unfolding\.pth is missing"),
        (("init_low.pth", "unfolding.pth"), r"L_adjust\.pth is missing"),
        (("unfolding.pth", "L_adjust.pth"), r"init_low\.pth is missing"),
        (("init_high.pth", "unfolding.pth", "L_adjust.pth"), r"init_low\.pth is miss"),
        (("unfolding.pth",), r"init_low\.pth, L_adjust\.pth are missing"),
        (("init_low.pth", *uretinex._FILES), r"init_low\.pth is there twice"),
        ((*uretinex._FILES, "other"), r"the keys other\.weight is none of them"),
    ],
)
def test_an_incomplete_set_of_files(official, names, message):
    *_, tensors, _ = official
    files = files_of(tensors) | {"other": {"other.weight": np.zeros(1)}}
    with pytest.raises(ValueError, match=message):
        convert.join_parts([files[name] for name in names])


def test_convert_takes_several_files(official, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("convert",))
    model, variables, tensors, _ = official
    paths = []
    for name, part in files_of(tensors).items():
        path = tmp_path / name.replace(".pth", ".safetensors")
        safetensors.numpy.save_file(part, path)
        paths.append(str(path))
    out = tmp_path / "out.safetensors"
    assert main.main(["convert", *paths[::-1], str(out)]) == 0
    assert "360,653 parameters" in capsys.readouterr().out
    loaded, found = weights.load(out)
    assert loaded == model
    chex.assert_trees_all_equal(found, variables)
    facts = weights.describe(out)["metadata"]
    assert facts["source"].split(", ")[-1] == "init_low.safetensors"
    assert facts["source_sha256"].split(", ")[-1] == weights.file_sha256(paths[0])

    for arguments, message in (
        (paths[:2], "L_adjust.pth is missing"),
        ([paths[0], str(tmp_path)], "A run or a release file is converted alone"),
    ):
        assert main.main(["convert", *arguments, str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_official_files(shared):
    pytest.importorskip("torch", reason="needs the extra `torch`")
    folder = shared / "data" / "weights"
    parts = [
        convert.read_checkpoint(folder / f"uretinex_{name}")
        for name in ("L_adjust.pth", "init_high.pth", "unfolding.pth", "init_low.pth")
    ]
    joined = convert.join_parts(parts)
    with np.load(shared / "golden" / "uretinex_lol.npz") as golden:
        for key in (key for key in golden if key.startswith("param:")):
            np.testing.assert_array_equal(joined[key[6:]], golden[key])
    keys = json.loads((shared / "golden" / "uretinex_keys.json").read_text())
    assert set(keys) == {key for key in joined if "decom_high" not in key}


def test_published_weights_are_in_several_files(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("convert",))
    monkeypatch.setenv("LLIE_JAX_WEIGHTS", str(tmp_path))
    message = (
        r"Get init_low\.pth, unfolding\.pth, L_adjust\.pth from .* convert init_low"
    )
    with pytest.raises(FileNotFoundError, match=message):
        weights.load("uretinex.lol_v1")
    pytest.importorskip("torch", reason="needs the extra `torch`")
    folder = shared / "data" / "weights"
    names = ("unfolding.pth", "L_adjust.pth", "init_low.pth")
    files = [str(folder / f"uretinex_{name}") for name in names]
    out = tmp_path / "uretinex.lol_v1.safetensors"
    assert main.main(["convert", *files, str(out)]) == 0
    assert weights.load("uretinex.lol_v1")[0] == llie_jax.build("uretinex")


@pytest.fixture(scope="module")
def tiny():
    model = llie_jax.build(TINY)
    return model, base.initial_variables(model, jax.random.key(0), (4, 4))


@pytest.mark.usefixtures("native_convolutions")
def test_scores_with_a_ratio_from_the_reference(tiny, tmp_path):
    variables = tiny[1]
    root = trees.pairs(tmp_path / "pairs", ("1", "2"), size=(16, 16))
    path = tmp_path / "tiny.safetensors"
    weights.save(path, TINY, variables)
    plain = evaluation.run(path, root, progress=False)
    seen = evaluation.run(path, root, use_reference=True, progress=False)
    assert plain.facts["options"]["uses_reference"] == []
    assert seen.facts["options"]["uses_reference"] == ["reference"]
    assert seen.mean != plain.mean
    without = {**TINY, "reference_ratio": False}
    params = {k: v for k, v in variables["params"].items() if k != "reference"}
    weights.save(path, without, {"params": params})
    with pytest.raises(ValueError, match="uretinex takes no input from references"):
        evaluation.run(path, root, use_reference=True, progress=False)


@pytest.mark.usefixtures("native_convolutions")
@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_finite_and_reach_what_is_trained(tiny, stage):
    model, variables = tiny
    config = load_config(f"uretinex:stage={stage}", ["--config.model.rounds=2"])
    terms = config.loss.terms.to_dict()
    terms = {name: term for name, term in terms.items() if not name.endswith("_2")}
    loss = WeightedLoss(terms)
    shades = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    flat = jnp.broadcast_to(shades, (3, 4, 4, 3))
    busy = jax.random.uniform(jax.random.key(1), flat.shape)

    @jax.jit
    @jax.grad
    def gradient(variables, image):
        target = jnp.sqrt(image)
        outputs = model.apply(variables, image, target=target, train=True)
        return loss(outputs, {"image": image, "target": target}, {}, 0)[0]

    chex.assert_tree_all_finite(gradient(variables, flat))
    dark = jax.tree.map(jnp.zeros_like, variables)
    chex.assert_tree_all_finite(gradient(dark, flat))
    found = gradient(variables, busy)["params"]
    for name in uretinex_config.NETWORKS[stage]:
        assert any(np.any(leaf) for leaf in jax.tree.leaves(found[name])), name


def test_the_recipe_is_the_authors():
    for stage, steps, batch, rate, betas in (
        ("decompose", 98_000, 10, 1e-4, (0.99, 0.9)),
        ("unfold", 246_000, 4, 2e-4, (0.9, 0.999)),
        ("adjust", 246_000, 4, 5e-5, (0.99, 0.9)),
    ):
        config = load_config(f"uretinex:stage={stage}")
        run = config.stages.s0
        assert (run.steps, run.patch_size, run.batch_size) == (steps, 48, batch)
        assert config.optimizer.name == "adam"
        assert config.optimizer.learning_rate == rate
        assert (config.optimizer.b1, config.optimizer.b2) == betas
        assert config.model.reference_ratio
    experiment = Experiment.from_config(load_config("uretinex:stage=unfold"))
    rates = [float(experiment.schedule(step)) for step in (29_999, 30_000)]
    np.testing.assert_allclose(rates, [2e-4, 2e-5], rtol=1e-6)
    terms = experiment.config.loss.terms
    weights = {name: terms[name].weight for name in ("pixel", "ssim", "smoothness")}
    assert weights == {"pixel": 1, "ssim": 1, "smoothness": 20}
    assert terms.perceptual.weight == 0
    for t, (gamma, lamda) in enumerate(((0.1, 0.5), (0.15, 0.55), (0.2, 0.6))):
        assert terms[f"reflectance_{t}"].weight == pytest.approx(gamma)
        assert terms[f"illumination_{t}"].weight == pytest.approx(lamda)
    assert load_config("uretinex").loss.terms.illumination.weight == 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("native_convolutions")
@pytest.mark.parametrize("lfpv", [False, True])
def test_stages_train_one_after_another(tmp_path, lfpv):
    root = trees.pairs(tmp_path / "pairs", ("1", "2", "3", "4"), size=(24, 24))
    before = None
    inside = "backbone." if lfpv else ""
    for number, stage in enumerate(STAGES):
        changes = {
            "data.train.name": "paired_folder",
            "data.train.root": root,
            "data.validation.fraction": 0.0,
            "stages.s0.steps": 2,
            "stages.s0.patch_size": 16,
            "stages.s0.batch_size": 2,
            f"model.{inside}width": 4,
        }
        if number:
            changes["init_from"] = tmp_path / STAGES[number - 1]
        config = load_config(
            f"uretinex:stage={stage},lfpv={lfpv}",
            [f"--config.{key}={value}" for key, value in changes.items()],
        )
        result = loop.train(config, tmp_path / stage, progress=False)
        assert int(result.state.skipped) == 0
        params = jax.tree.map(np.asarray, result.state.params)
        params = params["backbone"] if lfpv else params
        if before is not None:
            trained = {"unfold": {"restoration", "illumination"}}
            for name in params:
                same = all(
                    jax.tree.leaves(
                        jax.tree.map(np.array_equal, params[name], before[name])
                    )
                )
                assert same != (name in trained.get(stage, {"adjustment"})), name
        before = params


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width=0; use at least 1"),
        ({"rounds": 0}, "rounds=0; use at least 1"),
        ({"ratio": 0.0}, "ratio=0.0; give more than 0"),
    ],
)
def test_impossible_fields(fields, message):
    model = llie_jax.build({**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


def test_references_that_cannot_be_used(tiny):
    model, variables = tiny
    image = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match=r"reference is \(1, 4, 6, 3\), the image"):
        model.apply(variables, image, reference=jnp.zeros((1, 4, 6, 3)))
    with pytest.raises(ValueError, match=r"reference_ratio=True, or .* init_high\.pth"):
        model.clone(reference_ratio=False).apply(variables, image, reference=image)
