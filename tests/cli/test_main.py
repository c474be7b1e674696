"""What `import llie_jax` and the command import, and how mistakes are reported."""

import gc
import json
import os
import subprocess
import sys

import pytest

import llie_jax
from llie_jax.cli import main
from tests.conftest import ROOT

SLOW = ("jax", "flax", "numpy", "scipy", "rich", "optax", "orbax", "grain")


def loaded(code: str) -> set[str]:
    """Returns the packages that a fresh interpreter has imported after some code."""
    report = "import sys, json; print(json.dumps([*sys.modules]), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import llie_jax; llie_jax.__version__; dir(llie_jax)",
        "from llie_jax.cli import main; main.parser().format_help()",
        "import contextlib; from llie_jax.cli import main\n"
        "with contextlib.suppress(SystemExit): main.main(['train', '--help'])",
    ],
)
def test_nothing_slow_is_loaded(code):
    found = loaded(code)
    assert "llie_jax" in found
    assert not found.intersection(SLOW)


@pytest.mark.parametrize(
    ("code", "without"),
    [
        (
            "from llie_jax.cli import main; main.main(['costs', 'darkr'])",
            {"optax", "orbax", "grain", "tensorboardX", "scipy", "dm_pix"},
        ),
        (
            "import llie_jax.weights, llie_jax.inference.enhance",
            {"optax", "orbax", "grain", "tensorboardX", "scipy", "dm_pix"},
        ),
    ],
)
def test_commands_load_only_what_they_need(code, without):
    assert not loaded(code).intersection(without)


def test_names_of_the_package():
    code = """
import llie_jax
assert "darkir" in llie_jax.list_models()
assert llie_jax.default_spec("darkir")["width"] == 32
assert llie_jax.nn.adr.AttentionDynamicReallocation(width=4).width == 4
assert callable(llie_jax.nn.pog.householder_basis)
assert llie_jax.registry.build is llie_jax.build
assert llie_jax.Outputs is llie_jax.types.Outputs
for name in ("convert.from_torch", "costs.count", "metrics.compute", "data.Pipeline",
             "weights.save", "load", "enhance", "evaluation.run", "models.darkir"):
    value = llie_jax
    for part in name.split("."):
        assert part in dir(value), name
        value = getattr(value, part)
"""
    assert "jax" in loaded(code)


def test_specs_are_found_without_the_package_s_names():
    code = "from llie_jax.registry import build; print(build('cidnet').multiple)"
    assert "llie_jax.models.cidnet" in loaded(code)


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="'llie_jax' has no attribute 'lod'"):
        llie_jax.lod  # noqa: B018


def test_every_command_has_help_and_examples(capsys):
    for name in main.SUBCOMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main.main([name, "--help"])
        assert f"llie-jax {name} " in capsys.readouterr().out.partition("examples:")[2]


def test_unknown_arguments(capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(["costs", "darkir", "--config.model.width=3"])
    assert "--config.model.width=3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("two\nlines"), 2, "error: two lines\n"),
        (KeyError("no such key"), 2, "error: no such key\n"),
        (OSError(), 2, "error: OSError\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_a_mistake_is_one_line(error, status, message, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    assert main.guarded(fail, 1, key=2) == status
    assert capsys.readouterr().err == message


def test_the_traceback_on_request(monkeypatch):
    monkeypatch.setenv("LLIE_JAX_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main.guarded(lambda: 1 // 0)
    with pytest.raises(ValueError, match="invalid literal"):
        main.guarded(int, "x")


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_compiled_programs_are_kept(own, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if own:
        environment["JAX_COMPILATION_CACHE_DIR"] = own
    code = (
        "from llie_jax.cli import main\n"
        "main.guarded(lambda: None)\n"
        "import jax; print(jax.config.jax_compilation_cache_dir)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (own or str(tmp_path / ".cache/llie_jax/xla"))
