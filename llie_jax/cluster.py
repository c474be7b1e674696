"""The processes of a run: they join, hear of preemption, and end together.

JAX finds the cluster and connects its processes; its coordination service, in process
0, carries their failures and preemption notices.

    with cluster.joined(preemptible=True):  # before any other JAX call
        ...
        if cluster.preempted(step):  # the same answer in every process
            ...
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from llie_jax import messages

try:
    # The client of JAX's coordination service has no public name.
    from jax._src.distributed import global_state as _state
except ImportError:
    _state = None

JOIN_SECONDS = 300
"""How long a process waits for the others to start."""

LOST = 75
"""Exit status (EX_TEMPFAIL) after another process was lost, or never came."""

_FAILED = 1  # exit status after another process failed: a restart would not help

_HEARTBEAT_SECONDS = 20  # a process that is silent for so long is lost
_PULSE_SECONDS = 2
_FAILURES = "llie_jax/failures/"
_HEARD = "llie_jax/heard/"
_AGAIN = "Start the same command in all processes again; a training resumes."


@contextlib.contextmanager
def joined(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = JOIN_SECONDS,
    preemptible: bool = False,
) -> Iterator[None]:
    """Joins the other processes of a run, if there are any, until the context ends.

    Enter it before any other JAX call. JAX detects SLURM, Open MPI, Kubernetes jobs and
    Cloud TPU slices (on GCE through the metadata server). Elsewhere give the first
    three arguments, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. One process without a coordinator works alone, whatever the cluster
    says. A task of SLURM or Open MPI gets one GPU unless JAX_LOCAL_DEVICE_IDS lists
    more.

    An exception inside ends all processes: each names the one that failed on standard
    error, and the others leave with status 1. A process that dies without a word is
    noticed after 20 to 30 seconds; then they leave with `LOST`. In a version of JAX
    whose coordination service this one does not know, the processes only join; a note
    says so.

    Args:
        coordinator: HOST:PORT of process 0, the same in all processes.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.
        timeout: seconds to wait for the others; then the process leaves with `LOST`.
        preemptible: SIGTERM is a notice for `preempted`, which the code inside must
            ask after every step, as training does; otherwise it ends the process.

    Raises:
        ValueError: if the processes cannot be joined, or if the environment says that
            there are several and JAX finds only this one: each would train by itself
            and write into the same folder.
    """
    if jax.distributed.is_initialized():  # by the caller
        yield
        return
    jax.config.update("jax_enable_preemption_service", preemptible)
    _start(coordinator, num_processes, process_id, timeout)
    if not jax.distributed.is_initialized():
        yield
        return
    if not _is_known(_state):
        messages.note(
            f"This version does not know the coordination service of jax "
            f"{jax.__version__}: when one process fails, the others say so late, in "
            "JAX's own words, or wait for it for ever."
        )
        yield
        return
    if _state.num_processes == 1:
        yield
        return
    member = _Member(_state)
    try:
        yield
        member.wait_for_all()
    except BaseException as error:
        member.fail(error)
        raise
    member.leave()


_METHODS = (
    *("get_live_nodes", "key_value_dir_get", "key_value_set"),
    *("shutdown", "wait_at_barrier"),
)


def _is_known(state) -> bool:
    """Returns whether JAX's state of a joined process is as `_Member` needs it."""
    return all(hasattr(getattr(state, "client", None), name) for name in _METHODS)


def notices_preemption() -> bool:
    """Returns whether SIGTERM is a notice for `preempted`."""
    return jax.process_count() > 1 and jax.config.jax_enable_preemption_service


def preempted(step: int) -> bool:
    """Returns whether all processes are to stop after this step, the same in all.

    One of them got SIGTERM. Call it in every process after every step.
    """
    return multihost_utils.reached_preemption_sync_point(step)


class _Member:
    """This process among those of the run."""

    def __init__(self, state):
        self._client = state.client
        self._number, self._count = state.process_id, state.num_processes
        self._name = _name(state.process_id, state.num_processes)
        self._leaving = threading.Event()
        self._failed = False
        _explain_abort(
            f"error: JAX ended {self._name}, as said above. Unless another line names "
            "a lost process, it is process 0, which coordinates the run at "
            f"{state.coordinator_address}. {_AGAIN}"
        )
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Ends this process when another one has failed or is lost."""
        everyone = list(range(self._count))
        while not self._leaving.wait(_PULSE_SECONDS):
            try:
                # Returns when every living process has asked.
                living = self._client.get_live_nodes(everyone)
                failures = self._client.key_value_dir_get(_FAILURES)
            except jax.errors.JaxRuntimeError:
                continue  # no service: JAX ends this process, see `_explain_abort`
            lost = [str(number) for number in everyone if number not in living]
            if self._failed or self._leaving.is_set():
                continue
            if failures:
                # A mistake before a broken connection, which may follow from it.
                status, text = min(value.split(" ", 1) for _, value in failures)
                self._end(f"{text}.", int(status))
            if lost:
                self._end(
                    f"process {', '.join(lost)} of {self._count} is lost: it was "
                    f"killed, or its machine or network failed. {_AGAIN}",
                    LOST,
                )

    def _end(self, reason: str, status: int) -> None:
        print(f"error: {self._name} ends: {reason}", file=sys.stderr, flush=True)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{_HEARD}{self._number}", "")
        os._exit(status)  # the main thread may wait for the other process for ever

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process ends with an exception."""
        status = _FAILED
        if _is_broken_connection(error):
            # The others know why, or JAX will soon: `_watch` ends this process.
            time.sleep(_HEARTBEAT_SECONDS + 5 * _PULSE_SECONDS)
            status = LOST
        self._failed = True
        text = " ".join(str(error).split()) or "interrupted"
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(
                f"{_FAILURES}{self._number}",
                f"{status} {self._name} failed: {type(error).__name__}: {text}".rstrip(
                    "."
                ),
            )
            if self._number == 0:
                self._wait_for_hearing()  # the service ends with this process

    def _wait_for_hearing(self) -> None:
        """Waits until the others have failed too, or have heard of a failure."""
        limit = time.monotonic() + _HEARTBEAT_SECONDS
        ended = 0
        while ended < self._count and time.monotonic() < limit:
            ended = sum(
                len(self._client.key_value_dir_get(each))
                for each in (_FAILURES, _HEARD)
            )
            time.sleep(0.1)

    def wait_for_all(self) -> None:
        """Waits until all processes are done; `_watch` ends the wait on a failure."""
        day = 24 * 3600 * 1000  # milliseconds
        self._client.wait_at_barrier("llie_jax/done", day)

    def leave(self) -> None:
        """Disconnects; no exception of another process matters any more."""
        self._leaving.set()
        if self._number == 0:
            # The service ends with this process, so the others disconnect first.
            everyone = list(range(self._count))
            while len(self._client.get_live_nodes(everyone)) > 1:
                time.sleep(0.05)
        jax.distributed.shutdown()


def _name(number: int, count: int) -> str:
    return f"process {number} of {count} on {socket.gethostname()}"


def _is_broken_connection(error: BaseException) -> bool:
    """Returns whether a collective failed, most often because a process is gone."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in text


_kept = []  # a C function pointer must not be collected


def _explain_abort(line: str) -> None:
    """Writes a line when JAX aborts, which it does when process 0 is lost.

    JAX aborts from a thread of its own in C++, where no Python handler runs.
    """

    def handler(_):
        os.write(2, f"{line}\n".encode())
        os._exit(LOST)

    function = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    _kept.append(function)
    ctypes.CDLL(None).signal(signal.SIGABRT, function)


def _start(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout: int,
) -> None:
    """Joins the other processes if there are any, see `joined`."""
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    wanted = _number("JAX_NUM_PROCESSES") if num_processes is None else num_processes
    number = _number("JAX_PROCESS_ID") if process_id is None else process_id
    _check(coordinator, wanted, number)
    if coordinator:
        _join(
            timeout,
            coordinator_address=coordinator,
            num_processes=wanted,
            process_id=number,
        )
        return
    announced = {"JAX_NUM_PROCESSES": wanted} if wanted else _announced()
    indexed = "JOB_COMPLETION_INDEX" in os.environ  # only Kubernetes knows how many
    if announced and max(announced.values()) == 1 and not indexed:
        return  # JAX would leave a lone SLURM task a single GPU
    _join(timeout)
    variable = max(announced, key=announced.get, default=None)
    if variable and jax.process_count() == 1:
        raise ValueError(
            f"{variable}={os.environ.get(variable, wanted)} says that this run has "
            f"{announced[variable]} processes or more, but JAX finds only this one. "
            f"{_ALTERNATIVES.get(variable, _EXPLICIT)}; or give --num-processes 1 (or "
            "set JAX_NUM_PROCESSES=1) to use this process alone."
        )


def _check(coordinator: str | None, count: int | None, number: int | None) -> None:
    """Raises ValueError if the explicit arguments contradict each other."""
    if coordinator and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(
            f"The coordinator is {coordinator!r}; give HOST:PORT of process 0."
        )
    if number is not None and not coordinator:
        raise ValueError(
            f"The process id is {number}, but there is no coordinator. {_EXPLICIT}."
        )
    if count is not None and count < 1:
        raise ValueError(f"The number of processes is {count}; give at least 1.")
    if None not in (count, number) and not 0 <= number < count:
        raise ValueError(
            f"The process id is {number}; {count} processes have the ids 0 to "
            f"{count - 1}."
        )


_EXPLICIT = (
    "Give --coordinator, --num-processes and --process-id in each process (or set "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID)"
)
_ALTERNATIVES = {
    "SLURM_NTASKS": "Start the command with srun",
    "JOB_COMPLETION_INDEX": f"Install jax[k8s]. {_EXPLICIT}",
}


def _announced() -> dict[str, int]:
    """Returns variable -> number of processes, as launchers announce it."""
    found = {
        "OMPI_COMM_WORLD_SIZE": _number("OMPI_COMM_WORLD_SIZE"),
        "PMI_SIZE": _number("PMI_SIZE"),
        "SLURM_STEP_NUM_TASKS": _number("SLURM_STEP_NUM_TASKS"),
    }
    # SLURM_NTASKS describes the allocation, and is set even in a shell that is no task;
    # in an interactive step only the step's own number is right.
    launched = {"SLURM_PROCID", "SLURM_STEP_ID"} & os.environ.keys()
    if launched and found["SLURM_STEP_NUM_TASKS"] is None:
        found["SLURM_NTASKS"] = _number("SLURM_NTASKS")
    slices = _number("MEGASCALE_NUM_SLICES") or 1
    for variable in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if hosts := os.environ.get(variable):
            found[variable] = len(hosts.split(",")) * slices
    if slices > 1:
        found["MEGASCALE_NUM_SLICES"] = slices
    # Index 0 does not say how many pods there are.
    if index := _number("JOB_COMPLETION_INDEX"):
        found["JOB_COMPLETION_INDEX"] = index + 1
    return {variable: count for variable, count in found.items() if count}


def _number(variable: str) -> int | None:
    """Returns an environment variable as a number, None if it is absent.

    Raises:
        ValueError: if it is not an integer.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}; expected a number.") from None


def _join(timeout: int, **known: str | int | None) -> None:
    """Joins the other processes if JAX finds any; JAX detects what is not `known`."""
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The loss of a process is ours to report; by default JAX aborts all the others.
    jax.config.update("jax_enable_recoverability", True)
    # A pod outside an indexed job is on its own, but JAX would query the cluster's API.
    alone = "JOB_COMPLETION_INDEX" not in os.environ
    hidden = os.environ.pop("KUBERNETES_SERVICE_HOST", None) if alone else None
    # JAX aborts in C++ when a process does not come; this is sooner, in one line.
    patience = threading.Timer(timeout, _give_up, [timeout])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **known,
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except Exception as error:
        if "coordinator_address should be defined" in str(error):
            return  # JAX's message for finding no cluster
        if "before any JAX calls" in str(error) and not (known or _announced()):
            return  # JAX is in use already, and nothing announces other processes
        raise ValueError(
            "The processes of this run cannot find each other "
            f"({type(error).__name__}: {error}). {_EXPLICIT}, or only "
            "--num-processes 1 to use this process alone."
        ) from error
    finally:
        patience.cancel()
        if hidden is not None:
            os.environ["KUBERNETES_SERVICE_HOST"] = hidden


def _give_up(timeout: int) -> None:
    """Ends this process, which waited for the others in vain."""
    address = getattr(_state, "coordinator_address", None)
    who = "it"
    what = "did not find the cluster's other processes"
    if address:
        who = _name(_state.process_id, _state.num_processes)
        what = f"waited for the others at {address}"
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            what += ", and not all of them came"
        except OSError as error:
            what += f", where process 0 does not answer ({error})"
    print(
        f"error: {who} {what} within {timeout} seconds (--start-timeout). Start the "
        "same command in every process, with a coordinator that all of them reach.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)
