"""Bad values of every argument of every command: one clear error, exit status 2."""

import time

import jax
import numpy as np
import pytest
import safetensors.numpy

import llie_jax
from llie_jax import weights
from llie_jax.cli import main
from tests.data import trees
from tests.image import files

MODEL = {"name": "zero_dce_pp", "width": 2}

COUNT = ("0", "-3", "nan", "1e9", "9" * 500, "x", "")
FLOAT = ("-1", "nan", "inf", "1e400", "x", "")
CHOICE = ("no such thing", "")
JSON = ("{folder}", "{picture}", "{file}/a.json", "")
FOLDER = ("{absent}", "{file}", "gs:/bucket/a", "")
SPEC = (
    "{{",
    "[1]",
    '{{"name": 3}}',
    '{{"width": NaN}}',
    '{{"name": "darkir", "w": 1}}',
)
WEIGHTS = (
    *("{absent}", "{picture}", "{empty}", "{html}", "{folder}", "gs:/bucket/a", ""),
    *("{hostile}", "{damaged}", "{pickle}", "darkir.lol"),
)
CONFIGS = (
    "no_recipe",
    "{absent}.py",
    "{picture}",
    "{crash}",
    "darkir:data=1",
    "cidnet:x=1",
)

KEYS = {
    "seed": ("-1", "1.5", "nan", str(2**70), "x"),
    "model.width": ("-1", "nan", "1.5", "x", str(10**30)),
    "model.name": ("no_model", ""),
    "model.dilations": ("(-1,)", "(nan,)", "3", "x"),
    "data.train.name": ("", "{absent}"),
    "data.train.size": ("(1,)", "(-1, 2)", "(nan, 1)", str((10**9, 10**9))),
    "data.validation.fraction": ("-0.1", "1.0", "nan", "inf"),
    "data.validation.seed": ("-1", "x"),
    "data.augment.mixup": ("-1.0", "nan", "inf"),
    "data.augment.gamma": ("(0.0, 1.0)", "(2.0, 1.0)", "(nan, nan)", "(1.0, inf)"),
    "data.residence": ("disk", ""),
    "data.device_limit_mb": ("-1", "1.5", str(10**30)),
    "data.workers": ("0", "-1", "100000"),
    "stages.s0.steps": ("0", "-1", "1.5", str(10**20)),
    "stages.s0.patch_size": ("0", "-8", str(10**9)),
    "stages.s0.patch_width": ("-1", "x"),
    "stages.s0.batch_size": ("0", "-1", str(10**9)),
    "loss.terms.pixel.weight": ("nan", "inf", "x"),
    "loss.terms.pixel.on": ("", "aux."),
    "optimizer.name": ("no_optimizer",),
    "optimizer.learning_rate": ("-1.0", "nan", "inf"),
    "optimizer.b1": ("-0.1", "1.0", "nan"),
    "optimizer.b2": ("-0.1", "1.0", "nan"),
    "optimizer.eps": ("-1.0", "nan", "inf"),
    "optimizer.weight_decay": ("-1.0", "nan", "inf"),
    "optimizer.clip_norm": ("-1.0", "nan", "inf"),
    "optimizer.l2": ("-1.0", "nan"),
    "optimizer.scaled.factor": ("0.0", "-1.0", "nan"),
    "optimizer.freeze": ('("nothing/*",)',),
    "optimizer.scaled.parameters": ("nothing/*",),
    "schedule.name": ("no_schedule",),
    "ema.decay": ("-0.1", "1.0", "nan"),
    "parallel": ("threads",),
    "nonfinite": ("ignore",),
    "max_skipped": ("-1", "x"),
    "log.every_steps": ("0", "-1"),
    "evaluate.every_steps": ("0", "x"),
    "evaluate.strip_images": ("-1", "x"),
    "checkpoint.every_steps": ("0", "-1"),
    "no.such.key": ("1",),
}

# Command -> its valid arguments, then argument -> bad values. A name without dashes is
# a position among the valid arguments.
COMMANDS = {
    "enhance": (
        ["{picture}", "--out", "{out}", "--weights", "{weights}"],
        {
            0: (
                "{absent}",
                "{broken}",
                "{empty folder}",
                "*.nothing",
                "{absent}/*.png",
                "",
            ),
            "--out": ("{out}.gif", "{out}.mp4", "{file}/a.png", "gs:/bucket/a", ""),
            "--weights": WEIGHTS,
            "--format": CHOICE,
            "--suffix": ("/a", "../a", "a\\b"),
            "--tree": CHOICE[:1],
            "--tile": COUNT,
            "--limit": FLOAT,
            "--option": ("a", "gamma=nan", "no_option=1", "=1", ""),
        },
    ),
    "train": (
        ["--config", "darkir_demo", "--workdir", "{out}"],
        {
            "--config": CONFIGS,
            "--workdir": ("{file}", "{file}/a", "gs:/bucket/a", ""),
            "--stop-at": COUNT,
            "--coordinator": ("host", "host:", ""),
            "--num-processes": COUNT,
            "--process-id": ("0", "-1", "x", ""),
            "--start-timeout": COUNT,
            "--unknown": ("1",),
            **{f"--config.{key}": values for key, values in KEYS.items()},
        },
    ),
    "eval": (
        ["--weights", "{weights}", "--data", "{pairs}"],
        {
            "--weights": WEIGHTS,
            "--data": ("{absent}", "{file}", "{empty folder}", "no_set", "lol_v1", ""),
            "--root": FOLDER,
            "--split": ("",),
            "--protocol": CHOICE,
            "--out": ("{file}", "{file}/a", "gs:/bucket/a", ""),
            "--json": JSON,
            "--batch-size": COUNT,
            "--tile": COUNT,
            "--parallel": CHOICE,
            "--option": ("a", "gamma=nan", "no_option=1"),
        },
    ),
    "score": (
        ["--pred", "{pairs}/low", "--gt", "{pairs}/high"],
        {
            "--pred": (*FOLDER, "{empty folder}"),
            "--gt": (*FOLDER, "{empty folder}"),
            "--protocol": (*CHOICE, "snr_video"),
            "--task": CHOICE,
            "--json": JSON,
        },
    ),
    "score --task classification": (
        ["--pred", "{labels}", "--gt", "{labels}"],
        {
            "--pred": (*FOLDER, "{picture}", "{empty folder}"),
            "--gt": (*FOLDER, "{picture}", "{empty folder}"),
            "--protocol": ("cidnet",),
        },
    ),
    "compare": (
        ["{scores}", "--out", "{out}"],
        {
            0: (*FOLDER, "{picture}", "{empty folder}", "{folder}", "={scores}"),
            "--out": ("{file}", "{file}/a", "gs:/bucket/a", ""),
            "--published": CHOICE,
        },
    ),
    "data check": (
        ["{pairs}"],
        {
            0: ("{absent}", "{file}", "{empty folder}", "no_set", "lol_v1", ""),
            1: FOLDER,
            "--json": JSON,
        },
    ),
    "data prepare": (
        ["lol_v1", "{lol}", "--data-dir", "{out}"],
        {
            0: ("no_set", "paired_folder", "image_folder", ""),
            1: (*FOLDER, "{empty folder}"),
            "--data-dir": ("{file}", ""),
            "--processes": COUNT,
        },
    ),
    "data darken": (
        ["{photos}", "{out}"],
        {
            0: (*FOLDER, "{empty folder}", "{broken folder}"),
            1: ("{pairs}", "{file}", ""),
            "--exposure": ("0", "-1", "2", "nan", "inf", "x", ""),
            "--full-well": ("0", "-1", "nan", "inf", "x"),
            "--read-noise": ("-1", "nan", "inf", "x"),
            "--bits": ("0", "17", "-1", "1.5", "x"),
            "--seed": ("-1", "1.5", "x"),
        },
    ),
    "features fetch": (
        ["{official}"],
        {0: ("{absent}", "{picture}", "{html}", "{pickle}", "{official}", "{folder}")},
    ),
    "runs check": (
        ["{absent}"],
        {0: ("{absent}", "{file}", "{empty folder}", "{folder}", "")},
    ),
    "niqe-fit": (
        ["{photos}"],
        {
            0: (*FOLDER, "{empty folder}", "{broken folder}", "{photos}"),
            "--out": ("{file}", "{file}/a.npz", "a.mat", ""),
        },
    ),
    "models": ([], {0: ("no_such_model_at_all", ""), "--json": JSON}),
    "costs": (
        ["zero_dce"],
        {
            0: ("no_model", "darkir-xxl", "", "-", *SPEC),
            "--size": ("0x0", "-1x4", "axb", "4", "9999999x9999999", "nanxnan", ""),
            "--json": JSON,
        },
    ),
    "convert": (
        ["{official}", "{out}.safetensors"],
        {
            0: (
                *(
                    "{absent}",
                    "{empty}",
                    "{html}",
                    "{picture}",
                    "{folder}",
                    "{damaged}",
                ),
                *("{pickle}", ""),
            ),
            1: ("{out}.pth", "{official}", "{file}/a.safetensors", ""),
            "--spec": (*SPEC, ""),
            "--score": ("{{", "[1]", ""),
            "--use": CHOICE,
            "--key-prefix": ("nothing.", ""),
            "--ignore": ("nothing.*", "*", ""),
        },
    ),
    "verify": (
        ["--weights-dir", "{folder}"],
        {
            0: ("no_model", ""),
            "--weights-dir": (*FOLDER, "{empty folder}"),
            "--root": FOLDER,
            "--json": JSON,
        },
    ),
    "plan": (
        ["--config", "darkir_demo", "--topology", "cpu:1"],
        {
            "--config": CONFIGS,
            "--topology": ("no:1", "cpu:0", "cpu:x", "cpu", ""),
            "--per-device-batch": COUNT,
            "--resident": ("1x2", "0x1x1", "axbxc", "nanx1x1", ""),
            "--json": JSON,
            "--config.seed": ("-1", "nan"),
        },
    ),
    "redundancy": (
        ["dmr", "--weights", "{weights}", "--data", "{pairs}"],
        {
            0: CHOICE,
            "--weights": ("{absent}", "{html}", "{hostile}", ""),
            "--data": ("{absent}", "{empty folder}", ""),
            "--split": CHOICE,
            "--kind": CHOICE,
            "--layers": ("nothing/*", ""),
            "--seeds": COUNT,
            "--method": CHOICE,
            "--max-images": COUNT,
            "--json": JSON,
            "--out": ("{file}", ""),
        },
    ),
    "redundancy compress": (
        ["--weights", "{weights}", "--data", "{pairs}"],
        {"--amount": FLOAT, "--bits": ("0", "1", "-1", "1.5", "99", "x")},
    ),
    "bank": (
        ["--weights", "{weights}", "--data", "{pairs}"],
        {
            "--weights": ("{absent}", "{html}", "{hostile}", ""),
            "--data": ("{absent}", "{empty folder}", ""),
            "--photo": ("{absent}", "{broken}", "{folder}", ""),
            "--fitted": ("nan", "inf", "x", ""),
            "--max-images": COUNT,
        },
    ),
}


def rows():
    """Each command with one bad value."""
    for command, (valid, arguments) in COMMANDS.items():
        for argument, values in arguments.items():
            for value in values:
                words = [*command.split(), *valid]
                if isinstance(argument, int):
                    place = len(command.split()) + argument
                    words[place : place + 1] = [value]
                elif argument in words:
                    words[words.index(argument) + 1] = value
                else:
                    words.append(f"{argument}={value}")
                yield pytest.param(words, id=f"{command} {argument} {value[:30]}")


ROWS = list(rows())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Names in the table -> files and folders."""
    root = tmp_path_factory.mktemp("bad")
    model = llie_jax.build(MODEL)
    from llie_jax.models.base import variable_shapes

    variables = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), variable_shapes(model)
    )
    weights.save(root / "good.safetensors", MODEL, variables)
    content = {
        "picture.png": files.png(files.colours(16, 16), bits=8),
        "broken.png": files.png(files.colours(16, 16), bits=8)[:60],
        "empty.safetensors": b"",
        "page.pth": b"<html>Sign in</html>",
        "damaged.safetensors": (root / "good.safetensors").read_bytes()[:400],
        "pickle.pth": b"\x80\x04\x95no pickle at all",
        "crash.py": b"def get_config(): return 1 / 0",
        "file": b"no folder",
        "labels.csv": b"name,label\na,cat\n",
        "scores.json": b'{"protocol": "default", "mean": {"psnr": 9}, '
        b'"images": {"a": {"psnr": 9}}}',
    }
    for name, data in content.items():
        (root / name).write_bytes(data)
    safetensors.numpy.save_file(
        {"a": np.zeros(3, np.float32)},
        root / "hostile.safetensors",
        metadata={"spec": '{"name": "darkir", "width": 1000000000}'},
    )
    safetensors.numpy.save_file({"a": np.zeros(3)}, root / "official.safetensors")
    (root / "none").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "a.png").write_bytes(content["broken.png"])
    trees.photos(root / "photos", ("a", "b"))
    return {
        "absent": root / "absent",
        "picture": root / "picture.png",
        "broken": root / "broken.png",
        "broken folder": root / "broken",
        "empty": root / "empty.safetensors",
        "empty folder": root / "none",
        "html": root / "page.pth",
        "damaged": root / "damaged.safetensors",
        "pickle": root / "pickle.pth",
        "hostile": root / "hostile.safetensors",
        "official": root / "official.safetensors",
        "weights": root / "good.safetensors",
        "crash": root / "crash.py",
        "file": root / "file",
        "labels": root / "labels.csv",
        "scores": root / "scores.json",
        "folder": root / "photos",
        "photos": root / "photos",
        "pairs": trees.pairs(root / "pairs", ("a", "b"), size=(16, 16)),
        "lol": trees.lol(root / "lol"),
    }


def test_the_table_is_long_enough():
    assert len(ROWS) > 300
    commands = {command.split()[0] for command in COMMANDS}
    assert commands == set(main.SUBCOMMANDS)


@pytest.mark.parametrize("words", ROWS)
def test_one_clear_error(words, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLIE_JAX_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("LLIE_JAX_DATA", str(tmp_path / "data"))
    known = {**places, "out": tmp_path / "out"}
    arguments = [word.format(**known) for word in words]
    start = time.process_time()
    try:
        status = main.main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2, error
    assert "error: " in error
    assert "Traceback" not in error
    line = error.strip().splitlines()[-1]
    assert 20 < len(line) < 1500
    assert time.process_time() - start < 10
