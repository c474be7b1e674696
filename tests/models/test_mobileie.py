"""MobileIE against the official code, and what is specific to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
from llie_jax import convert, costs, losses, weights
from llie_jax.cli.experiment import load_config
from llie_jax.models import mobileie
from llie_jax.models.base import variable_shapes
from llie_jax.training.experiment import Experiment
from llie_jax.training.initial import initial_variables
from tests.official import nhwc

TINY = {"name": "mobileie", "width": 4, "expansion": 1}


def read(path, prefix="param:"):
    """Returns a golden file's model and variables, and its other arrays."""
    with np.load(path) as file:
        arrays = dict(file)
    tensors = {
        key.removeprefix(prefix): value
        for key, value in arrays.items()
        if key.startswith(prefix)
    }
    return *convert.from_torch(tensors), arrays


def drawn(model, seed=0):
    """Returns random variables, with positive variances."""
    rng = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(variable_shapes(model), sep="/")
    values = {
        name: 1 + rng.random(leaf.shape)
        if name.endswith("/var")
        else 0.4 * rng.standard_normal(leaf.shape)
        for name, leaf in flat.items()
    }
    values = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return traverse_util.unflatten_dict(values, sep="/")


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def branches(golden):
    return read(golden / "mobileie_train_random.npz")


def test_branches_golden(branches):
    model, variables, arrays = branches
    assert model == llie_jax.build("mobileie")
    output = jax.jit(model.apply)(variables, nhwc(arrays["input"])).image
    np.testing.assert_allclose(output, nhwc(arrays["output"]), rtol=0, atol=5e-6)


def test_folding_golden(branches, golden):
    model, variables, arrays = branches
    folded, merged = model.fold(variables)
    expected_model, expected, _ = read(golden / "mobileie_train_random.npz", "slim:")
    assert folded == expected_model == llie_jax.build(mobileie.WEIGHTS["lol_v1"].spec)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-7),
        merged,
        expected,
    )
    output = jax.jit(folded.apply)(merged, nhwc(arrays["input"])).image
    np.testing.assert_allclose(output, nhwc(arrays["output_slim"]), rtol=0, atol=5e-6)


def test_published_weights_golden(shared):
    model, variables, arrays = read(shared / "golden" / "mobileie_lolv1.npz")
    assert not model.branches
    apply = jax.jit(model.apply)
    for end in ("", "_odd"):
        found = apply(variables, nhwc(arrays[f"input{end}"])).image
        expected = nhwc(arrays[f"output{end}"])
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


def test_loss_golden(shared):
    """The terms of both recipes, with their weights."""
    arrays = np.load(shared / "golden" / "mobileie_lolv1.npz")
    image, output, target = (nhwc(arrays[k]) for k in ("input", "output", "target"))
    outputs = llie_jax.Outputs(output, aux={"reconstruction": 0.9 * image})
    batch = {"image": image, "target": target}
    for recipe, name in (("mobileie", "lle"), ("mobileie_warmup", "warmup")):
        loss = losses.WeightedLoss(load_config(recipe).loss.terms.to_dict())
        total, terms = loss(outputs, batch, {}, 0)
        np.testing.assert_allclose(total, arrays[f"loss:{name}"], rtol=2e-6)
        if name == "lle":
            np.testing.assert_allclose(terms["pixel"], arrays["loss:outlier"], 2e-6)
            np.testing.assert_allclose(terms["psnr"], 2 * arrays["loss:psnr"], 2e-6)


def test_published_costs():
    found = costs.count({"name": "mobileie", "branches": False})
    assert found.params == found.inference_params == 4_075
    assert found.macs == found.macs_fvcore == 250_871_952
    assert costs.count("mobileie").params == 49_978


@pytest.mark.usefixtures("native_convolutions")
def test_folding_gives_the_same_images_at_the_borders_too():
    model = llie_jax.build(TINY)
    variables = drawn(model)
    image = jax.random.uniform(jax.random.key(0), (2, 5, 3, 3))
    expected = jax.jit(model.apply)(variables, image).image
    folded, merged = model.fold(variables)
    found = jax.jit(folded.apply)(merged, image).image
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ValueError, match="folded already"):
        folded.fold(merged)


@pytest.mark.usefixtures("native_convolutions")
def test_a_wrapper_folds_its_backbone():
    model = llie_jax.build({"name": "lfpv", "backbone": TINY, "num_nodes": 2})
    variables = drawn(model)
    image = jax.random.uniform(jax.random.key(0), (1, 4, 8, 3))
    expected = jax.jit(model.apply)(variables, image).image
    folded, merged = model.fold(variables)
    assert not folded.backbone.branches
    assert "batch_stats" not in merged
    weights.check_fit(merged, folded, "The folded variables")
    found = jax.jit(folded.apply)(merged, image).image
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_transform_by_hand():
    x = jnp.array([[[[-1.0, 3.0]]]])
    params = {"weight1": 2.0, "weight2": -0.5, "bias": jnp.array([10.0, 20.0])}
    params = jax.tree.map(jnp.asarray, params)
    found = mobileie.FeatureSelfTransform().apply({"params": params}, x)
    np.testing.assert_allclose(found, [[[[9.0, 11.0]]]])


def test_dropped_blocks():
    image = jnp.ones((4, 64, 64, 3))
    found = np.asarray(mobileie.drop_blocks(jax.random.key(0), image))
    assert set(np.unique(found)) == {0, 1}
    assert (found == found[..., :1]).all()
    # A pixel stays if none of the nine seeds around it falls.
    inside = found[:, 1:-1, 1:-1]
    assert abs(inside.mean() - (1 - 0.5 / 9) ** 9) < 0.02
    every = mobileie.drop_blocks(jax.random.key(0), image, rate=9.0)
    np.testing.assert_array_equal(every, 0)
    np.testing.assert_array_equal(
        mobileie.drop_blocks(jax.random.key(0), image, rate=0.0), image
    )


@pytest.mark.usefixtures("native_convolutions")
def test_the_warm_up_has_another_tail_and_no_attention():
    model = llie_jax.build({**TINY, "warm_up": True})
    variables = drawn(model)
    image = jax.random.uniform(jax.random.key(0), (2, 6, 6, 3))

    @jax.jit
    def gradient(params):
        def total(params):
            outputs, updated = model.apply(
                {**variables, "params": params},
                image,
                train=True,
                rngs={"dropout": jax.random.key(1)},
                mutable=["batch_stats"],
            )
            values = (outputs.image, outputs.aux["reconstruction"])
            return sum(jnp.sum(x**2) for x in values), updated

        return jax.grad(total, has_aux=True)(params)

    grads, updated = gradient(variables["params"])
    for tree in (
        grads,
        jax.tree.map(jnp.subtract, updated["batch_stats"], variables["batch_stats"]),
    ):
        changed = {
            name
            for name, part in tree.items()
            if any(map(np.any, jax.tree.leaves(part)))
        }
        assert changed == {n for n in tree if not n.endswith("_attention")}

    outside = model.apply(variables, image)
    plain = model.clone(warm_up=False).apply(variables, image)
    assert not outside.aux
    np.testing.assert_array_equal(outside.image, plain.image)


@pytest.mark.usefixtures("native_convolutions")
def test_devices_share_their_statistics():
    model = llie_jax.build(TINY)
    variables = drawn(model)
    image = jax.random.uniform(jax.random.key(0), (4, 4, 4, 3))

    def step(model, image):
        outputs, updated = model.apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
        return outputs.image, updated

    whole, statistics = jax.jit(lambda x: step(model, x))(image)
    mapped = model.with_axis("devices")
    parts, shared = jax.jit(
        jax.vmap(lambda x: step(mapped, x), axis_name="devices"),
    )(image.reshape(2, 2, 4, 4, 3))
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5),
        shared,
        statistics,
    )


@pytest.mark.usefixtures("native_convolutions")
def test_gradients_are_finite_on_flat_images():
    model = llie_jax.build(TINY)
    variables = drawn(model)
    loss = losses.WeightedLoss(load_config("mobileie").loss.terms.to_dict())

    @jax.jit
    def gradient(params, image):
        def total(params):
            outputs, _ = model.apply(
                {**variables, "params": params}, image, train=True, mutable=True
            )
            return loss(outputs, {"image": image, "target": image}, {}, 0)[0]

        return jax.grad(total)(params)

    for shade in (0.0, 0.5, 1.0):
        image = jnp.full((2, 4, 4, 3), shade)
        for leaf in jax.tree.leaves(gradient(variables["params"], image)):
            assert np.isfinite(leaf).all()


def test_the_folded_form_does_not_train(tmp_path):
    message = r"is folded.*Train the form with branches \(branches=true\)"
    model = llie_jax.build({**TINY, "branches": False})
    variables = drawn(model)
    with pytest.raises(ValueError, match=message):
        model.apply(variables, jnp.zeros((1, 4, 4, 3)), train=True)

    change = "--config.model.backbone.branches=false"
    config = load_config("mobileie:lfpv=true", [change])
    with pytest.raises(ValueError, match=f"config.model cannot be trained.*{message}"):
        Experiment.from_config(config)

    path = tmp_path / "folded.safetensors"
    weights.save(path, {**TINY, "branches": False}, variables)
    config = load_config("mobileie", [f"--config.init_from={path}"])
    with pytest.raises(ValueError, match=f"init_from is .*safetensors, .*{message}"):
        initial_variables(Experiment.from_config(config))


def test_a_checkpoint_without_its_width_is_refused():
    with pytest.raises(ValueError, match=r"no 'body\.block1'"):
        convert.infer_spec({"tail.weight": np.zeros((3, 12, 3, 3))}, "mobileie")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width=0; use at least 1"),
        ({"expansion": 0}, "expansion=0; use at least 1"),
        ({"branches": False, "warm_up": True}, "warm_up=True needs branches=True"),
    ],
)
def test_impossible_fields(fields, message):
    model = mobileie.MobileIE(**fields)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


def test_the_recipes_are_the_authors():
    config = load_config("mobileie")
    epoch = (485 - 24) // 4
    stage = config.stages.s0
    assert (stage.patch_size, stage.patch_width, stage.batch_size) == (400, 600, 4)
    assert stage.steps == 2000 * epoch
    augment = config.data.augment.to_dict()
    assert not any(augment[k] for k in ("flip_horizontal", "flip_vertical", "rotate"))
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adam", 1e-3)
    assert (optimizer.b1, optimizer.b2, optimizer.l2) == (0.9, 0.999, 0.0)
    rate = Experiment.from_config(config).schedule
    for start in (0, 50, 150, 350, 750, 1550):  # T_0 = 50, then twice as long each
        np.testing.assert_allclose(rate(start * epoch), 1e-3, rtol=1e-6)
        np.testing.assert_allclose(rate((start + 1) * epoch - 1), 1e-3, rtol=1e-6)
        assert rate((start + 1) * epoch) < 1e-3
    terms = config.loss.terms
    found = {key: (term.name, term.weight) for key, term in terms.items()}
    assert found == {
        "pixel": ("outlier_aware", 1.0),
        "colour": ("rgb_cosine", 1.0),
        "psnr": ("psnr", 0.02),
    }
    assert terms.psnr.best == 50

    warm = load_config("mobileie_warmup:data=lol_v2_syn")
    assert warm.model.warm_up
    assert warm.stages.s0.patch_size == warm.stages.s0.patch_width == 384
    assert warm.stages.s0.steps == 10 * ((900 - 45) // 4)
    rate = Experiment.from_config(warm).schedule
    np.testing.assert_allclose([rate(0), rate(warm.stages.s0.steps)], 1e-6, rtol=1e-6)
    terms = {
        key: (term.name, term.on, term.against, term.weight)
        for key, term in warm.loss.terms.items()
    }
    assert terms == {
        "pixel": ("charbonnier", "image", "target", 1.0),
        "colour": ("rgb_cosine", "image", "target", 1.0),
        "reconstruction": ("charbonnier", "aux.reconstruction", "image", 1.0),
    }
