import json

import jax
import numpy as np
import pytest

import llie_jax
from llie_jax import convert
from llie_jax.convert import names
from llie_jax.models import darkir
from llie_jax.models.base import variable_shapes

SMALL = {
    "name": "darkir",
    "width": 4,
    "encoder_blocks": [1, 2],
    "middle_encoder_blocks": 1,
    "middle_decoder_blocks": 1,
    "decoder_blocks": [2, 1],
    "dilations": [1],
    "extra_depthwise": False,
}


def official(spec, rng=None):
    """Returns tensors with the official names; random ones if given a generator."""
    shapes = variable_shapes(llie_jax.build(spec))["params"]
    tensors = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        path = "/".join(part.key for part in path)
        shape = tuple(leaf.shape)
        if path.endswith("kernel"):
            shape = (shape[3], shape[2], *shape[:2])
        elif path.rpartition("/")[2] in ("beta", "gamma"):
            shape = (1, *shape, 1, 1)
        key = names.torch_key(path, darkir.TORCH_KEYS)
        assert key, path
        tensors[key] = (
            np.broadcast_to(np.float32(0), shape)
            if rng is None
            else rng.standard_normal(shape, np.float32)
        )
    return tensors


@pytest.fixture(scope="module")
def keys(golden):
    return json.loads((golden / "darkir_m_keys.json").read_text())


@pytest.mark.parametrize(("size", "width"), [("m", 32), ("l", 64)])
def test_sizes_from_keys_and_shapes(keys, size, width):
    tensors = {
        key: np.broadcast_to(np.float32(0), shape)
        for key, shape in keys[f"darkir_{size}"].items()
    }
    assert len(tensors) == 343
    model, variables = convert.from_torch(tensors)
    assert model == llie_jax.build({"name": "darkir", "width": width})
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == keys[f"darkir_{size}_num_params"]
    assert count == {"m": 3_321_638, "l": 12_957_254}[size]


def test_names_and_shapes_are_those_of_the_official_code(keys):
    found = {key: list(value.shape) for key, value in official("darkir").items()}
    assert found == keys["darkir_m"]


def test_golden_network(golden):
    arrays = np.load(golden / "darkir_tiny.npz")
    tensors = {
        key.removeprefix("param:"): arrays[key] for key in arrays if "param:" in key
    }
    model, variables = convert.from_torch({"params": tensors, "epoch": 1})
    assert (model.width, model.encoder_blocks) == (8, (1, 1, 1))
    image = arrays["input"].transpose(0, 2, 3, 1)
    expected = arrays["output"].transpose(0, 2, 3, 1)
    found = jax.jit(model.apply)(variables, image).image
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_fields_are_found_and_values_kept():
    tensors = official(SMALL, np.random.default_rng(0))
    model, variables = convert.from_torch(tensors)
    assert model == llie_jax.build(SMALL)
    kernel = variables["params"]["encoders_1"]["block_1"]["spatial"]["branches"][
        "branch_0"
    ]
    source = tensors["encoders.1.modules_list.1.branches.0.branch.0.weight"]
    assert np.array_equal(kernel["kernel"], source.transpose(2, 3, 1, 0))


def test_given_fields_win():
    tensors = official({**SMALL, "dilations": [1, 4, 9]})
    assert convert.infer_spec(tensors)["dilations"] == [1, 4, 9]
    for spec in ({"name": "darkir", "dilations": [1, 2, 3]}, {"dilations": [1, 2, 3]}):
        model, _ = convert.from_torch(tensors, spec)
        assert model.dilations == (1, 2, 3)
        assert model.width == 4
    assert convert.infer_spec(tensors, "darkir")["width"] == 4


def test_dilations_that_only_the_user_knows():
    tensors = official({**SMALL, "dilations": [1, 4]})
    with pytest.raises(ValueError, match=r"2 branches.*'dilations': \[1, 1\]"):
        convert.from_torch(tensors)
    assert convert.from_torch(tensors, {"dilations": [1, 4]})[0].dilations == (1, 4)


def test_gate_left_out():
    tensors = official({**SMALL, "frequency_gate": False})
    assert not convert.infer_spec(tensors)["frequency_gate"]
    convert.from_torch(tensors)


def test_unknown_and_missing_keys_are_both_listed():
    tensors = official(SMALL)
    del tensors["intro.weight"], tensors["ups.0.0.weight"]
    tensors["adapter.weight"] = tensors["extra"] = np.zeros(3)
    with pytest.raises(ValueError, match="does not match") as error:
        convert.from_torch(tensors)
    message = str(error.value)
    unknown, _, missing = message.partition("Missing")
    assert all(key in unknown for key in ("adapter.weight", "extra"))
    assert all(key in missing for key in ("intro.weight", "ups.0.0.weight"))


def test_aliases_of_a_shared_tensor_are_equal():
    shapes = {"params": {"row": {"bias": np.zeros(2)}}}
    patterns = {"row.0": "row", "row.{i}": "row"}
    tensors = {"row.0.bias": np.ones(2), "row.1.bias": np.ones(2)}
    tensors["row.1.num_batches_tracked"] = np.array(3)
    found = convert.convert_tensors(tensors, shapes, patterns)
    np.testing.assert_array_equal(found["params"]["row"]["bias"], 1)
    tensors["row.1.bias"] = np.zeros(2)
    with pytest.raises(ValueError, match=r"row\.1\.bias is not equal to its alias row"):
        convert.convert_tensors(tensors, shapes, patterns)


@pytest.mark.parametrize("stage", ["encoders.0", "middle_blks_dec", "downs", "ups"])
def test_all_keys_of_a_missing_stage_are_listed(stage):
    tensors = official(SMALL)
    gone = [key for key in tensors if key.startswith(f"{stage}.")]
    for key in gone:
        del tensors[key]
    with pytest.raises(ValueError, match=r"Unknown keys: none\. Missing") as error:
        convert.from_torch(tensors)
    assert all(key in str(error.value) for key in gone)


def test_all_unknown_keys_are_listed():
    strays = {f"stray{i}.weight": np.zeros(1) for i in range(30)}
    with pytest.raises(ValueError, match="does not match") as error:
        convert.from_torch({**official(SMALL), **strays})
    assert all(key in str(error.value) for key in strays)


def test_a_stage_without_blocks_is_given():
    spec = {**SMALL, "middle_encoder_blocks": 0, "decoder_blocks": [2, 0]}
    with pytest.raises(ValueError, match=r"Missing keys: .*middle_blks_enc"):
        convert.from_torch(official(spec))
    fields = {"middle_encoder_blocks": 0, "decoder_blocks": [2, 0]}
    assert convert.from_torch(official(spec), fields)[0] == llie_jax.build(spec)


def test_shapes_that_differ_are_listed():
    tensors = official(SMALL)
    tensors["ending.bias"] = np.zeros(5)
    with pytest.raises(ValueError, match=r"ending\.bias \(5,\) for params/ending/bias"):
        convert.from_torch(tensors)


def test_no_model_has_such_keys():
    with pytest.raises(
        ValueError, match=r"No model recognised from the keys a\.weight"
    ):
        convert.from_torch({"a.weight": np.zeros(1)})


def test_unknown_field():
    with pytest.raises(ValueError, match="Did you mean 'dilations'"):
        convert.from_torch(official(SMALL), {"dilation": [1]})


def test_files_that_no_model_joins():
    parts = [{"a.weight": np.ones(1)}, {"b.weight": np.ones(1)}]
    with pytest.raises(ValueError, match=r"several files with the keys a\.weight;"):
        convert.join_parts(parts)
    assert convert.join_parts(parts[:1]) == parts[0]
