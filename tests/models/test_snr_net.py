"""SNR-Net against the official code, and what is specific to it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax import convert, costs
from llie_jax.image.snr import snr_map
from llie_jax.losses.pixel import charbonnier
from llie_jax.models import base, snr_net
from llie_jax.models.base import variable_shapes
from tests.official import nhwc

SMALL = dict(
    name="snr_net",
    width=4,
    num_layers=1,
    num_heads=2,
    head_width=4,
    hidden=8,
    light_blocks=1,
)


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def official(golden):
    """Returns the golden file, its model and its variables."""
    file = np.load(golden / "snrnet_small.npz")
    tensors = {
        key.removeprefix("param:"): value
        for key, value in file.items()
        if key.startswith("param:")
    }
    return file, *llie_jax.convert.from_torch(tensors, {"num_heads": 4})


def small(seed=0, **fields):
    """Returns a small model and random variables."""
    model = llie_jax.build({**SMALL, **fields})
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        variable_shapes(model),
    )


def test_fields_are_found(official):
    _, model, _ = official
    assert (model.width, model.num_layers, model.light_blocks) == (8, 2, 2)
    assert (model.num_heads, model.head_width, model.hidden) == (4, 8, 96)
    assert (model.front_blocks, model.back_blocks) == (1, 1)


@pytest.mark.parametrize(("mask", "output"), [("mask", "output"), ("mask2", "output2")])
def test_image_golden(official, mask, output):
    file, model, variables = official
    image = nhwc(file["input"])
    found = jax.jit(model.apply)(variables, image, snr_map=nhwc(file[mask])).image
    np.testing.assert_allclose(found, nhwc(file[output]), atol=1e-5)
    if mask == "mask":  # the model's own map
        found = jax.jit(model.apply)(variables, image).image
        np.testing.assert_allclose(found, nhwc(file[output]), atol=1e-4)


def test_loss_golden(official):
    file, *_ = official
    output, target = nhwc(file["output"]), nhwc(file["target"])
    for reduce in ("sum", "mean"):
        found = charbonnier(output, target, reduce=reduce)
        np.testing.assert_allclose(found, [file[f"loss:charbonnier_{reduce}"]], 1e-5)


def test_published_costs():
    """At the paper's size; MACs include the products of the attention."""
    found = costs.count("snr_net")
    assert found.params == found.inference_params == 39_124_099
    assert found.macs == 24_335_351_808
    assert found.macs_fvcore - found.macs == 6 * 2 * 5 * 256 * 1024  # layer norms
    assert round(costs.count("snr_net", (400, 592)).macs / 1e9, 1) == 91.7


def test_official_names_fill_the_full_size(golden):
    shapes = json.loads((golden / "snrnet_keys.json").read_text())
    assert len(shapes) == 118
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    spec = convert.infer_spec(tensors)
    assert spec == llie_jax.registry.default_spec("snr_net")
    keys = base.card("snr_net").torch.patterns
    convert.convert_tensors(tensors, variable_shapes(llie_jax.build(spec)), keys)


def test_heads_that_do_not_fit_a_checkpoint(golden):
    shapes = json.loads((golden / "snrnet_keys.json").read_text())
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match="512 channels are not divisible by 7 heads"):
        convert.infer_spec(tensors, {"num_heads": 7})
    del tensors["conv_first_1.weight"]
    with pytest.raises(ValueError, match=r"no conv_first_1\.weight"):
        convert.infer_spec(tensors, "snr_net")


def test_attention_looks_at_keys_only():
    """Without keys, all tokens have equal weights; a single key takes all of it."""
    attention = snr_net.MaskedAttention(num_heads=2, head_width=4)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.standard_normal((1, 2, 3, 8)), jnp.float32)
    no_keys = jnp.zeros((1, 2, 3), bool)
    variables = attention.init(jax.random.key(1), tokens, no_keys)
    none = attention.apply(variables, tokens, no_keys)
    np.testing.assert_allclose(none, jnp.broadcast_to(none[:, :1, :1], none.shape))
    alone = attention.apply(variables, tokens[:, 1:, 1:2], no_keys[:, 1:, 1:2])
    one = attention.apply(variables, tokens, no_keys.at[0, 1, 1].set(True))
    np.testing.assert_allclose(
        one, jnp.broadcast_to(alone, one.shape), rtol=1e-4, atol=1e-5
    )
    chex.assert_tree_all_finite((none, one))


def test_the_map_takes_part():
    model, variables = small()
    rng = np.random.default_rng(1)
    image = jnp.asarray(rng.random((1, 32, 16, 3)), jnp.float32)
    apply = jax.jit(model.apply)
    own = apply(variables, image)
    given = apply(variables, image, snr_map=snr_map(image))
    np.testing.assert_allclose(own.image, given.image, atol=1e-3)
    other = apply(variables, image, snr_map=jnp.ones((1, 32, 16, 1)))
    assert np.abs(own.image - other.image).max() > 1e-3
    with pytest.raises(ValueError, match=r"snr_map is \(1, 8, 4, 1\)"):
        model.apply(variables, image, snr_map=jnp.ones((1, 8, 4, 1)))


def test_queries_and_keys_matter_where_there_are_keys():
    model, variables = small()
    rng = np.random.default_rng(4)
    image = jnp.asarray(rng.random((1, 32, 32, 3)), jnp.float32)

    @jax.jit
    def gradient(params, mask):
        def loss(params):
            image_ = model.apply({"params": params}, image, snr_map=mask).image
            return jnp.sum(image_**2)

        grads = jax.grad(loss)(params)["transformer"]["layer_0"]["attention"]
        return [jnp.abs(grads[part]["kernel"]).max() for part in ("query", "key")]

    mask = jnp.zeros((1, 32, 32, 1))
    assert max(gradient(variables["params"], mask)) == 0
    assert min(gradient(variables["params"], mask.at[:, :, :16].set(0.9))) > 0


def test_gradients_are_finite_on_flat_images():
    model, variables = small()
    flat = jnp.stack([jnp.full((16, 16, 3), level) for level in (0.0, 0.5, 1.0)])

    @jax.jit
    def gradient(variables, image):
        def loss(variables, image):
            return jnp.sum(model.apply(variables, image).image ** 2)

        return jax.grad(loss, argnums=(0, 1))(variables, image)

    chex.assert_tree_all_finite(gradient(variables, flat))


@pytest.mark.slow  # the contract suite has a shorter form
@pytest.mark.usefixtures("native_convolutions")
def test_bfloat16_comes_close():
    model, variables = small()
    rng = np.random.default_rng(2)
    image = jnp.asarray(0.2 * rng.random((1, 32, 32, 3)), jnp.float32)
    exact = model.apply(variables, image).image
    low = model.clone(dtype=jnp.bfloat16).apply(variables, image).image
    assert low.dtype == jnp.float32
    assert np.abs(low - exact).max() < 0.05 * np.abs(exact).max()


def test_residual_blocks_begin_small():
    block = snr_net.ResidualBlock()
    x = jnp.ones((1, 4, 4, 32))
    params = block.init(jax.random.key(0), x)["params"]
    for conv in params.values():
        assert not np.any(conv["bias"])
        deviation = 0.1 * np.sqrt(2 / (9 * 32))
        np.testing.assert_allclose(np.std(conv["kernel"]), deviation, rtol=0.05)


@pytest.mark.parametrize("field", ["width", "num_heads", "light_blocks"])
def test_fields_that_do_not_fit(field):
    with pytest.raises(ValueError, match=f"{field}=0; use at least 1"):
        variable_shapes(llie_jax.build({**SMALL, field: 0}))
