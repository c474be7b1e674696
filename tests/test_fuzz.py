"""Two thousand damaged files: an error of the kinds that commands print, no crash."""

import contextlib
import io
import json
import time
import warnings

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from llie_jax import convert
from llie_jax.configs import base
from llie_jax.image import reading
from llie_jax.weights import release
from tests.image import files, kinds

ACCEPTED = (ValueError, TypeError, KeyError, OSError, ImportError)
SECONDS = 10  # of one file

pytestmark = pytest.mark.slow


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a copy with a few changes, most of them near the start."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        if not changed:
            break
        place = int(len(changed) * rng.random() ** 3)
        match rng.integers(0, 6):
            case 0:
                changed[place] ^= 1 << rng.integers(0, 8)
            case 1:
                changed[place] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                changed[place : place + 4] = rng.bytes(4)
            case 3:
                del changed[place : place + int(rng.integers(1, 40))]
            case 4:
                changed[place:place] = rng.bytes(int(rng.integers(1, 40)))
            case 5:
                del changed[place + 1 :]
    return bytes(changed)


def survive(function, *arguments):
    """Calls a function; only errors that commands print are accepted."""
    start = time.process_time()
    with warnings.catch_warnings(), contextlib.suppress(*ACCEPTED):
        warnings.simplefilter("ignore")
        function(*arguments)
    assert time.process_time() - start < SECONDS


IMAGES = {
    kind: [each for each in kinds.every() if each.name.lower().endswith(endings)]
    for kind, endings in {
        "png": (".png",),
        "jpeg": (".jpg", ".jpeg", ".jfif", ".jpe"),
        "tiff": (".tif", ".tiff"),
        "other": (".webp", ".gif", ".bmp", ".avif"),
    }.items()
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind):
    rng = np.random.default_rng(len(kind))
    for number in range(350):
        source = IMAGES[kind][number % len(IMAGES[kind])]
        data = mutated(source.data, rng)
        survive(reading.decode, io.BytesIO(data), source.name)
        survive(reading.decode_header, io.BytesIO(data), source.name)


def test_exif_and_text():
    rng = np.random.default_rng(1)
    exif = files.turned(6)
    exif[0x013B] = "Ada" * 100
    data = files.saved(
        Image.fromarray(files.smooth()), "JPEG", exif=exif, xmp=b"<x/>", comment=b"c"
    )
    for _ in range(150):
        changed = bytearray(data)
        for place in rng.integers(2, 400, 3):
            changed[place] = rng.integers(0, 256)
        survive(reading.decode, io.BytesIO(bytes(changed)), "a.jpg")


def test_safetensors(tmp_path):
    rng = np.random.default_rng(2)
    path = tmp_path / "a.safetensors"
    tensors = {f"params/{i}/kernel": np.ones((3, 3), np.float32) for i in range(3)}
    spec = {"name": "darkir", "width": 2, "encoder_blocks": [1], "dilations": [1]}
    safetensors.numpy.save_file(tensors, path, metadata={"spec": json.dumps(spec)})
    data = path.read_bytes()
    for _ in range(200):
        path.write_bytes(mutated(data, rng))
        survive(convert.read_checkpoint, path)
        survive(release.is_release, path)
        survive(release.ReleaseFile(path).describe)


def test_pickles(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    rng = np.random.default_rng(3)
    path = tmp_path / "a.pth"
    for number in range(150):
        content = {"params": {"a.weight": torch.ones(3, 3)}, "epoch": 3}
        torch.save(content, path, _use_new_zipfile_serialization=bool(number % 2))
        path.write_bytes(mutated(path.read_bytes(), rng))
        survive(convert.read_checkpoint, path)


def test_configs():
    rng = np.random.default_rng(4)
    text = base.to_json(base.check(base.get_config())).encode()
    for _ in range(150):
        changed = mutated(text, rng).decode("latin-1")
        survive(base.from_json, changed)
