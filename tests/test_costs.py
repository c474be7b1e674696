import fnmatch
import functools
import json

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import traverse_util
from jax import lax

import llie_jax
from llie_jax import costs, registry
from llie_jax.models import base
from llie_jax.models.base import variable_shapes
from llie_jax.nn import conv_kernels
from llie_jax.nn.layers import FvcoreCounted

SMALL = {
    "name": "darkir",
    "width": 2,
    "encoder_blocks": [1],
    "middle_encoder_blocks": 0,
    "middle_decoder_blocks": 0,
    "decoder_blocks": [1],
}


def counted(spec):
    """The costs at the default size; models that tests share are counted once."""
    return _counted(json.dumps(registry.complete_spec(spec)))


@functools.cache
def _counted(text):
    return costs.count(json.loads(text))


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def convolution(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


@pytest.mark.parametrize(
    ("width", "params", "inference_params", "macs"),
    [
        (32, 3_321_638, 3_314_723, 7_098_185_728),
        pytest.param(
            *(64, 12_957_254, 12_943_427, 26_882_793_472), marks=pytest.mark.slow
        ),
    ],
)
def test_darkir(width, params, inference_params, macs):
    found = costs.count({"name": "darkir", "width": width})
    assert found == costs.Costs((256, 256), params, inference_params, macs, macs)


def test_parameters_for_training_only_are_those_that_the_model_names():
    model = llie_jax.build(SMALL)
    found = costs.count(SMALL, (8, 8))
    flat = traverse_util.flatten_dict(variable_shapes(model)["params"])
    patterns = base.card("darkir").training_only
    training = sum(
        leaf.size
        for path, leaf in flat.items()
        if any(fnmatch.fnmatch("/".join(path), pattern) for pattern in patterns)
    )
    assert found.params - found.inference_params == training


class Counted(nn.Module, FvcoreCounted):
    """A product that fvcore does not see, and a norm that it does."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1], use_bias=False, name="inner")(x)

    def fvcore_macs(self, x):
        return 5 * x.size


class Toy(base.Model):
    """One head for the image, one for the training loss."""

    multiple = 2

    @nn.compact
    def __call__(self, image):
        x = Counted()(image)
        guide = nn.Dense(7, use_bias=False)(x)
        return llie_jax.Outputs(nn.Dense(3, use_bias=False)(x), {"guide": guide})


def test_rules(monkeypatch):
    monkeypatch.setattr(llie_jax.registry, "build", lambda spec: Toy())
    found = costs.count("toy", (4, 4))
    assert found.params == 9 + 21 + 9
    assert found.inference_params == 9 + 9
    assert found.macs == 16 * (9 + 9)
    assert found.macs_fvcore == 16 * (5 * 3 + 9)


def adr(width, **conv):
    return {"name": "adr", "width": width, "conv": {"name": "orthogonal", **conv}}


@pytest.mark.parametrize(
    ("slot", "published"),
    [
        ({"name": "adr", "width": 4, "conv": "static"}, "145.69"),
        pytest.param(
            {"name": "adr", "width": 4, "conv": "dynamic"},
            "145.87",
            marks=pytest.mark.slow,
        ),
        pytest.param(adr(8), "147.55", marks=pytest.mark.slow),
        pytest.param(adr(16), "150.67", marks=pytest.mark.slow),
        pytest.param(adr(4, embedding_dim=16), "145.88", marks=pytest.mark.slow),
        pytest.param(adr(4, embedding_dim=32), "145.90", marks=pytest.mark.slow),
    ],
)
def test_the_published_ablation_of_restormer(slot, published):
    """Tables 3 and 4 of the ADR paper, in 2^30; the next test has two more entries."""
    found = counted({"name": "restormer", "reallocate": slot})
    assert f"{found.macs_fvcore / 2**30:.2f}" == published


@pytest.mark.parametrize(
    ("name", "params", "macs", "fvcore", "width", "more"),
    [
        ("restormer", 26_126_644, 154_882_031_616, 154_882_031_616, 4, 4_571_688),
        ("retinexformer", 1_605_701, 16_656_629_760, 16_715_612_160, 32, 2_540_166),
        ("cidnet", 1_975_569, 7_878_279_168, 7_912_488_960, 32, 6_378_252),
    ],
)
def test_the_backbones_of_adr(name, params, macs, fvcore, width, more):
    plain = counted(name)
    assert (plain.params, plain.macs, plain.macs_fvcore) == (params, macs, fvcore)
    with_adr = counted({"name": name, "reallocate": adr(width)})
    assert with_adr.params - params == more
    if name == "restormer":
        printed = [each.macs_fvcore / 2**30 for each in (plain, with_adr)]
        assert [f"{macs:.2f}" for macs in printed] == ["144.25", "145.99"]
    if name != "cidnet":  # only half of its fifth pair of blocks is read
        assert with_adr.inference_params == with_adr.params


CARDS = {name: base.card(name) for name in llie_jax.list_models()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in CARDS for size in CARDS[name].costs]
)
def test_costs_that_cards_state(name, size):
    found = costs.count({"name": name, **CARDS[name].sizes[size]})
    assert CARDS[name].costs[size] == {
        "params": found.params,
        "inference_params": found.inference_params,
        "macs_256": found.macs,
    }


def test_size_is_rounded_up_to_the_multiple():
    found = costs.count(SMALL, (9, 16))
    assert found.size == (10, 16)
    assert found == costs.count(SMALL, (10, 16))


@pytest.mark.parametrize("size", [(0, 8), (8,)])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size is"):
        costs.count("darkir", size)


def test_convolutions():
    x = shape(2, 8, 10, 6)
    assert costs.count_macs(convolution, x, shape(3, 3, 6, 4)) == 2 * 80 * 9 * 6 * 4

    def grouped(x, kernel):
        return convolution(x, kernel, feature_group_count=3)

    assert costs.count_macs(grouped, x, shape(3, 3, 2, 9)) == 2 * 80 * 9 * 2 * 9

    def strided(x, kernel):
        return convolution(x, kernel, window_strides=(2, 2), padding="VALID")

    assert costs.count_macs(strided, x, shape(2, 2, 6, 4)) == 2 * 20 * 4 * 6 * 4

    def dilated(x, kernel):
        return convolution(x, kernel, rhs_dilation=(3, 3))

    assert costs.count_macs(dilated, x, shape(3, 3, 6, 4)) == 2 * 80 * 9 * 6 * 4


def test_transposed_convolution_counts_the_positions_of_its_input():
    def upsample(x, kernel):
        return lax.conv_transpose(x, kernel, (2, 2), "VALID")

    found = costs.count_macs(upsample, shape(1, 4, 5, 6), shape(2, 2, 6, 3))
    assert found == 20 * 4 * 6 * 3


def test_matrix_products():
    def attention(q, k, v):
        return jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", q, k)) @ v

    q = shape(2, 3, 5, 7)
    assert costs.count_macs(attention, q, q, q) == 2 * (2 * 3 * 5 * 5 * 7)


@pytest.mark.parametrize("implementation", [None, "lax"])
def test_grouped_convolution_is_counted_once_whatever_implements_it(implementation):
    def depthwise(x, kernel):
        return conv_kernels.grouped_conv(
            x, kernel, groups=6, implementation=implementation
        )

    found = costs.count_macs(depthwise, shape(1, 8, 8, 6), shape(3, 3, 1, 6))
    assert found == 64 * 9 * 6


def test_calls_and_loops():
    x, w = shape(4, 4), 64  # 4 x 4 by 4 x 4

    def nested(x):
        return jax.checkpoint(jax.jit(lambda x: x @ x))(x)

    def scanned(x):
        return lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]

    def branches(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    def unused(x):
        x @ x
        return x

    @jax.jit
    def resize_aligned(x):
        return x @ x

    assert costs.count_macs(nested, x) == w
    assert costs.count_macs(scanned, x) == 5 * w
    assert costs.count_macs(branches, x) == 2 * w
    assert costs.count_macs(unused, x) == 0
    assert costs.count_macs(resize_aligned, x) == 0
    with pytest.raises(ValueError, match="loop of unknown length"):
        costs.count_macs(
            lambda x: lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x), x
        )
