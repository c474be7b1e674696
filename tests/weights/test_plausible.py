"""Release files of strangers: what they ask for is checked before anything is built."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

import llie_jax
from llie_jax import registry, weights
from llie_jax.models import base
from llie_jax.weights import fit, plausible, release
from tests.conftest import ROOT

SPEC = {"name": "darkir", "width": 2, "encoder_blocks": [1], "dilations": [1]}


def nested(depth):
    spec: dict = dict(SPEC)
    for _ in range(depth):
        spec = {"name": "lfpv", "backbone": spec}
    return spec


HOSTILE = {
    "width": json.dumps({**SPEC, "width": 10**9}),
    "blocks": json.dumps({**SPEC, "encoder_blocks": [10**6]}),
    "many blocks": json.dumps({**SPEC, "encoder_blocks": [1] * 30_000}),
    "nesting": json.dumps(nested(200)),
    "brackets": "[" * 100_000,
    "stages": json.dumps({"name": "retinexformer", "num_stages": 10**5}),
    "stages of groups": json.dumps(
        {"name": "mirnet", "num_groups": 60, "num_blocks": 60}
    ),
    "infinite": '{"name": "restormer", "expansion": 1e400}',
    "expansion": '{"name": "restormer", "expansion": 1e12}',
    "NaN": '{"name": "restormer", "expansion": NaN}',
    "a number of many digits": '{"name": "darkir", "width": ' + "9" * 5000 + "}",
    "a large number": '{"name": "darkir", "width": ' + "9" * 400 + "}",
    "text": '{"name": "' + "a" * 200_000 + '"}',
    "a list": "[1]",
    "no JSON": "{",
    "kernel": json.dumps(
        {"name": "darkir", "conv": {"name": "dynamic", "num_kernels": 10**7}}
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_specs_are_refused_at_once(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    tensors = {"params/a/kernel": np.zeros((3, 3), np.float32)}
    safetensors.numpy.save_file(tensors, path, metadata={"spec": HOSTILE[kind]})
    start = time.process_time()
    for read in (weights.load, weights.describe):
        with pytest.raises(ValueError, match=r"a\.safetensors") as error:
            read(path)
        assert len(str(error.value)) < 2000
    assert time.process_time() - start < 1


def test_a_header_that_is_too_long(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((90_000_000).to_bytes(8, "little") + b"{" + b" " * 90_000_000)
    with pytest.raises(ValueError, match="header would have 90,000,000 bytes"):
        weights.describe(path)


def test_little_memory_is_used(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"params/a/kernel": np.zeros((3, 3), np.float32)}
    safetensors.numpy.save_file(tensors, path, metadata={"spec": HOSTILE["width"]})
    code = (
        "import jax, resource, sys, llie_jax.weights, llie_jax.models\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: llie_jax.weights.load(sys.argv[1])\n"
        "except ValueError: print(peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert int(result.stdout) < 200 * 1024  # kilobytes


def specs():
    for name in registry.list_models():
        if not registry.get(name).make.__module__.startswith("llie_jax."):
            continue  # toy models of other tests
        card = base.card(name)
        yield pytest.param({"name": name, **card.tiny}, id=f"{name}-tiny")
        for size, fields in card.sizes.items():
            marks = () if name in ("darkir", "mirnet", "sci") else pytest.mark.slow
            yield pytest.param(
                {"name": name, **fields}, id=f"{name}-{size}", marks=marks
            )


@pytest.mark.parametrize("spec", specs())
def test_honest_specs_are_accepted(spec):
    complete = registry.complete_spec(spec)
    shapes = fit.shapes(fit.flat(base.variable_shapes(llie_jax.build(spec))))
    found = plausible.parse(json.dumps(complete), list(shapes.values()))
    assert found == complete


def test_a_release_is_recognised_by_its_content(tmp_path):
    path = tmp_path / "a.pth"
    safetensors.numpy.save_file(
        {"params/a": np.zeros(1, np.float32)}, path, metadata={"spec": "{}"}
    )
    assert release.is_release(path)
    path.write_bytes(b"no tensors")
    assert not release.is_release(path)
