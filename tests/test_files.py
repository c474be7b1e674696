"""Tests of atomic writing, folders and names that come from data."""

import pathlib
import re

import pytest

from llie_jax import files


def test_interrupted_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def interrupted():
        with files.atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writable_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    assert files.writable_folder(str(folder), create=False) == folder
    assert not list(tmp_path.iterdir())
    assert files.writable_folder(folder) == folder
    assert not list(folder.iterdir())
    (tmp_path / "file").touch()
    for create in (True, False):
        with pytest.raises(
            OSError, match=r"Cannot write to .*file/x \(Not a directory\); try y\."
        ):
            files.writable_folder(tmp_path / "file" / "x", hint="try y", create=create)


@pytest.mark.parametrize("name", ["photo", "scene/photo", "12:30", "a..b", ".hidden"])
def test_names_inside_a_folder(name):
    found = files.inside("out", name, suffix=".png")
    assert found == pathlib.Path("out") / f"{name}.png"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/../../x", "/x", "//x", "a//b", "a/", "a/."),
        *("..\\x", "a\\..\\..\\x", "\\x", "C:\\x", "C:/x", "x\0y"),
    ],
)
def test_names_that_leave_a_folder_are_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"The name {name!r} does not")):
        files.inside("out", name, suffix=".png")
