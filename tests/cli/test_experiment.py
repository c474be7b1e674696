"""Recipes by name or file, their arguments, and values changed on the command line."""

import json
import re

import pytest

from llie_jax.cli.experiment import load_config
from llie_jax.configs import base
from llie_jax.training.experiment import Experiment

RECIPE = """
from typing import Literal
from llie_jax.configs import base

def get_config(
    width: int = 8,
    rate: float = 1e-3,
    data: Literal["lol_v1", "lol_v2_syn"] = "lol_v1",
    rotate: bool = False,
    root: str = "",
):
    config = base.get_config()
    config.model.width = width
    config.optimizer.learning_rate = rate
    config.data.train.name = data
    config.data.train.root = root
    config.data.augment.rotate = rotate
    return config
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    return path


def test_arguments_have_the_types_of_their_defaults(recipe):
    text = f"{recipe}:width=16,rate=1,data=lol_v2_syn,rotate=true,root=a b=c"
    config = load_config(text)
    assert config.model.width == 16
    assert config.optimizer.learning_rate == 1.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.data.train.name == "lol_v2_syn"
    assert config.data.train.root == "a b=c"
    assert config.data.augment.rotate is True
    assert load_config(f"{recipe}:") == load_config(recipe)
    assert load_config(f"{recipe}:root=true").data.train.root == "true"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("widht=8", "has no argument 'widht'. Did you mean 'width'?"),
        ("=8", "has no argument ''."),
        ("width", "the argument width needs a value"),
        ("width=8,width=9", "the argument width is given twice"),
        ("width=8.0", "width=8.0 is not a whole number."),
        ("width=true", "width=true is not a whole number."),
        ("width=none", "width=none is not a whole number."),
        ("rate=fast", "rate=fast is not a number."),
        ("rotate=1", "rotate=1 is not true or false."),
        ("rotate=yes", "rotate=yes is not true or false."),
        ("data=lol_v2_sy", "is not accepted. Did you mean 'lol_v2_syn'?"),
    ],
)
def test_arguments_that_a_recipe_does_not_take(recipe, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load_config(f"{recipe}:{arguments}")
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(
        "Arguments: width=8, rate=0.001, data=lol_v1 (or lol_v2_syn), rotate=false, "
        'root="".'
    )


def test_a_shipped_recipe_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("cidnet:reallocate=adr", ["--config.seed=3"])
    assert (config.model.reallocate.name, config.seed) == ("adr", 3)
    (tmp_path / "cidnet").mkdir()  # a folder with that name is not a file
    assert load_config("cidnet").model.name == "cidnet"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "cidnt",
            ValueError,
            r"no recipe 'cidnt'. Did you mean 'cidnet'\? Recipes: cid",
        ),
        ("base", ValueError, "no recipe 'base'"),
        ("cidnt.py", FileNotFoundError, r"Did you mean 'cidnet.py'\?"),
        ("my/cidnet", FileNotFoundError, "no config file my/cidnet"),
    ],
)
def test_recipes_that_are_not_there(name, error, message):
    with pytest.raises(error, match=message):
        load_config(name)


def test_a_recipe_is_executed_once_and_checked_once(tmp_path, monkeypatch):
    path, log = tmp_path / "mine.py", tmp_path / "log"
    path.write_text(
        f"LOG = open({str(log)!r}, 'a')\n"
        "LOG.write('executed ')\n"
        "from llie_jax.configs import base, cidnet\n"
        "def get_config(lfpv: bool = False):\n"
        "    LOG.write('called ')\n"
        "    config = cidnet.get_config(lfpv=lfpv)\n"
        "    LOG.close()\n"
        "    return config\n"
    )
    checked, real = [], base._checked
    monkeypatch.setattr(
        base, "_checked", lambda config: checked.append(config) or real(config)
    )
    config = load_config(
        f"{path}:lfpv=true", ["--config.seed=5", "--config.ema.decay=0.5"]
    )
    assert log.read_text() == "executed called "
    assert len(checked) == 1
    assert checked[0].seed == 5
    assert base.check(config) is config
    assert Experiment.from_config(config).config is config
    assert len(checked) == 1


def test_a_recipe_that_checks_itself_can_still_be_changed(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE.replace("return config", "return base.check(config)"))
    config = load_config(f"{path}:width=16", ["--config.model.width=32"])
    assert config.model.width == 32


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("stages.s0.steps=7", "stages.s0.steps", 7),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("optimizer.freeze=('a/*', 'b')", "optimizer.freeze", ("a/*", "b")),
        ("data.augment.gamma=(1,2.5)", "data.augment.gamma", (1.0, 2.5)),
        ("data.augment.rotate=True", "data.augment.rotate", True),
        ("init_from=runs/a=b", "init_from", "runs/a=b"),
        ("model.dilations=[1, 4]", "model.dilations", (1, 4)),
        ("optimizer.name=sgd", "optimizer.learning_rate", 1e-3),
        ("schedule.name=steps", "schedule.boundaries", (0.5,)),
        ("schedule=steps", "schedule.boundaries", (0.5,)),
        ("model.name=restormer", "model.reallocate.name", "identity"),
        ("loss.terms.pixel.name=charbonnier", "loss.terms.pixel.name", "charbonnier"),
    ],
)
def test_values_from_the_command_line(recipe, text, key, value):
    config = load_config(recipe, [f"--config.{text}"])
    flat = base.flatten(config)
    found = flat[key]
    assert (tuple(found) if isinstance(found, list) else found) == value
    assert type(flat[key]) is (list if isinstance(value, tuple) else type(value))
    assert base.from_json(base.to_json(config)) == config


def test_a_wrapper_takes_fields_that_may_be_none(recipe):
    changes = ["--config.model.name=lfpv", "--config.model.bank_width=none"]
    changes.append("--config.model.update_rule=paper")
    model = load_config(recipe, changes).model
    assert model.bank_width is None
    assert model.update_rule.name == "paper"
    with pytest.raises(ValueError, match="'num_nodes' of 'lfpv' is an integer"):
        load_config(recipe, [*changes, "--config.model.num_nodes=none"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.seed=x", "seed=x is not a whole number"),
        ("--config.seed=1.5", "seed=1.5 is not a whole number"),
        ("--config.optimizer.b1=('a',)", "b1=('a',) is not a number"),
        ("--config.model.dilations=4", "dilations=4 is not a tuple such as (1, 4, 9)"),
        ("--config.model.dilations=(1.5,)", "is not a tuple such as (1, 4, 9)"),
        ("--config.data.augment.rotate=on", "rotate=on is not true or false"),
        ("--config.data.augment.rotate", "use --config.KEY=VALUE"),
        ("--seed=1", "unknown argument '--seed=1'"),
        ("--config.=1", "unknown argument '--config.=1'"),
        ("--config.sed=1", "Unknown key config.sed. Did you mean 'seed'?"),
        ("--config.optimizer.frozen=()", "no field 'frozen'. Did you mean 'freeze'?"),
        ("--config.optimizer.name=sg", "Unknown optimizer 'sg'. Did you mean 'sgd'?"),
        ("--config.stages=3", "config.stages is a table; set one of stages.s0."),
        ("--config.model.name=adr", "Unknown model 'adr'"),
    ],
)
def test_mistakes_on_the_command_line(recipe, override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load_config(recipe, [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.optimiser = 1", "no key 'optimiser' there. Did you mean 'optimizer'"),
        ("config.optimiser.b1 = 1", "no key 'optimiser' there. Did you mean 'optim"),
        ("config.optimizer.b3 = 0.5", "no key 'b3' there. Did you mean 'b"),
        ("config['sed'] = 1", "no key 'sed' there. Did you mean 'seed'"),
        ("config.model = base.spec('darkir', wdth=8)", "'wdth'. Did you mean 'width'"),
        ("config.seed = 'x'", "Could not override field 'seed'"),
        ("config.data.train.name = missing", "NameError: name 'missing'"),
    ],
)
def test_a_misspelt_key_fails_in_the_file(tmp_path, line, message):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE.replace("config.model.width = width", line))
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load_config(path)
    number = 1 + path.read_text().split("\n").index(f"    {line}")
    assert str(raised.value).startswith(f"{path}: line {number}: ")
    assert len(str(raised.value)) < 400


def test_lines_are_found_in_a_relative_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def get_config():\n    return missing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^mine\.py: line 2: NameError"):
        load_config("mine.py")


def test_a_misspelt_key_of_a_new_table_fails_in_the_check(tmp_path):
    path = tmp_path / "mine.py"
    line = "config.stages = dict(s0=dict(steps=1, patch_siz=8, batch_size=8))"
    path.write_text(RECIPE.replace("config.model.width = width", line))
    with pytest.raises(ValueError, match=r"stages.s0.patch_siz.* mean 'patch_size'"):
        load_config(path)


def test_a_recipe_that_returns_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    pass\n")
    with pytest.raises(ValueError, match=r"get_config\(\) returns None, not a config"):
        load_config(path)


def test_checked_configs_are_saved_whole(recipe):
    config = load_config(recipe)
    assert json.loads(base.to_json(config))["optimizer"]["scaled"] == {
        "parameters": "",
        "factor": 1.0,
    }
