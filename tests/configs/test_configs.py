"""Every recipe builds a complete config whose parts exist."""

import importlib
import inspect
import itertools
import json
import re
from typing import get_args

import pytest
from ml_collections import FrozenConfigDict

from llie_jax.cli.experiment import load_config, recipes
from llie_jax.configs import base, cidnet
from llie_jax.data import catalogue
from llie_jax.training.experiment import Experiment
from tests.conftest import ROOT

ADR = ("cidnet", "restormer", "restormer_progressive", "retinexformer")


def choices(name):
    """Yields all arguments of a recipe: each data set, size, slot and wrapper."""
    module = importlib.import_module(f"llie_jax.configs.{name}")
    values = [
        [(each.name, value) for value in get_args(each.annotation) or (False, True)]
        for each in inspect.signature(module.get_config).parameters.values()
    ]
    for chosen in itertools.product(*values):
        yield ",".join(f"{key}={value}" for key, value in chosen)


EVERY = [f"{name}:{arguments}" for name in recipes() for arguments in choices(name)]


def documented():
    """Returns (name, recipe) of each row in the table of recipes."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    return re.findall(r"^\| `(\w+)` \| `llie-jax train --config (\S+)` \|", text, re.M)


def test_every_file_is_a_recipe_of_its_own():
    """Files of one model train it differently: data, slots, wrappers are arguments."""
    found = {}
    for name in recipes():
        config = load_config(name)
        model = config.model.get("backbone", config.model)
        recipe = (config.optimizer, config.schedule.name, config.ema)
        found[name] = f"{model.name}: {recipe}"
    assert len(set(found.values())) == len(found), found
    assert len(EVERY) > 50


@pytest.mark.parametrize("text", EVERY)
def test_a_recipe(text):
    config = load_config(text)
    name, _, arguments = text.partition(":")
    chosen = dict(item.split("=") for item in arguments.split(",") if item)
    assert base.to_json(base.from_json(base.to_json(config))) == base.to_json(config)
    assert config == base.from_json(base.to_json(config))
    assert (config.model.name == "lfpv") == (chosen.get("lfpv") == "True")
    assert any(term.startswith("lfpv_") for term in config.loss.terms) == (
        config.model.name == "lfpv"
    )
    model = config.model.get("backbone", config.model)
    if name in ADR:
        slot = "adr" if chosen["reallocate"] == "adr" else "identity"
        assert model.reallocate.name == slot
    if chosen.get("data") in catalogue.DATASETS:
        assert config.data.train.name == chosen["data"]
    assert base.total_steps(config) > 0
    # The parts fit together: crops and model, say.
    assert float(Experiment.from_config(config).schedule(0)) > 0


@pytest.mark.parametrize("name", recipes())
def test_a_file_starts_with_its_command(name):
    header = recipes()[name].read_text().split('"""')[1]
    assert f"llie-jax train --config {name}" in header


@pytest.mark.parametrize("name", ADR)
def test_adr_and_lfpv_change_the_model_and_nothing_else(name):
    plain = load_config(name).to_dict()
    adr = load_config(f"{name}:reallocate=adr").to_dict()
    assert adr["optimizer"].get("no_decay", ("*/embedding",)) == ("*/embedding",)
    wrapped = load_config(f"{name}:lfpv=true").to_dict()
    assert wrapped["model"]["backbone"] == plain["model"]
    terms = wrapped.pop("loss")["terms"]
    extra = terms.pop("lfpv_pixel")
    assert extra["on"] == "image"
    assert set(terms) == {f"backbone_{key}" for key in plain["loss"]["terms"]}
    assert {term["on"] for term in terms.values()} == {"aux.backbone_image"}
    assert adr.pop("loss") == plain.pop("loss")
    for found in (plain, adr, wrapped):
        del found["model"]
    assert plain == adr == wrapped


def test_epochs_come_from_the_catalogue():
    assert base.training_pairs("lol_v1") == 485
    steps = {
        data: load_config(f"cidnet:data={data}").stages.s0.steps
        for data in get_args(base.LOL)
    }
    assert steps == {"lol_v1": 60_000, "lol_v2_real": 85_000, "lol_v2_syn": 112_000}
    assert set(cidnet.NEVER_DRAWN) == {"lol_v2_real"}
    assert load_config("darkir").stages.s0.steps == 500 * (461 // 8)
    with pytest.raises(ValueError, match=r"'paired_folder' has no .* lol_v1, "):
        base.training_pairs("paired_folder")


def test_the_table_of_recipes_is_complete():
    rows = documented()
    assert len(rows) == len({name for name, _ in rows}) >= 37
    assert len({text for _, text in rows}) == len(rows)
    assert {text.partition(":")[0] for _, text in rows} == set(recipes())


@pytest.mark.parametrize(("name", "text"), documented())
def test_a_command_of_the_table(name, text):
    config = load_config(text)
    model = config.model.get("backbone", config.model)
    assert name.startswith(model.name)
    assert ("_lfpv_" in name) == (config.model.name == "lfpv")
    assert ("_adr_" in name) == (model.get("reallocate", {}).get("name") == "adr")
    assert name.endswith(config.data.train.name) or config.data.train.name in (
        "lowlight_demo",
        "paired_folder",
        "lol_v1",
    )


def test_a_saved_config_that_is_older_than_a_key():
    config = load_config("cidnet")
    older = json.loads(base.to_json(config))
    del older["optimizer"]["freeze"], older["data"]["train"]["size"]
    for stage in older["stages"].values():
        del stage["patch_width"]
    assert base.from_json(json.dumps(older)) == config


def old_optimizer(values):
    values["optimizer"]["frozen"] = []


def old_schedule(values):
    values["schedule"]["boundaries"] = [0.5]


def old_key(values):
    values["clip"] = 1.0


def old_wrapper(values):
    wrapped = values["model"]
    values["model"] = {"name": "lfpv", "inner": wrapped}


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (old_optimizer, "'adamw' has no field 'frozen'"),
        (old_schedule, "'cosine' has no field 'boundaries'"),
        (old_key, "Unknown key config.clip"),
        (old_wrapper, "'lfpv' has no field 'inner'"),
    ],
)
def test_a_saved_config_of_another_structure(edit, what):
    values = json.loads(base.to_json(load_config("darkir_demo")))
    edit(values)
    with pytest.raises(ValueError, match=what):
        base.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.train.size": (0, 64)}, r"size is \(0, 64\); give \(height, width\)"),
        ({"data.train.size": (64,)}, r"size is \(64,\)"),
        ({"stages.s0.patch_width": -1}, "patch_width is -1; .* at least 0"),
        ({"stages.s0.patch_size": 0}, "patch_size is 0; .* at least 1"),
        ({"optimizer.learning_rate": -1.0}, "learning_rate is -1.0; give 0 or more"),
        ({"ema.decay": 1.0}, "ema.decay is 1.0; give 0.0 or more, below 1.0"),
        ({"schedule.hold_steps": 2, "parallel": "pmapp"}, "Did you mean 'pmap'"),
    ],
)
def test_values_that_make_no_sense(changes, message):
    config = base.get_config()
    base.override(config, changes)
    with pytest.raises(ValueError, match=message):
        base.check(config)


def test_a_checked_config_stays_as_it_is():
    config = base.get_config()
    checked = base.check(config)
    assert isinstance(checked, FrozenConfigDict)
    assert base.check(checked) is checked
    with pytest.raises(AttributeError, match="immutable"):
        checked.seed = 1
    config.seed = 1  # the checked config is a copy
    assert checked.seed == 0


def test_specs_are_complete_and_locked():
    spec = base.spec("sgd", learning_rate=1.0)
    assert spec.to_dict() == {
        "name": "sgd",
        "learning_rate": 1.0,
        "clip_norm": 0.0,
        "l2": 0.0,
        "freeze": (),
        "scaled": {"parameters": "", "factor": 1.0},
        "momentum": 0.0,
    }
    config = base.get_config()
    config.optimizer = spec
    with pytest.raises(AttributeError, match="locked"):
        config.optimizer.b1 = 0.9


def test_names_of_several_kinds():
    with pytest.raises(ValueError, match=r"schedule and weight_schedule; .*kind="):
        base.spec("cosine")
    assert base.spec("cosine", kind="schedule").final_rate == 1e-6
    fields = dict(init_value=1.0, decay_steps=10)
    assert base.spec("cosine", kind="weight_schedule", **fields).alpha == 0.0
    with pytest.raises(ValueError, match=r"no part 'cosin'. Did you mean 'cosine'"):
        base.spec("cosin")


@pytest.mark.parametrize(
    ("size", "message"), [("s", "no size 's'.*Sizes: m, l, small"), ("", "no size ''")]
)
def test_sizes_that_a_model_does_not_have(size, message):
    with pytest.raises(ValueError, match=message):
        base.sized("darkir", size)


def test_exchanged_parts_keep_what_all_of_them_share():
    config = base.get_config()
    base.override(
        config,
        {
            "optimizer.b1": 0.8,
            "optimizer.learning_rate": 1e-2,
            "optimizer.name": "adam",
            "schedule": "steps",
            "schedule.warmup_steps": 7,
            "loss.terms.pixel.weight": 2.0,
            "loss.terms.pixel.name": "charbonnier",
            "model.name": "restormer",
            "model.reallocate.name": "adr",
            "model.reallocate.width": 4,
            "model.width": 16,
        },
    )
    checked = base.check(config)
    adam = base.spec("adam", learning_rate=1e-2, b1=0.8)
    assert checked.optimizer.to_dict() == adam.to_dict()
    assert checked.schedule.to_dict() == base.spec("steps", warmup_steps=7).to_dict()
    assert checked.loss.terms.pixel.weight == 2.0
    assert checked.loss.terms.pixel.on == "image"
    assert (
        checked.model.to_dict()
        == base.spec(
            "restormer", width=16, reallocate={"name": "adr", "width": 4}
        ).to_dict()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.name": "sgdd"}, "Unknown optimizer 'sgdd'. Did you mean 'sgd'"),
        ({"optimizer.name": "cosine"}, "Unknown optimizer 'cosine'"),
        ({"model.name": "adr"}, "Unknown model 'adr'"),
        ({"model": "adr"}, "Unknown model 'adr'"),
        ({"data": "lol_v1"}, "config.data is a table; set one of data."),
        ({"optimizer": "sgd", "optimizer.b1": 0.5}, "'sgd', which .* 'b1'.* Fields: "),
        ({"optimizer": 1}, "config.optimizer is a table; set one of optimizer."),
        ({"data.train.nam": "x"}, "Did you mean 'data.train.name'"),
        ({"missing.name": "x"}, "Unknown key config.missing.name"),
        ({"seed.name": "x"}, "Unknown key config.seed.name"),
        ({"model.dilations.name": "x"}, "Unknown key config.model.dilations.name"),
    ],
)
def test_changes_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        base.override(base.get_config(), changes)


def test_lfpv_needs_a_pixel_term():
    config = base.get_config()
    config.loss.terms = dict(edge=base.spec("edge"))
    with pytest.raises(ValueError, match=r"loss term 'pixel' .*; the terms are edge"):
        base.add_lfpv(config)


def test_a_stage_may_be_set_to_wide_crops():
    config = base.get_config()
    config.stages = dict(s0=dict(steps=1, patch_size=8, batch_size=1))
    base.override(config, {"stages.s0.patch_width": 12})
    assert base.check(config).stages.s0.patch_width == 12
