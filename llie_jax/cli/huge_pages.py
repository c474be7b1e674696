"""Memory in huge pages, where Linux gives them only to programs that ask for them.

A training step maps and unmaps hundreds of megabytes; in pages of 4 KiB, that takes a
fifth of its time (docs/speed.md). JAX gets its memory on CPU from the C library, which
asks for huge pages only if a variable says so when the process starts.
"""

import contextlib
import os
import pathlib
import re
import sys

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_OLDEST_GLIBC = (2, 35)
_POLICY = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use() -> None:
    """Starts this process anew with huge pages, if that helps and has not been done.

    Call it first: the process keeps its number, its arguments and its open files, and
    nothing else. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` prevents it.
    """
    tunables = os.environ.get(_VARIABLE, "")
    if _TUNABLE in tunables or not _must_be_asked_for() or not _can_start_anew():
        return
    tunables = f"{tunables}:{_TUNABLE}=1".lstrip(":")
    arguments = [sys.executable, *sys.orig_argv[1:]]
    with contextlib.suppress(OSError):  # slower, but it works
        os.execve(sys.executable, arguments, {**os.environ, _VARIABLE: tunables})


def _can_start_anew() -> bool:
    """Returns whether Python's own command line runs this program.

    It does not in a notebook, nor in a process that another program started; and a
    script that was read from standard input cannot be read again.
    """
    number = len(sys.orig_argv) - len(sys.argv) + 1
    before, after = sys.orig_argv[:number], sys.orig_argv[number:]
    module = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    program = {sys.argv[0], module.name if module else ""} - {"", "-", "-c"}
    return (
        bool(sys.executable)
        and number > 1
        and before[-1] in program
        and after == sys.argv[1:]
    )


def _must_be_asked_for() -> bool:
    """Returns whether the kernel has huge pages for those who ask, and glibc can."""
    try:
        policy = _POLICY.read_text()
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # another system, or another C library
        return False
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", version)
    return (
        "[madvise]" in policy
        and found is not None
        and (int(found[1]), int(found[2])) >= _OLDEST_GLIBC
    )
