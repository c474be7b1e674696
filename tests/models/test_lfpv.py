"""LFPV against the official code, and what is specific to it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import llie_jax
import tests.training.toys  # noqa: F401  registers toy_backbone
from llie_jax import convert, costs, registry
from llie_jax.inference.prepare import prepare
from llie_jax.models import base, lfpv
from llie_jax.models.base import variable_shapes
from llie_jax.nn import feature_bank, norms
from llie_jax.studies import layers

L, C, K = 16, 8, 4


pytestmark = pytest.mark.usefixtures("native_convolutions")


def unit_error(found, wanted):
    """Returns the largest difference over the largest reference value."""
    return np.max(np.abs(np.asarray(found) - wanted)) / np.max(np.abs(wanted))


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, -3, -1))


def tensors(file):
    return {
        key.removeprefix("param:"): value
        for key, value in file.items()
        if key.startswith("param:")
    }


def filled(module, file, prefix, *args, method=None):
    """Returns the module's variables from the official tensors of a golden file."""
    shapes = jax.eval_shape(
        lambda *args: module.init(jax.random.key(0), *args, method=method), *args
    )
    keys = {
        torch: name.removeprefix(prefix)
        for torch, name in lfpv.TORCH_KEYS.items()
        if name.startswith(prefix)
    }
    ignored = base.card("lfpv").torch.unused
    return convert.convert_tensors(tensors(file), shapes, keys, unused=ignored)


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def test_query_and_fusion(golden):
    file = np.load(golden / "lfpv_query_fusion.npz")
    features, c_v, c_p = (
        nhwc(file["input"]),
        jnp.asarray(file["c_v"]),
        nhwc(file["c_p"]),
    )
    query = feature_bank.Query()
    variables = filled(query, file, "query/", features, c_v, c_p)
    by_vector, by_patch = query.apply(variables, features, c_v, c_p)
    assert unit_error(by_vector, nhwc(file["vector_readout"])) < 1e-5
    assert unit_error(by_patch, nhwc(file["patch_readout"])) < 1e-5

    @jax.jit
    def fused(features, c_v, c_p):
        return features + sum(query.apply(variables, features, c_v, c_p))

    value, pull = jax.vjp(fused, features, c_v, c_p)
    assert unit_error(value, nhwc(file["output"])) < 1e-5
    grads = pull(nhwc(file["cot"]))
    for found, wanted in zip(
        grads,
        (nhwc(file["grad_input"]), file["grad_c_v"], nhwc(file["grad_c_p"])),
        strict=True,
    ):
        assert unit_error(found, wanted) < 5e-5

    by_pixel, by_cell = query.apply(variables, features, c_v, c_p, method="assign")
    assert by_pixel.shape == (2, 12, 16, L)
    assert by_cell.shape == (2, 3, 4, L)
    np.testing.assert_allclose(by_pixel.sum(-1), 1, atol=1e-5)


def kinds(file):
    """Returns a file's bank: kind -> nodes [l, s, s, c], cotangent, kernel size."""
    return {
        "vector": (file["c_v"][:, None, None], file["cot_v"][:, None, None], 1),
        "patch": (nhwc(file["c_p"]), nhwc(file["cot_p"]), 3),
    }


def norm(x, params):
    """Applies the layer norm over all values of a node."""
    return feature_bank.NodeNorm().apply({"params": params}, x)


def parts(variables, kind, part):
    """Returns the parameters of one network and of the norm after it."""
    params = variables["params"][kind]
    return params[part], params[f"{part}_norm"]


def official_updaters(file, *missing):
    """Returns the updaters' parameters, without the missing networks.

    Each file holds either the sample updater or the mutual updater.
    """
    module = feature_bank.Updaters()
    nodes = {"vector": jnp.zeros((1, 1, 1, C)), "patch": jnp.zeros((1, K, K, C))}
    partners = {kind: jnp.zeros(L, int) for kind in nodes}
    args = jnp.zeros((L, C)), jnp.zeros((L, K, K, C)), nodes, lambda: partners
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    wanted = {
        name: leaf
        for name, leaf in flat.items()
        if not any(part in name for part in missing)
    }
    keys = {
        torch: name.removeprefix("updaters/")
        for torch, name in lfpv.TORCH_KEYS.items()
        if name.startswith("updaters/")
    }
    return convert.convert_tensors(
        tensors(file),
        traverse_util.unflatten_dict(wanted, sep="/"),
        keys,
        unused=base.card("lfpv").torch.unused,
    )


def test_sample_updater(golden):
    file = np.load(golden / "lfpv_su.npz")
    variables = official_updaters(file, "/mutual")
    identity = variables["params"]["embedding"]
    features = nhwc(file["input"])
    positions = {"vector": file["pos_vec"], "patch": file["pos_patch"]}
    embedding_grad, feature_grad = 0.0, 0.0
    for kind, (nodes, cotangent, size) in kinds(file).items():
        network, affine = parts(variables, kind, "sample")
        updater = feature_bank.Released(C, size)

        @jax.jit
        def update(nodes, features, identity, kind=kind, updater=updater):
            samples = feature_bank.sample(features, positions[kind], nodes.shape[1])
            mean = updater.apply(
                {"params": {"sample": network}},  # noqa: B023
                nodes,
                samples,
                identity,
                method="from_samples",
            )
            return norm(mean, affine)  # noqa: B023

        value, pull = jax.vjp(update, jnp.asarray(nodes), features, identity)
        name = "out_c_v" if kind == "vector" else "out_c_p"
        wanted = file[name][:, None, None] if kind == "vector" else nhwc(file[name])
        assert unit_error(value, wanted) < 2e-5
        to_nodes, to_features, to_identity = pull(jnp.asarray(cotangent))
        name = name.replace("out", "grad")
        wanted = file[name][:, None, None] if kind == "vector" else nhwc(file[name])
        assert unit_error(to_nodes, wanted) < 1e-4
        embedding_grad += to_identity
        feature_grad += to_features
    assert unit_error(embedding_grad, file["grad:embedding.weight"]) < 1e-4
    assert unit_error(feature_grad, nhwc(file["grad_input"])) < 1e-4


def test_mutual_updater(golden):
    file = np.load(golden / "lfpv_mu.npz")
    variables = official_updaters(file, "/sample")
    identity = variables["params"]["embedding"]
    partners = {"vector": file["partner_vec"], "patch": file["partner_patch"]}
    embedding_grad = 0.0
    for kind, (nodes, cotangent, size) in kinds(file).items():
        network, affine = parts(variables, kind, "mutual")

        @jax.jit
        def update(nodes, identity, kind=kind, size=size):
            def spread(embeddings):
                return jnp.broadcast_to(embeddings[:, None, None], nodes.shape)

            # As released: a patch's partner comes with the embedding of the vector's.
            return norm(
                feature_bank.UpdateNetwork(C, size).apply(
                    {"params": network},  # noqa: B023
                    nodes,
                    nodes[partners[kind]],
                    spread(identity),
                    spread(identity[partners["vector"]]),
                ),
                affine,  # noqa: B023
            )

        value, pull = jax.vjp(update, jnp.asarray(nodes), identity)
        name = "out_c_v" if kind == "vector" else "out_c_p"
        wanted = file[name][:, None, None] if kind == "vector" else nhwc(file[name])
        assert unit_error(value, wanted) < 2e-5
        to_nodes, to_identity = pull(jnp.asarray(cotangent))
        name = name.replace("out", "grad")
        wanted = file[name][:, None, None] if kind == "vector" else nhwc(file[name])
        assert unit_error(to_nodes, wanted) < 1e-4
        embedding_grad += to_identity
    assert unit_error(embedding_grad, file["grad:embedding.weight"]) < 1e-4


def numpy_network(params, x):
    """Computes the seven layers on concatenated rows [n, s, s, C]."""
    for i in range(7):
        kernel = np.asarray(params[f"conv_{i}"]["kernel"], np.float64)
        reach, side = kernel.shape[0] // 2, x.shape[1]
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        x = np.asarray(params[f"conv_{i}"]["bias"], np.float64) + sum(
            padded[:, a : a + side, b : b + side] @ kernel[a, b]
            for a in range(kernel.shape[0])
            for b in range(kernel.shape[1])
        )
        if i < 6:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            affine = params[f"norm_{i}"]
            x = (x - mean) / np.sqrt(variance + 1e-5) * affine["scale"] + affine["bias"]
            x = np.maximum(x, 0)
    return x


def numpy_paper(params, nodes, samples, identity, *, include_self, stabilise):
    """Computes the paper's rule with loops and concatenation, in float64."""
    count, side, _, width = nodes.shape
    tiled = np.broadcast_to(identity[:, None, None], nodes.shape)
    rows = [
        np.concatenate([nodes[j], sample, tiled[j]], -1)
        for j in range(count)
        for sample in samples
    ]
    by_samples = numpy_network(params["sample"], np.stack(rows))
    by_samples = by_samples.reshape(count, len(samples), side, side, width)
    rows = [
        np.concatenate([nodes[j], nodes[h], tiled[j], tiled[h]], -1)
        for j in range(count)
        for h in range(count)
    ]
    pairs = numpy_network(params["mutual"], np.stack(rows))
    pairs = pairs.reshape(count, count, side, side, width)
    kept = np.ones((count, count)) if include_self else 1 - np.eye(count)
    by_nodes = np.einsum("jh,jhyxc->jyxc", kept, pairs)
    if not stabilise:
        return nodes + by_samples.sum(1) + by_nodes
    new = nodes + by_samples.mean(1) + by_nodes / kept.sum(1)[:, None, None, None]
    mean = new.mean((1, 2, 3), keepdims=True)
    variance = new.var((1, 2, 3), keepdims=True)
    affine = params["norm"]
    return (new - mean) / np.sqrt(variance + 1e-5) * affine["scale"] + affine["bias"]


def random_like(shapes, seed=0, scale=0.5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype),
        shapes,
    )


@pytest.mark.parametrize(
    ("kernel_size", "include_self", "stabilise"),
    [(1, False, True), (3, False, True), (1, True, True), (3, False, False)],
)
def test_the_rule_of_the_paper(kernel_size, include_self, stabilise):
    side, count, width = kernel_size, 5, 4
    updater = feature_bank.Paper(
        width, kernel_size, include_self=include_self, stabilise=stabilise
    )
    rng = np.random.default_rng(1)
    nodes = rng.standard_normal((count, side, side, width)).astype(np.float32)
    samples = rng.standard_normal((3, side, side, width)).astype(np.float32)
    identity = rng.standard_normal((count, width)).astype(np.float32)
    args = nodes, samples, identity
    shapes = jax.eval_shape(
        lambda *args: updater.init(jax.random.key(0), *args, kind="vector"), *args
    )
    variables = random_like(shapes)
    assert ("norm" in variables["params"]) == stabilise
    found = jax.jit(lambda v, *a: updater.apply(v, *a, kind="vector"))(variables, *args)
    wanted = numpy_paper(
        variables["params"], *args, include_self=include_self, stabilise=stabilise
    )
    assert unit_error(found, wanted) < 2e-5


def test_pairs_are_never_concatenated():
    """The first convolution sees each node once, and no array holds all pairs' inputs.

    Such an array would have 4c channels. Those of later layers also have 4c, but hold
    results.
    """
    count, side, width = 6, 4, 8
    updater = feature_bank.Paper(width, 3)
    nodes = jnp.zeros((count, side, side, width))
    args = nodes, nodes[:2], jnp.zeros((count, width))
    shapes = jax.eval_shape(
        lambda *args: updater.init(jax.random.key(0), *args, kind="vector"), *args
    )
    jaxpr = str(
        jax.make_jaxpr(lambda v, *a: updater.apply(v, *a, kind="vector"))(shapes, *args)
    )
    assert "concatenate" not in jaxpr
    first = 4 * 9 * width * 4 * width * side**2  # four operands of c channels
    macs = costs.count_macs(
        lambda v, *a: updater.apply(v, *a, kind="vector"), shapes, *args
    )
    hidden = 9 * (4 * (4 * width) ** 2 + 4 * width * width + width**2) * side**2
    samples = (count + 2 + count) * 9 * width * 4 * width * side**2
    rows = count**2 + 2 * count
    assert macs == count * first + samples + rows * hidden


BACKBONES = {
    name: base.card(name).tiny
    for name in base.backbones()
    if registry.get(name).make.__module__.startswith("llie_jax.")
}
SOME_BACKBONES = [
    pytest.param(name, marks=() if name == "snr_net" else pytest.mark.slow)
    for name in BACKBONES
]
"""In the fast suite the published one; the contract suite has all in short."""


def make(backbone="toy_backbone", **fields):
    """Returns a small LFPV model and random variables, with a bank of zeros."""
    small = {"num_nodes": 5, "patch_size": 2}
    backbone = {"name": backbone, **BACKBONES.get(backbone, {})}
    model = llie_jax.build({"name": "lfpv", "backbone": backbone, **small, **fields})
    shapes = variable_shapes(model)
    variables = random_like(shapes, scale=0.3)
    variables["lfpv"] = jax.tree.map(jnp.zeros_like, variables["lfpv"])
    return model, variables


def images(model, batch=2):
    side = 2 * model.multiple
    rng = np.random.default_rng(3)
    return jnp.asarray(rng.random((batch, side, side, 3)), jnp.float32)


def of_backbone(variables):
    """Returns the variables of the backbone alone."""
    return {k: tree["backbone"] for k, tree in variables.items() if "backbone" in tree}


def trained(model, variables, image, **kwargs):
    """Runs one training pass and returns the outputs and the new bank."""
    kwargs = {"rngs": {"lfpv": jax.random.key(0)}, **kwargs}

    def run(variables, image):
        return model.apply(variables, image, train=True, mutable=["lfpv"], **kwargs)

    return jax.jit(run)(variables, image)


@pytest.mark.parametrize("backbone", SOME_BACKBONES)
def test_a_bank_of_zeros_is_the_backbone(backbone):
    model, variables = make(backbone, bank_width=4)  # projects where it is wider
    image = images(model)
    alone = of_backbone(variables)

    @jax.jit
    def both(variables, alone, image):
        return (
            model.apply(variables, image).image,
            model.backbone.apply(alone, image).image,
        )

    with_bank, without = both(variables, alone, image)
    np.testing.assert_array_equal(with_bank, without)


@pytest.mark.parametrize("backbone", SOME_BACKBONES)
def test_training_moves_the_bank_and_shows_the_backbone(backbone):
    model, variables = make(backbone)
    image = images(model)
    outputs, updated = trained(model, variables, image)
    for name, value in updated["lfpv"].items():
        assert value.shape == variables["lfpv"][name].shape
        assert np.std(value) > 0.1
    chex.assert_tree_all_finite((outputs, updated))
    alone = of_backbone(variables)
    plain = jax.jit(lambda v, x: model.backbone.apply(v, x, train=True))(alone, image)
    np.testing.assert_allclose(outputs.aux["backbone_image"], plain.image, atol=1e-5)
    for name in plain.aux:
        assert f"backbone_{name}" in outputs.aux
        assert name in outputs.aux
    assert np.abs(outputs.image - plain.image).max() > 1e-4
    # The next evaluation reads the stored bank.
    after = jax.jit(model.apply)({**variables, **updated}, image)
    if norms.STATISTICS not in variables:  # with them, training computes otherwise
        np.testing.assert_allclose(after.image, outputs.image, atol=1e-4)
    inferred = jax.eval_shape(model.backbone.apply, alone, image)
    assert set(after.aux) == set(inferred.aux)


@pytest.fixture(scope="module")
def official(golden):
    """Returns the golden file of the official model, and the imported model."""
    file = np.load(golden / "lfpv_snr_net.npz")
    state = tensors(file) | {
        "common_feature": file["c_v"],
        "common_feature_patch": file["c_p"],
    }
    spec = {
        "name": "lfpv",
        "backbone": {"num_heads": 2, "name": "snr_net"},
        "update_rule": {"name": "released", "fix_partner_identity": False},
    }
    return file, *convert.from_torch(state, spec)


def test_import_finds_the_sizes(official):
    _, model, variables = official
    assert (model.num_nodes, model.patch_size) == (L, K)
    assert (model.backbone.width, model.backbone.head_width, model.backbone.hidden) == (
        8,
        16,
        64,
    )
    assert (model.backbone.light_blocks, model.backbone.num_layers) == (2, 1)
    assert variables["lfpv"]["c_p"].shape == (L, K, K, C)


def test_whole_backbone_in_evaluation(official):
    file, model, variables = official
    outputs = jax.jit(model.apply)(
        variables, nhwc(file["input"]), snr_map=nhwc(file["mask"])
    )
    assert unit_error(outputs.image, nhwc(file["out_eval"])) < 5e-5
    assert not outputs.aux  # only training decodes twice


def test_whole_backbone_in_training(official):
    file, model, variables = official

    def loss(params, bank):
        outputs, updated = model.apply(
            {"params": params, "lfpv": bank},
            nhwc(file["input"]),
            snr_map=nhwc(file["mask"]),
            train=True,
            positions={"vector": file["pos_vec"], "patch": file["pos_patch"]},
            partners={"vector": file["partner_vec"], "patch": file["partner_patch"]},
            mutable=["lfpv"],
        )
        target = nhwc(file["target"])
        both = outputs.image, outputs.aux["backbone_image"]
        total = sum(jnp.sum(jnp.sqrt((x - target) ** 2 + 1e-6)) for x in both)
        return total, (both, updated["lfpv"])

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (total, ((image, plain), bank)), (grads, to_bank) = gradient(
        variables["params"], variables["lfpv"]
    )
    assert unit_error(image, nhwc(file["out_train"])) < 5e-5
    assert unit_error(plain, nhwc(file["out_train_base"])) < 5e-5
    np.testing.assert_allclose(total, file["loss"], rtol=1e-5)
    assert unit_error(bank["c_v"], file["new_c_v"]) < 2e-5
    assert unit_error(bank["c_p"], nhwc(file["new_c_p"])) < 2e-5
    assert unit_error(to_bank["c_v"], file["grad_c_v"]) < 1e-3
    assert unit_error(to_bank["c_p"], nhwc(file["grad_c_p"])) < 1e-3
    wanted = {
        key.removeprefix("grad:"): value
        for key, value in file.items()
        if key.startswith("grad:")
    }
    found = {
        convert.names.torch_key(path, lfpv.TORCH_KEYS): (path, value)
        for path, value in traverse_util.flatten_dict(grads, sep="/").items()
    }
    assert len(wanted) == 6
    for key, value in wanted.items():
        path, gradient = found[key]
        value = convert.tensors.to_flax(value, path.rpartition("/")[2], gradient.shape)
        assert unit_error(gradient, value) < 1e-3, key


def test_import_of_another_model(official, golden):
    """A checkpoint of the backbone alone is not mistaken for one with a bank."""
    file = np.load(golden / "snrnet_small.npz")
    spec = convert.infer_spec(tensors(file), {"num_heads": 4})
    assert spec["name"] == "snr_net"
    with pytest.raises(ValueError, match="no 'common_feature_patch'"):
        convert.infer_spec(tensors(file), "lfpv")
    # A checkpoint without updaters is enough for inference.
    file, *_ = official
    state = {
        key: value
        for key, value in tensors(file).items()
        if not key.startswith(("update_", "propagate", "embedding", "norm_f", "norm_p"))
    }
    bank = {"common_feature": file["c_v"], "common_feature_patch": file["c_p"]}
    model, variables = convert.from_torch(
        state | bank, {"backbone": {"num_heads": 2, "name": "snr_net"}}
    )
    assert not model.updaters
    assert set(variables["params"]) == {"backbone", "query"}


def test_positions_are_drawn_from_the_stream():
    model, variables = make()
    image = images(model)
    first = trained(model, variables, image)[1]["lfpv"]
    again = trained(model, variables, image)[1]["lfpv"]
    chex.assert_trees_all_equal(first, again)
    other = trained(model, variables, image, rngs={"lfpv": jax.random.key(1)})
    assert np.any(other[1]["lfpv"]["c_v"] != first["c_v"])
    with pytest.raises(ValueError, match="draws positions and partners"):
        trained(model, variables, image, rngs={})


def test_given_positions_and_partners_are_taken():
    """The bank depends only on the given pixels."""
    model, variables = make()
    image = images(model)
    features, _ = model.backbone.apply(of_backbone(variables), image, method="encode")
    chosen = {"vector": jnp.array([2, 1]), "patch": jnp.array([0, 2])}
    pair = {"vector": jnp.arange(5), "patch": jnp.arange(5)[::-1]}
    given = dict(positions=chosen, partners=pair, rngs={})
    one = trained(model, variables, image, **given)[1]["lfpv"]
    each = {kind: jnp.stack([corner] * 2) for kind, corner in chosen.items()}
    same = trained(model, variables, image, **{**given, "positions": each})[1]["lfpv"]
    chex.assert_trees_all_close(one, same, atol=1e-5)
    cut = feature_bank.sample(features, chosen["patch"], 2)
    np.testing.assert_array_equal(cut, features[:, 0:2, 2:4])
    cut = feature_bank.sample(features, jnp.array([[1, 0], [2, 3]]), 1)
    np.testing.assert_array_equal(cut[:, 0, 0], [features[0, 1, 0], features[1, 2, 3]])


@pytest.mark.parametrize("positions", lfpv.POSITIONS)
def test_random_corners_reach_every_place(positions):
    """Corners cover [0, h - k] x [0, w - k], not only multiples of k."""
    model, _ = make(positions=positions)

    def corners(rng):
        bound = model.bind({}, rngs={"lfpv": rng})
        return bound._corners(4, (3, 4), 2)

    found = np.concatenate(
        [
            np.reshape(jax.jit(corners)(jax.random.key(i)), (-1, 2))
            for i in range(200 if positions == "shared" else 50)
        ]
    )
    places = {tuple(place) for place in found.tolist()}
    assert places == {(row, column) for row in range(2) for column in range(3)}
    if positions == "per_sample":
        assert np.any(found[0] != found[:4])


def test_the_rules_move_the_bank_apart():
    model, variables = make()
    image = images(model)
    released = trained(model, variables, image)[1]["lfpv"]
    model, variables = make(update_rule="paper")
    paper = trained(model, variables, image)[1]["lfpv"]
    assert np.any(paper["c_v"] != released["c_v"])
    # The paper's literal form does not bound the sums.
    model, variables = make(update_rule={"name": "paper", "stabilise": False})
    for _ in range(3):
        literal = trained(model, variables, image)[1]
        variables = {**variables, **literal}
    assert np.abs(literal["lfpv"]["c_v"]).max() > np.abs(paper["c_v"]).max()


@pytest.mark.parametrize("rule", ["released", "paper"])
@pytest.mark.parametrize("positions", lfpv.POSITIONS)
def test_several_samples_of_each_map(rule, positions):
    """The bank is that of a batch that repeats each image once per sample."""
    model, variables = make(update_rule=rule, positions=positions, positions_per_map=3)
    image = images(model)
    rng = np.random.default_rng(6)
    corners = {kind: rng.integers(0, 2, (2, 3, 2)) for kind in feature_bank.KINDS}
    partners = {kind: jnp.arange(5)[::-1] for kind in feature_bank.KINDS}
    several = trained(
        model, variables, image, positions=corners, partners=partners, rngs={}
    )[1]["lfpv"]
    one = {kind: corner.reshape(6, 2) for kind, corner in corners.items()}
    repeated = trained(
        model.clone(positions_per_map=1),
        variables,
        jnp.repeat(image, 3, axis=0),
        positions=one,
        partners=partners,
        rngs={},
    )[1]["lfpv"]
    chex.assert_trees_all_close(several, repeated, atol=2e-5)
    drawn = model.bind({}, rngs={"lfpv": jax.random.key(0)})._corners(4, (9, 9), 2)
    assert drawn.shape == (4, 3, 2)
    assert np.any(drawn[:, 0] != drawn[:, 1])
    assert np.array_equal(drawn[0], drawn[1]) == (positions == "shared")


def test_queries_without_norms():
    """Raw products of features and nodes, as in the slides."""
    rng = np.random.default_rng(7)
    features, c_v, c_p = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((1, 2, 4, 3), (5, 3), (5, 2, 2, 3))
    )
    query = feature_bank.Query(norms=False)
    by_vector, by_patch = query.apply({}, features, c_v, c_p)
    shares = np.exp(features @ c_v.T)
    shares /= shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(by_vector, shares @ c_v, atol=1e-5)
    patch = features[0, :2, :2]
    shares = np.exp(np.einsum("yxc,lyxc->l", patch, c_p))
    wanted = np.einsum("l,lyxc->yxc", shares / shares.sum(), c_p)
    np.testing.assert_allclose(by_patch[0, :2, :2], wanted, atol=1e-5)

    model, variables = make(norms=False)
    assert "query" not in variables["params"]
    outputs, updated = trained(model, variables, images(model))
    chex.assert_tree_all_finite((outputs, updated))
    assert np.any(updated["lfpv"]["c_v"])


def test_the_embedding_of_a_patches_partner():
    """The authors' code uses that of the vector's partner, kept as an option."""
    partners = {"vector": jnp.arange(5), "patch": jnp.arange(5)[::-1]}
    positions = {kind: jnp.zeros(2, int) for kind in ("vector", "patch")}
    found = {}
    for fixed in (True, False):
        model, variables = make(
            update_rule={"name": "released", "fix_partner_identity": fixed}
        )
        found[fixed] = trained(
            model,
            variables,
            images(model),
            positions=positions,
            partners=partners,
            rngs={},
        )[1]["lfpv"]
    chex.assert_trees_all_equal(found[True]["c_v"], found[False]["c_v"])
    assert np.any(found[True]["c_p"] != found[False]["c_p"])


def test_wide_features_are_projected():
    _, variables = make("restormer", bank_width=8)  # the features have 32 channels
    assert variables["lfpv"]["c_v"].shape == (5, 8)
    assert variables["params"]["project"]["conv"]["kernel"].shape == (1, 1, 32, 8)
    assert variables["params"]["restore"]["kernel"].shape == (1, 1, 8, 32)
    assert "bias" not in variables["params"]["restore"]
    _, variables = make("restormer", bank_width=None)
    assert variables["lfpv"]["c_v"].shape == (5, 32)
    assert "project" not in variables["params"]


def test_keys_of_the_bank_are_computed_once():
    model, variables = make()
    variables["lfpv"] = random_like(variables["lfpv"], seed=5)
    image = images(model)
    frozen = prepare(model, variables)
    assert set(frozen["cache"]["query"]) == {"vector_keys", "patch_keys"}
    jaxpr = str(jax.make_jaxpr(model.apply)(frozen, image))
    assert jaxpr.count("rsqrt") < str(
        jax.make_jaxpr(model.apply)(variables, image)
    ).count("rsqrt")
    np.testing.assert_allclose(
        jax.jit(model.apply)(frozen, image).image,
        jax.jit(model.apply)(variables, image).image,
        atol=1e-5,
    )


@pytest.mark.slow
def test_a_backbone_with_state_counts_one_step():
    slot = {
        "name": "adr",
        "width": 2,
        "conv": {"name": "dynamic", "annealing_steps": 10},
    }
    backbone = {
        "name": "retinexformer",
        **BACKBONES["retinexformer"],
        "reallocate": slot,
    }
    model = llie_jax.build(
        {"name": "lfpv", "backbone": backbone, "num_nodes": 3, "patch_size": 2}
    )
    variables = base.initial_variables(model, jax.random.key(0), (16, 16))

    def run(variables, image):
        return model.apply(
            variables,
            image,
            train=True,
            rngs={"lfpv": jax.random.key(0)},
            mutable=["lfpv", "counters"],
        )[1]

    updated = jax.jit(run)(variables, images(model))
    steps = jax.tree.leaves(updated["counters"])
    assert steps
    assert all(int(step) == 1 for step in steps)


def test_published_sizes():
    """Sizes of the bank, its cost at inference, and the parts for training only."""
    backbone, whole = costs.count("snr_net"), costs.count("lfpv")
    assert whole.params == 45_966_979
    assert whole.inference_params - backbone.params == 21_760
    assert whole.params - whole.inference_params == 6_821_120
    shapes = variable_shapes(llie_jax.build("lfpv"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["lfpv"])) == 17_408
    # 4 l c for each position of the features; norms of the keys do not count.
    assert whole.macs - backbone.macs == 4 * 16 * 64 * 64 * 64
    released = costs.count({"name": "lfpv", "updaters": False})
    assert released.params == whole.inference_params


def test_flat_images_have_finite_gradients():
    model, variables = make()
    levels = jnp.asarray([0.0, 0.5, 1.0])[:, None, None, None]
    flat = jnp.broadcast_to(levels, (3, *images(model).shape[1:]))

    @jax.jit
    def gradient(variables, image):
        def loss(variables, image):
            outputs, _ = model.apply(
                variables,
                image,
                train=True,
                rngs={"lfpv": jax.random.key(0)},
                mutable=["lfpv"],
            )
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(outputs))

        return jax.grad(loss, argnums=(0, 1))(variables, image)

    chex.assert_tree_all_finite(gradient(variables, flat))


@pytest.mark.slow
def test_a_backbone_in_bfloat16():
    backbone = {"name": "retinexformer", **BACKBONES["retinexformer"]}
    spec = {"name": "lfpv", "num_nodes": 5, "patch_size": 2}
    exact = llie_jax.build({**spec, "backbone": backbone})
    low = llie_jax.build({**spec, "backbone": {**backbone, "dtype": "bfloat16"}})
    variables = base.initial_variables(exact, jax.random.key(0), (32, 32))
    variables["lfpv"] = random_like(variables["lfpv"])
    outputs, updated = trained(low, variables, images(low))
    assert outputs.image.dtype == updated["lfpv"]["c_v"].dtype == jnp.float32
    wanted = jax.jit(exact.apply)(variables, images(exact)).image
    found = jax.jit(low.apply)(variables, images(low)).image
    np.testing.assert_allclose(found, wanted, atol=0.1)


class Closed(base.Model):
    """A model that does not split."""

    multiple = 8
    pad_mode = "reflect"

    def __call__(self, image, *, target=None, train=False):
        return llie_jax.Outputs(image)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(backbone=Closed()), "cannot wrap Closed, which is not a Backb.*darkir"),
        (dict(positions="all"), "Unknown positions 'all'"),
        (dict(num_nodes=0), "num_nodes=0"),
        (dict(bank_width=0), "bank_width=0"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        variable_shapes(lfpv.LFPV(**fields))


@pytest.mark.parametrize("backbone", [7, ["darkir"], "darkirr"])
def test_specs_of_backbones_that_are_none(backbone):
    with pytest.raises(ValueError, match=r"is a model, by name|Unknown .*darkir"):
        llie_jax.build({"name": "lfpv", "backbone": backbone})


def test_a_size_that_patches_do_not_divide():
    model, variables = make("darkir", patch_size=4)
    assert model.multiple == 16
    image = jnp.zeros((1, 20, 20, 3))  # DarkIR alone would accept this
    with pytest.raises(
        ValueError, match="20 x 20; LFPV on DarkIR needs multiples of 16"
    ):
        model.apply(variables, image)


def test_a_bank_of_another_width():
    model, variables = make("darkir")
    _, other = make("darkir", num_nodes=4)
    variables["lfpv"] = other["lfpv"]
    with pytest.raises(ValueError, match=r"c_v is \(4, 16\), .* DarkIR .* \(5, 16\)"):
        model.apply(variables, images(model))


def test_options_and_layers_are_those_of_the_backbone():
    model, _ = make("cidnet")
    assert model.options["saturation"] == 1.0
    changed = model.with_options({"saturation": 1.3})
    assert changed.backbone.saturation == 1.3
    found = layers.layers(model, "attention")
    assert found[0].startswith("backbone/")
    assert not any("i_lca5" in path for path in found)


def test_what_the_backbone_makes_at_native_size_comes_in_from_outside():
    model, variables = make("snr_net")
    variables["lfpv"] = random_like(variables["lfpv"])
    image = images(model)
    inputs = model.native_inputs(image)
    apply = jax.jit(model.apply)
    own, given = apply(variables, image), apply(variables, image, **inputs)
    np.testing.assert_allclose(own.image, given.image, atol=1e-3)
    other = apply(variables, image, snr_map=1 - inputs["snr_map"])
    assert np.abs(own.image - other.image).max() > 0.01
    assert make("darkir")[0].native_inputs(image) == {}
