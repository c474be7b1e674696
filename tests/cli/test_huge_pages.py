"""A command gets memory in huge pages where Linux gives them on request."""

import os
import subprocess
import sys

import pytest

from llie_jax.cli import huge_pages
from tests.conftest import ROOT

PROGRAM = """
import os
from llie_jax.cli import huge_pages
if "STARTED" not in os.environ:
    os.environ["STARTED"] = str(os.getpid())
huge_pages.use()
held = b"x" * 2**26
with open("/proc/self/smaps") as lines:
    huge = sum(int(line.split()[1]) for line in lines if "AnonHugePages" in line)
print(os.environ["STARTED"] == str(os.getpid()), os.environ.get("GLIBC_TUNABLES"), huge)
"""


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    same, tunables, huge = done.stdout.split()
    assert same == "True"
    return tunables, int(huge)


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """A machine that asks programs whether they want huge pages."""
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_POLICY", file)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return file


@pytest.fixture
def started(monkeypatch):
    """What this process would have become."""
    found = []
    monkeypatch.setattr(os, "execve", lambda *arguments: found.append(arguments))
    return found


@pytest.mark.skipif(
    not huge_pages._must_be_asked_for(), reason="this system has no [madvise] policy"
)
def test_a_process_gets_huge_pages_unless_it_was_told_otherwise():
    environment = {"GLIBC_TUNABLES": ""}
    assert run(**environment)[0] == "glibc.malloc.hugetlb=1"
    assert run(**environment)[1] >= 2**15  # KiB, half of what it holds
    environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=0"
    assert run(**environment) == ("glibc.malloc.hugetlb=0", 0)


def test_the_program_starts_anew_once(policy, started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    huge_pages.use()
    ((program, arguments, environment),) = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    wanted = "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"
    assert environment == {**os.environ, "GLIBC_TUNABLES": wanted}
    monkeypatch.setenv("GLIBC_TUNABLES", wanted)
    huge_pages.use()
    assert len(started) == 1


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]"])
def test_a_system_that_does_not_ask(policy, started, text):
    policy.write_text(text)
    huge_pages.use()
    policy.unlink()
    huge_pages.use()
    assert not started


@pytest.mark.parametrize("library", ["glibc 2.31", "musl 1.2", None])
def test_another_c_library(policy, started, library, monkeypatch):
    monkeypatch.setattr(os, "confstr", lambda name: library)
    huge_pages.use()
    assert not started


def test_a_refused_start_goes_on(policy, monkeypatch):
    def refuse(*arguments):
        raise OSError("argument list too long")

    monkeypatch.setattr(os, "execve", refuse)
    huge_pages.use()
    assert "GLIBC_TUNABLES" not in os.environ
