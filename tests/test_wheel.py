"""The content of the wheel, built as `pip install .` builds it."""

import subprocess
import sys
import zipfile

import pytest

from llie_jax.weights import shipped
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Name of each file in the wheel -> its content."""
    pytest.importorskip("hatchling", reason="`make install` brings hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_file_of_the_package_is_in_it(wheel):
    package = ROOT / "llie_jax"
    files = {
        path.relative_to(ROOT).as_posix(): path
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for suffix in (".py", ".json", ".html"):
        assert any(name.endswith(suffix) for name in files)
    for name, path in files.items():
        assert wheel.get(name) == path.read_bytes(), name


def test_nothing_else_is_in_it(wheel):
    others = {name for name in wheel if not name.startswith("llie_jax/")}
    assert all(".dist-info/" in name for name in others)


def test_the_weights_that_ship_are_in_it_with_their_cards(wheel):
    folder = shipped.FOLDER.relative_to(ROOT).as_posix()
    for name in shipped.names():
        assert f"{folder}/{name}.safetensors" in wheel
        assert f"{folder}/{name}.md" in wheel
    assert not [name for name in wheel if name.endswith((".pth", ".pt", ".pkl"))]
