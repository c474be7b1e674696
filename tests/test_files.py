"""Tests of atomic writes, folders, locks and untrusted names."""

import errno
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from llie_jax import files
from llie_jax.image import io
from llie_jax.training.events import Events
from llie_jax.training.log import RunLog
from llie_jax.weights.run import RunFolder, read_log


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


def test_paths_in_buckets():
    found = files.path("gs://bucket/runs/a")
    assert str(found / "log.jsonl") == "gs://bucket/runs/a/log.jsonl"
    assert not files.is_local(found)
    assert files.is_local(files.path("runs/a:b/12:30"))


@pytest.mark.parametrize(
    "name",
    ["gs:/bucket/a", "gs:bucket", "gs://", "gs:///a", "GS://b", "http://b/a", "s3:/b"],
)
def test_misspelt_buckets_are_refused(name):
    message = f"{name!r} is neither a local path nor one in a bucket; write gs://"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        files.path(name)


def test_a_path_that_pathlib_has_spoilt_is_refused():
    with pytest.raises(ValueError, match="'gs:/bucket/a' is neither"):
        files.path(pathlib.Path("gs://bucket/a"))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket `gs://bucket`, kept in a folder; the working directory is another."""
    from etils.epath import backend
    from fsspec.implementations.local import LocalFileSystem

    class Bucket(LocalFileSystem):
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            text = os.fspath(path)
            assert not text.startswith("gs:/b"), "pathlib took the bucket for a folder"
            return text.replace("gs:/", str(tmp_path / "cloud"))

    (tmp_path / "cloud" / "bucket").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: Bucket())
    yield tmp_path / "cloud" / "bucket"
    assert not list((tmp_path / "here").iterdir())  # no folder named "gs:"


def test_paths_of_a_bucket(bucket):
    folder = files.writable_folder("gs://bucket/runs/a")
    assert os.fspath(folder) == "gs://bucket/runs/a"
    assert os.fspath(files.absolute(folder)) == "gs://bucket/runs/a"
    with files.atomic("gs://bucket/runs/a/x.txt") as temporary:
        temporary.write_text("whole")
    with pytest.raises(KeyboardInterrupt), files.atomic(folder / "x.txt") as temporary:
        raise KeyboardInterrupt
    assert [p.name for p in (bucket / "runs" / "a").iterdir()] == ["x.txt"]
    assert (bucket / "runs" / "a" / "x.txt").read_text() == "whole"
    files.append("gs://bucket/log", "a\n")
    files.append("gs://bucket/log", "b\n")
    assert (bucket / "log").read_text() == "a\nb\n"
    assert files.size("gs://bucket/log") == files.size(bucket / "log") == 4
    inner = files.inside("gs://bucket/out", "scene/photo", suffix=".png")
    assert os.fspath(inner) == "gs://bucket/out/scene/photo.png"


def test_a_run_in_a_bucket(bucket):
    run = RunFolder.at("gs://bucket/run")
    files.writable_folder(run.path)
    files.append(run.log, '{"step": 1, "loss": "nan"}\n')
    assert [line["step"] for line in read_log(run.log)] == [1]
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    run.sample(3).parent.mkdir(parents=True)
    io.write_image(run.sample(3), image)
    assert (bucket / "run" / "samples" / "step_0000003.png").is_file()
    np.testing.assert_array_equal(io.read_rgb(run.sample(3)), image)


def test_the_log_in_a_bucket_is_written_once_for_many_lines(bucket, monkeypatch):
    monkeypatch.setattr(Events, "__init__", lambda *_, **__: None)
    for name in ("add_scalar", "flush", "close"):
        monkeypatch.setattr(Events, name, lambda *_: None)
    written, append = [], files.append
    monkeypatch.setattr(files, "append", lambda *a: written.append(a) or append(*a))
    run = RunFolder.at("gs://bucket/run")
    files.writable_folder(run.path)
    log = RunLog(run, step=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 0.5})
    assert not written
    log.sync()
    log.write(4, {"loss": 0.5})
    log.close()
    assert len(written) == 2
    assert [line["step"] for line in read_log(log.path)] == [1, 2, 3, 4]


def test_local_paths_wait_for_no_library():
    code = (
        "import runpy, sys; files = runpy.run_path(sys.argv[1]);"
        "files['writable_folder']('.');"
        "assert not {'etils', 'numpy', 'jax'} & {m.split('.')[0] for m in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, files.__file__], check=True)


def test_a_durable_file_is_synced_before_its_name(tmp_path, monkeypatch):
    seen, sync = [], os.fsync

    def record(descriptor):
        seen.append((os.fstat(descriptor).st_size, (tmp_path / "x").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with files.atomic(tmp_path / "x", durable=True) as temporary:
        temporary.write_text("whole")
    (size, there), (_, there_then) = seen
    assert (size, there, there_then) == (5, False, True)


def test_a_full_disk_names_the_file(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    expected = f"Cannot write {tmp_path / 'a.png'}: No space left on device."
    with (
        pytest.raises(OSError, match=re.escape(expected)) as found,
        files.atomic(tmp_path / "a.png"),
    ):
        raise full
    assert found.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            NotADirectoryError, match=r"Cannot write .*file.a\.txt: Not a dir"
        ),
        files.atomic(tmp_path / "file" / "a.txt"),
    ):
        pass
    copying = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "from", None, "to")
    copying.filename2 = str(tmp_path / "file")
    with (
        pytest.raises(OSError, match=r"^Cannot write .*file: No space"),
        files.atomic(tmp_path / "file"),
    ):
        raise copying
    with pytest.raises(FileNotFoundError, match=r"Cannot write .*none.a\.txt: No such"):
        files.append(tmp_path / "none" / "a.txt", "")
    # An error that names another file, or is not the system's, stays as it is.
    others = FileNotFoundError(2, "gone", "other"), ConnectionResetError(104, "gone")
    for error in (*others, OSError("of a library")):
        with (
            pytest.raises(OSError, match=r"gone|of a library") as found,
            files.atomic(tmp_path / "a.png"),
        ):
            raise error
        assert found.value is error
