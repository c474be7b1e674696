"""The lock of a run's folder: one process at a time writes there.

Between processes of one machine, a lock of the operating system decides. It ends with
its process, however that ends. Between machines, in buckets, and where there are no
such locks, signs of life decide: the holder rewrites its file every other second, and
one that has been silent for a minute is dead.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import IO

from llie_jax import files, messages

NAME = ".lock"
"""The file in a run's folder."""

HINT = "choose another --workdir"
"""What an error about a run's folder tells the user to do."""

BEAT = 2.0
"""Seconds between two signs of life."""

SILENCE = 60.0
"""Seconds without a sign of life after which a holder elsewhere is dead."""

_LONG_AGO = 600.0  # seconds; clocks of machines differ by less
_POLL = 0.25


def check_free(workdir: str | os.PathLike) -> None:
    """Raises OSError if a living process of this machine trains in a folder.

    A look at the lock, which takes milliseconds: for before JAX is imported. `Lock`
    decides, also about other machines and buckets.
    """
    folder = files.path(workdir)
    if isinstance(folder, pathlib.Path):
        Lock(folder / NAME, hint=HINT).check_neighbours()


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says.

    Attributes:
        pid: the process.
        machine: the name of its machine.
        space: where the number of the process means something: a boot of a kernel and
            a namespace of processes.
        token: differs between any two holders.
        born: when the process started, in the kernel's ticks; 0 if unknown.
        time: the last sign of life, in seconds since the epoch.
    """

    pid: int
    machine: str
    space: str
    token: str
    born: int
    time: float

    @classmethod
    def this(cls) -> "Holder":
        """Returns this process, alive now."""
        return cls(
            pid=os.getpid(),
            machine=socket.gethostname(),
            space=_space(),
            token=uuid.uuid4().hex,
            born=_born(os.getpid()),
            time=time.time(),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine}"


class Lock:
    """Holds a folder inside a `with` statement, and shows signs of life meanwhile.

    Args:
        path: the file of the lock, created if missing; it stays, empty.
        hint: what an error tells the user to do.
        beat: seconds between two signs of life.
        silence: seconds without one after which a holder on another machine is dead.

    Raises:
        OSError: on entry, if another process holds it; names folder, machine and
            process. It is known within a few seconds, unless the other is dead.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        hint: str,
        beat: float = BEAT,
        silence: float = SILENCE,
    ):
        self.path = files.path(path)
        self._hint, self._beat, self._silence = hint, beat, silence
        self._me = Holder.this()
        self._file: IO | None = None  # locked by the operating system
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Lock":
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(self._system_lock())
            other = self._read()
            if other and not self._is_dead(other):
                self._watch(other)
                other = self._read()  # it may have ended meanwhile
            if other:
                messages.note(
                    f"{self.path.parent} is taken over from {other}, which is dead."
                )
            self._write(self._me)
            stack.callback(self._leave)
            if self._file is None:
                time.sleep(4 * _POLL)  # another may be taking it right now
                self.check()
            stack.enter_context(self._beating())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raises OSError if another process has taken the folder over.

        A process that was suspended for long enough looks dead to other machines.
        """
        other = self._read()
        if other and other.token != self._me.token:
            self._refuse(other)

    def check_neighbours(self) -> None:
        """Raises OSError if a living process of this machine holds it."""
        other = self._read()
        if other and other.space == self._me.space and _is_running(other):
            self._refuse(other)

    def _refuse(self, other: Holder | None) -> None:
        raise OSError(
            f"{self.path.parent} is in use by {other or 'another process'}; wait for "
            f"it, or {self._hint}."
        )

    def _is_dead(self, other: Holder) -> bool:
        """Returns whether a holder is dead for certain."""
        if other.space == self._me.space:
            # It would have the system's lock.
            return self._file is not None or not _is_running(other)
        return time.time() - other.time > _LONG_AGO

    def _watch(self, other: Holder) -> None:
        """Raises OSError as soon as a holder shows a sign of life."""
        if other.space == self._me.space:
            self._refuse(other)
        messages.note(
            f"{self.path.parent} was in use by {other}; waiting up to "
            f"{self._silence:.0f} s for a sign of life."
        )
        end = time.monotonic() + self._silence
        while time.monotonic() < end:
            time.sleep(_POLL)
            now = self._read()
            if now is None:
                return  # it has ended meanwhile
            if now != other:
                self._refuse(now)

    def _read(self) -> Holder | None:
        """Returns the holder that the file names; None if it names nobody."""
        for _ in range(3):  # a local file may be read while it is written
            try:
                text = self.path.read_text() if self.path.exists() else ""
                return Holder(**json.loads(text)) if text.strip() else None
            except (ValueError, TypeError):
                time.sleep(0.05)
        return None  # damaged: nobody alive writes such a file

    def _write(self, holder: Holder | None) -> None:
        text = json.dumps(dataclasses.asdict(holder)) if holder else ""
        if self._file is None:
            with files.atomic(self.path) as path:
                path.write_text(text)
        else:  # in place: the system's lock is on this very file
            self._file.seek(0)
            self._file.write(text)
            self._file.truncate()
            self._file.flush()

    def _leave(self) -> None:
        # As in `_beating`; at worst the next process waits until this one is silent.
        with contextlib.suppress(Exception):
            if (holder := self._read()) and holder.token == self._me.token:
                self._write(None)

    @contextlib.contextmanager
    def _beating(self) -> Iterator[None]:
        """Shows signs of life in the background."""
        ended = threading.Event()

        def beat():
            while not ended.wait(self._beat):
                # A full disk, or a bucket out of reach, whose library's errors are no
                # OSError: one must not end this thread, since the next beat may
                # succeed. `check` says more.
                with contextlib.suppress(Exception):
                    self.check()
                    self._write(dataclasses.replace(self._me, time=time.time()))

        thread = threading.Thread(target=beat, daemon=True, name="lock")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def _system_lock(self) -> Iterator[IO | None]:
        """Yields the file, locked; None where the system has no locks.

        Raises:
            OSError: if another process has locked it.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            fcntl = None
        if fcntl is None or not isinstance(self.path, pathlib.Path):
            yield None
            return
        # Not truncated before it is locked: the file names the holder.
        self.path.touch()
        with self.path.open("r+", errors="replace") as file:
            locked = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._refuse(self._read())
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                locked = False
            yield file if locked else None


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def _space() -> str:
    """Returns where numbers of processes of this one mean the same."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(part.strip() for part in parts)


def _born(pid: int) -> int:
    """Returns when a process started: a number may have been given anew."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_running(holder: Holder) -> bool:
    """Returns whether a holder on this machine is still running."""
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to somebody else
    return _born(holder.pid) == holder.born
