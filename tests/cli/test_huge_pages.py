"""A command gets memory in huge pages where Linux gives them on request."""

import os
import subprocess
import sys

import pytest

from llie_jax.cli import huge_pages, main
from tests.conftest import ROOT

PROGRAM = """
import os, sys
from llie_jax.cli import huge_pages
os.environ.setdefault("STARTED", str(os.getpid()))
huge_pages.use()
held = b"x" * 2**26
with open("/proc/self/smaps") as lines:
    asked = any(" hg" in line for line in lines if line.startswith("VmFlags"))
same = os.environ["STARTED"] == str(os.getpid())
print(same, asked, os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""


def run(*command, tunables="", **options):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": tunables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        **options,
    )
    return done.stdout.split()


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """A machine that asks programs whether they want huge pages."""
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_POLICY", file)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-O", *sys.argv])
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
def test_a_process_asks_for_huge_pages_unless_it_was_told_otherwise(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    on, off = "glibc.malloc.hugetlb=1", "glibc.malloc.hugetlb=0"
    assert run("-u", script, "a", "-b") == ["True", "True", on, "a", "-b"]
    assert run(script) == ["True", "True", on]
    assert run(script, tunables=off) == ["True", "False", off]
    # What runs these cannot be started again.
    assert run("-", "a", input=PROGRAM) == ["True", "False", "a"]
    code = f"import runpy, sys; sys.argv = ['x']; runpy.run_path({str(script)!r})"
    assert run("-c", code) == ["True", "False"]


def test_the_program_starts_anew_once(policy, started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    huge_pages.use()
    ((program, arguments, environment),) = started
    assert program == sys.executable
    assert arguments == [sys.executable, "-O", "train.py", "--help"]
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
    tried = []

    def refuse(*arguments):
        tried.append(arguments)
        raise OSError("argument list too long")

    monkeypatch.setattr(os, "execve", refuse)
    huge_pages.use()
    assert tried


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["python", "-m", "ipykernel_launcher", "-f", "kernel.json"],
        ["python", "-m", "IPython"],
        ["python", "-c", "from multiprocessing.spawn import spawn_main", "--help"],
        ["python", "train.py", "--version"],
    ],
)
def test_the_command_line_of_another_program(policy, started, monkeypatch, command):
    monkeypatch.setattr(sys, "orig_argv", command)
    huge_pages.use()
    assert not started


def test_only_training_asks(monkeypatch):
    asked = []
    monkeypatch.setattr(huge_pages, "use", lambda: asked.append(True))
    monkeypatch.setattr(main, "main", lambda arguments: arguments)
    monkeypatch.setattr(sys, "argv", ["llie-jax", "eval", "--help"])
    assert main.program() == ["eval", "--help"]
    assert not asked
    assert main.program("train") == ["train", "eval", "--help"]
    assert len(asked) == 1
