"""A run whose every path is in a bucket: config, data, workdir, cache, weights."""

import os
import pathlib
import re

import pytest

from tests import processes
from tests.buckets import bucket
from tests.training import toys

pytestmark = pytest.mark.slow

EXPERIMENT = """
from tests.training import toys

def get_config(steps: int = 4):
    return toys.config(
        "gs://bucket/pairs", **{"stages.s0.steps": steps, "evaluate.strip_images": 1}
    )
"""
COMMAND = "tests.training.command"
FILES = ("config.json", "log.jsonl", "report.html")
UPLOAD = """
import pathlib, sys
from etils import epath
root = pathlib.Path(sys.argv[1])
for file in root.rglob("*.p*"):
    target = epath.Path("gs://bucket") / file.relative_to(root)
    target.write_bytes(file.read_bytes())
"""
LIST = """
from etils import epath
for folder, _, names in epath.Path("gs://bucket").walk():
    print(*(folder / name for name in names), sep="\\n")
"""


def run(environment, *command, status=0):
    """Runs Python with arguments; returns what it printed, and said."""
    process = processes.start(*command, devices=1, **environment)
    out, err = process.communicate(timeout=400)
    assert process.returncode == status, err
    return out, err


def test_a_run_in_a_bucket(tmp_path):
    for module in ("gcp_storage_emulator", "gcsfs"):
        pytest.importorskip(module, reason="needs the extra dev-gcs")
    toys.write_pairs(tmp_path / "pairs")
    (tmp_path / "recipe.py").write_text(EXPERIMENT)
    (tmp_path / "upload.py").write_text(UPLOAD)
    (tmp_path / "list.py").write_text(LIST)
    here = pathlib.Path.cwd()
    with bucket() as environment:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": "gs://bucket/cache",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(here)]),
        }
        run(environment, "upload", tmp_path)
        train = [COMMAND, "train", "--config", "gs://bucket/recipe.py:steps=4"]
        train += ["--workdir", "gs://bucket/runs/toy"]
        run(environment, *train, "--stop-at", 2)
        _, said = run(environment, *train)
        assert "resuming at step 2" in said
        out, _ = run(environment, "list")
        there = out.split()
        for name in (*FILES, "samples/step_0000004.png"):
            assert f"bucket/runs/toy/{name}" in there
        assert any(re.search(r"/toy/events/events\.out\.tfevents", x) for x in there)
        assert any(x.startswith("bucket/runs/toy/checkpoints/4/") for x in there)
        assert any(x.startswith("bucket/cache/") for x in there)

        release = "gs://bucket/weights/toy.safetensors"
        run(environment, COMMAND, "convert", "gs://bucket/runs/toy", release)
        for weights in ("gs://bucket/runs/toy", release):
            command = [COMMAND, "eval", "--weights", weights]
            command += ["--data", "gs://bucket/pairs", "--allow-overlap"]
            run(environment, *command, "--out", "gs://bucket/scores", "--save-images")
        out, _ = run(environment, "list")
        for name in ("scores.json", "scores.csv", "report.html", "images/0.png"):
            assert f"bucket/scores/{name}" in out.split()
    assert not any(here.glob("gs:*"))
