"""Tests of the lock of a run's folder, with processes of their own."""

import dataclasses
import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from llie_jax.training import lock
from llie_jax.training.lock import Holder, Lock
from tests.conftest import ROOT

HOLDER = """
import sys, time
from llie_jax.training.lock import Lock
if "elsewhere" in sys.argv:  # as if on another machine, whose locks are not seen here
    import fcntl
    from llie_jax.training import lock
    fcntl.flock = lambda file, operation: None
    lock._space = lambda: "elsewhere"
with Lock(sys.argv[1], hint="-", beat=0.2):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lock, as if on another machine if told so."""
    started = []

    def start(*where):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, tmp_path / "lock", *where],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refusal(tmp_path, process):
    return re.escape(
        f"{tmp_path} is in use by process {process.pid} on {socket.gethostname()}; "
        "wait for it, or go away."
    )


def refused(lock, match):
    start = time.monotonic()
    with pytest.raises(OSError, match=f"^{match}$"), lock:
        pass
    return time.monotonic() - start


@pytest.mark.parametrize("where", [(), ("elsewhere",)])
@pytest.mark.filterwarnings("ignore:.*waiting up to")
def test_a_living_holder_is_named_at_once(tmp_path, hold, where):
    process = hold(*where)
    lock = Lock(tmp_path / "lock", hint="go away")
    assert refused(lock, refusal(tmp_path, process)) < 5


def test_a_neighbour_is_seen_before_jax_is_imported(tmp_path, hold):
    assert lock.check_free(tmp_path) is None
    process = hold()
    (tmp_path / "lock").rename(tmp_path / lock.NAME)
    code = (
        "import sys; from llie_jax.cli import main;"
        "status = main.main(['train', '--config', 'darkir', '--workdir', sys.argv[1]]);"
        "assert 'jax' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", code, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    line = f"error: {tmp_path} is in use by process {process.pid} on "
    assert ended.stderr.startswith(line)
    assert len(ended.stderr.splitlines()) == 1


def test_a_lock_ends_with_its_process(tmp_path, hold):
    process = hold()
    process.kill()
    process.wait()
    with (
        pytest.warns(UserWarning, match=f"taken over from process {process.pid} on"),
        Lock(tmp_path / "lock", hint="-"),
    ):
        assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()
    assert (tmp_path / "lock").read_text() == ""


@pytest.mark.filterwarnings("error")
def test_a_lock_that_was_left_is_free(tmp_path):
    for _ in range(2):
        with Lock(tmp_path / "lock", hint="-") as lock:
            lock.check()


def test_a_silent_holder_elsewhere_is_dead(tmp_path, hold):
    process = hold("elsewhere")
    process.kill()
    process.wait()
    lock = Lock(tmp_path / "lock", hint="-", silence=1)
    waiting = f"was in use by process {process.pid} on .* up to 1 s for a sign of life"
    start = time.monotonic()
    with (
        pytest.warns(UserWarning, match=waiting),
        pytest.warns(UserWarning, match="is taken over from"),
        lock,
    ):
        assert 1 < time.monotonic() - start < 5


def write(path, **changes):
    holder = dataclasses.replace(Holder.this(), **changes)
    path.write_text(json.dumps(dataclasses.asdict(holder)))


def test_a_holder_of_yesterday_is_dead(tmp_path):
    write(tmp_path / "lock", space="elsewhere", time=time.time() - 86400)
    start = time.monotonic()
    with (
        pytest.warns(UserWarning, match="is taken over from"),
        Lock(tmp_path / "lock", hint="-"),
    ):
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("content", ["[]", '{"pid": 1', "\0\0", '{"pid": 1}'])
def test_a_damaged_file_of_a_lock(tmp_path, content):
    path = tmp_path / "lock"
    path.write_text(content)
    with Lock(path, hint="-") as lock:
        lock.check()
    path.write_text(content)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(Lock(path, hint="-"), ".* is in use by another process; .*")


def test_a_run_that_was_taken_over_is_told(tmp_path):
    """As after hours of suspension: it must not write any more."""
    path = tmp_path / "lock"
    with Lock(path, hint="-", beat=0.05) as lock:
        write(path, machine="other")
        with pytest.raises(OSError, match=r"in use by process \d+ on other"):
            lock.check()
        time.sleep(0.2)
        assert json.loads(path.read_text())["machine"] == "other"
    assert json.loads(path.read_text())["machine"] == "other"


@pytest.fixture(params=["no_locks", "no_fcntl"])
def without_locks(request, monkeypatch):
    """File systems and operating systems that have no locks."""

    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_POLL", 0.05)
    if request.param == "no_locks":
        monkeypatch.setattr(fcntl, "flock", flock)
    else:
        monkeypatch.setitem(sys.modules, "fcntl", None)


@pytest.mark.usefixtures("without_locks")
def test_processes_are_enough_without_locks(tmp_path, hold):
    process = hold()
    lock = Lock(tmp_path / "lock", hint="go away")
    assert refused(lock, refusal(tmp_path, process)) < 5
    process.kill()
    process.wait()
    with pytest.warns(UserWarning, match="is taken over from"), lock:
        lock.check()


@pytest.mark.usefixtures("without_locks")
def test_the_number_of_a_dead_process_may_be_given_anew(tmp_path):
    write(tmp_path / "lock", born=1)
    with (
        pytest.warns(UserWarning, match="is taken over from"),
        Lock(tmp_path / "lock", hint="-"),
    ):
        pass
