"""Breaks training runs in every way we know, and checks that nothing is lost.

    python -m tests.soak                # a seeded third of all faults
    python -m tests.soak --all
    python -m tests.soak --only save disk --json soak.json

Real processes and signals, a toy model, 60 steps, a checkpoint every 5. After each
fault no process may be left, the run must resume from the newest complete checkpoint
(after the death of a loader's thread it must simply go on), and end with the same state
as an unbroken one, bit for bit. `damage` breaks files of a checkpoint of the size of
DarkIR-m instead; none may be read without a word.
"""

import argparse
import collections
import ctypes
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings

from llie_jax import cluster, files
from llie_jax.weights import record as records
from llie_jax.weights.run import read_log
from llie_jax.weights.store import Store
from tests.conftest import ROOT
from tests.test_cluster import free_port
from tests.training import toys

STEPS = 60
LIMIT = 60.0
"""Seconds after which no process of a run may be left."""

COUNTS = {
    **{"kill": 20, "save": 10, "term": 10, "disk": 5, "worker": 5},
    **{"peer": 10, "damage": 100},
}
"""How many faults of each kind there are in all."""

RECIPE = """
from tests.training import toys

def get_config():
    return toys.config(
        {root!r},
        **{{
            "stages.s0.steps": {steps},
            "log.every_steps": 1,
            "evaluate.every_steps": 20,
            "checkpoint.every_steps": 5,
            "data.residence": "host",
            "data.workers": 2,
        }},
    )
"""


class Failure(Exception):
    """A run did not survive a fault."""


class Run:
    """A training run in its own folder, started as often as needed."""

    def __init__(self, folder, name, *, processes=1):
        self.workdir = folder / name
        self.processes = processes
        self._recipe = folder / "recipe.py"

    def command(self):
        """Returns the command that starts or resumes it."""
        flags = "--config", self._recipe, "--workdir", self.workdir
        return [sys.executable, *map(str, ("train.py", *flags))]

    def start(self, *flags, module=None):
        """Starts one process; `module` is run in the place of train.py."""
        command = [*self.command(), *flags]
        if module:
            command[1:2] = ["-m", *module]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_all(self):
        """Starts all its processes."""
        if self.processes == 1:
            return [self.start()]
        run = f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=2"
        return [self.start(*run, f"--process-id={i}") for i in range(2)]

    def finish(self):
        """Resumes it to its end; returns what its first process said."""
        started = self.start_all()
        said = [leave(process, 10 * LIMIT) for process in started]
        for process, text in zip(started, said, strict=True):
            if process.returncode:
                raise Failure(f"ended with status {process.returncode}: {text[-300:]}")
        return said[0]

    def reached(self):
        """Returns the last step in its log."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is being written
            lines = read_log(self.workdir / "log.jsonl")
        return max((line["step"] for line in lines), default=0)

    def saved(self):
        """Returns its newest complete checkpoint, 0 if there is none."""
        return max(records.saved_steps(self.workdir / "checkpoints"), default=0)

    def saving(self):
        """Returns whether a checkpoint is being written or removed."""
        folder = self.workdir / "checkpoints"
        return any(folder.glob("*.orbax-checkpoint-tmp*")) or any(
            folder.glob(".removed/*")
        )

    def final(self):
        """Returns the digests of its last state, verified."""
        with Store(self.workdir / "checkpoints") as store:
            return store.check(STEPS).arrays


def leave(process, limit=LIMIT):
    """Waits for the end of a process; returns its standard error."""
    try:
        return process.communicate(timeout=limit)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failure(f"a process was left after {limit:.0f} s") from None


def wait_for(condition, process):
    """Waits until a condition holds."""
    end = time.monotonic() + 10 * LIMIT
    while not condition():
        if process.poll() is not None:
            raise Failure(f"ended early: {process.stderr.read()[-300:]}")
        if time.monotonic() > end:
            process.kill()
            raise Failure("the fault could not be made")
        time.sleep(0.002)


def resume(run, kept):
    """Resumes a run to its end, from the step that was kept."""
    said = run.finish()
    found = re.search(r"resuming at step (\d+)", said)
    if (int(found[1]) if found else 0) < kept:
        raise Failure(
            f"checkpoint {kept} was complete, resumed from: {found and found[0]}"
        )
    if "Traceback" in said:
        raise Failure(f"a traceback: {said[-300:]}")


def kill(run, draw):
    """kill -9 at a random moment."""
    moment = draw.randrange(2, STEPS - 6)
    process = run.start()
    wait_for(lambda: run.reached() >= moment, process)
    time.sleep(draw.uniform(0, 0.05))
    process.kill()
    leave(process)
    resume(run, run.saved())


def save(run, draw):
    """kill -9 while a checkpoint is being written or an old one removed."""
    moment = draw.randrange(2, STEPS - 12)
    process = run.start()
    wait_for(lambda: run.reached() >= moment, process)
    wait_for(run.saving, process)
    time.sleep(draw.uniform(0, 0.03))
    process.kill()
    leave(process)
    resume(run, run.saved())


def term(run, draw):
    """SIGTERM: saves and leaves with a status that schedulers restart on."""
    moment = draw.randrange(2, STEPS - 10)
    process = run.start()
    wait_for(lambda: run.reached() >= moment, process)
    before = run.reached()
    process.send_signal(signal.SIGTERM)
    leave(process)
    if process.returncode != 128 + signal.SIGTERM:
        raise Failure(f"ended with status {process.returncode}")
    if run.saved() < before:
        raise Failure(f"saved step {run.saved()} only, after step {before}")
    resume(run, run.saved())


FULL = """
mount -t tmpfs -o size={size}k tmpfs {workdir} || exit 99
{command} 2> {workdir}.first
echo $? > {workdir}.status
ls {workdir}/checkpoints > {workdir}.listing
mount -o remount,size=200m {workdir} || exit 99
{command} 2> {workdir}.second
echo $? >> {workdir}.status
cp -r {workdir} {workdir}.copy
"""


def disk(run, draw):
    """A disk that fills up during the run, then gets space."""
    run.workdir.mkdir()
    # Of a whole run in full pages, of 4 KiB: folders take nothing there.
    whole = (run.workdir.parent / "whole1").rglob("*")
    needed = sum(
        4 * -(-path.stat().st_size // 4096) for path in whole if path.is_file()
    )
    script = FULL.format(
        size=round(draw.uniform(0.4, 0.9) * needed),
        workdir=run.workdir,
        command=" ".join(run.command()),
    )
    process = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", script],
        start_new_session=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = leave(process, 3 * LIMIT)
    except Failure:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode:
        raise Failure(f"no file system of its own (unshare, mount): {said[-200:]}")

    def text(suffix):
        return pathlib.Path(f"{run.workdir}.{suffix}").read_text()

    first, second = text("status").split()
    if first == "0":
        raise Failure("the disk did not fill up")
    line = text("first").strip().splitlines()[-1]
    if not re.match("error: Cannot", line) or "Traceback" in text("first"):
        raise Failure(f"no clear line: {text('first')[-3000:]}")
    if second != "0":
        raise Failure(f"did not resume: {text('second')[-300:]}")
    kept = max((int(n) for n in text("listing").split() if n.isdecimal()), default=0)
    found = re.search(r"resuming at step (\d+)", text("second"))
    if kept and (not found or int(found[1]) < kept):
        raise Failure(f"checkpoint {kept} was lost: {text('second')[-300:]}")
    run.workdir.rmdir()
    pathlib.Path(f"{run.workdir}.copy").rename(run.workdir)


def worker(run, draw):
    """A thread that loads data dies: with a batch, which is loaded again, or idle."""
    moment = draw.randrange(2, STEPS - 10)
    process = run.start(module=("tests.soak", "--kill-a-worker-at", str(moment)))
    said = leave(process, 3 * LIMIT)
    if "a worker dies" not in said:
        raise Failure(f"the fault could not be made: {said[-300:]}")
    if process.returncode:
        raise Failure(f"ended with status {process.returncode}: {said[-300:]}")


def train_and_kill_a_worker(moment, arguments):
    """Trains in this process; a thread of the loader dies at a step."""
    from llie_jax.cli import main

    workdir = pathlib.Path(arguments[arguments.index("--workdir") + 1])

    def is_worker(thread):
        return thread.name.startswith("grain")

    def wait():
        run = Run(workdir.parent, workdir.name)
        while run.reached() < moment or not any(map(is_worker, threading.enumerate())):
            time.sleep(0.002)
        for thread in filter(is_worker, threading.enumerate()):
            print("a worker dies", thread.name, file=sys.stderr, flush=True)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
            return

    threading.Thread(target=wait, daemon=True).start()
    return main.main(["train", *arguments])


def peer(run, draw):
    """kill -9 of one of two processes, some time after a checkpoint."""
    moment, number = draw.randrange(6, STEPS - 6), draw.randrange(2)
    started = run.start_all()
    wait_for(lambda: run.reached() >= moment, started[number])
    time.sleep(draw.uniform(0, 0.05))
    started[number].kill()
    said = [leave(process) for process in started]
    status = started[1 - number].returncode
    if status != cluster.LOST:
        raise Failure(
            f"the other ended with status {status}: {said[1 - number][-300:]}"
        )
    if not run.saved():
        raise Failure("there was no checkpoint yet")
    resume(run, run.saved())


FAULTS = {f.__name__: f for f in (kill, save, term, disk, worker, peer)}
PROCESSES = {"peer": 2}
"""Of the runs of a fault, if not one."""


def faults(chosen, folder, draw, report):
    """Makes each chosen fault in a run of its own."""
    root = toys.write_pairs(folder / "pairs")
    (folder / "recipe.py").write_text(RECIPE.format(root=str(root), steps=STEPS))
    expected = {}
    for processes in {1, *map(PROCESSES.get, chosen.keys() & PROCESSES)}:
        whole = Run(folder, f"whole{processes}", processes=processes)
        whole.finish()
        expected[processes] = whole.final()
    for kind, count in chosen.items():
        for number in range(count):
            run = Run(folder, f"{kind}{number}", processes=PROCESSES.get(kind, 1))
            start = time.monotonic()
            try:
                FAULTS[kind](run, draw)
                if run.final() != expected[run.processes]:
                    raise Failure("ended with another state than an unbroken run")
                outcome = "the same end"
            except Failure as failure:
                outcome = f"FAILED: {failure}"
            report(kind, f"{number}", outcome, time.monotonic() - start)
            shutil.rmtree(run.workdir, ignore_errors=True)


def large_state(seed):
    """Returns a training state of DarkIR-m with random values."""
    import jax
    import numpy as np

    from llie_jax.cli.experiment import load_config
    from llie_jax.training.experiment import Experiment

    draw = np.random.default_rng(seed)
    config = load_config("darkir", ["--config.ema.decay=0.999"])

    def fill(leaf):
        values = draw.normal(size=leaf.shape)
        return jax.numpy.asarray(values.astype(leaf.dtype))

    shapes = jax.eval_shape(Experiment.from_config(config).init)
    return jax.tree.map(fill, shapes)


def hurt(folder, draw):
    """Damages a random file below a folder; returns what was done.

    The folder holds hard links, so that copies cost nothing: a file is replaced.
    """
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    sizes = [p.stat().st_size if draw.random() < 0.5 else 1 for p in found]
    [path] = draw.choices(found, sizes)
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    kind = draw.choice(["bit", "hole", "truncation", "deletion"])
    path.unlink()
    if kind == "bit":
        content[place] ^= 1 << draw.randrange(8)
    elif kind == "hole":
        content[place : place + 4096] = bytes(len(content[place : place + 4096]))
    elif kind == "truncation":
        del content[place:]
    if kind != "deletion":
        path.write_bytes(content)
    return f"{kind} of {path.relative_to(folder)} at {place}"


def damages(count, folder, draw, report):
    """Damages a checkpoint of the size of DarkIR-m in many ways."""
    import jax

    from llie_jax.weights.digest import digests

    source = folder / "source"
    states = {step: large_state(step) for step in (1, 2)}
    expected = {step: digests(state) for step, state in states.items()}
    template = jax.eval_shape(lambda: states[1])
    with Store(source / "checkpoints", writing=True) as store:
        for step, state in states.items():
            store.save(state, step=step, psnr=20.0 + step)
        store.wait()
    for number in range(count):
        start = time.monotonic()
        copy = folder / f"copy{number}"
        shutil.copytree(source, copy, copy_function=os.link)
        what = hurt(copy / "checkpoints" / "2", draw)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", UserWarning)
            with Store(copy / "checkpoints", writing=True) as store:
                state, step = store.restore(template)
        if digests(state) != expected[step]:
            outcome = "FAILED: silently wrong"
        elif step == 2:
            outcome = "whole" + (", said" if seen else "")
        elif any("Checkpoint 2 is left out" in str(each.message) for each in seen):
            outcome = "fell back, said"
        else:
            outcome = "FAILED: fell back without a word"
        report("damage", f"{number} {what}", outcome, time.monotonic() - start)
        shutil.rmtree(copy)


def main():
    """Makes the faults; returns 1 if a run did not survive one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all, not a third")
    parser.add_argument("--only", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="also write all outcomes")
    parser.add_argument("--kill-a-worker-at", type=int, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.kill_a_worker_at:
        return train_and_kill_a_worker(args.kill_a_worker_at, rest)
    outcomes = []

    def report(kind, name, outcome, seconds):
        print(f"{kind} {name}: {outcome} ({seconds:.1f} s)", flush=True)
        outcomes.append({"kind": kind, "name": name, "outcome": outcome})

    share = 1 if args.all else 1 / 3
    chosen = {kind: math.ceil(share * COUNTS[kind]) for kind in args.only}
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if count := chosen.pop("damage", 0):
            damages(count, folder, draw, report)
        if chosen:
            faults(chosen, folder, draw, report)
    table = collections.Counter(
        (each["kind"], each["outcome"].partition(":")[0]) for each in outcomes
    )
    for (kind, outcome), count in table.items():
        print(f"{kind:8} {outcome:24} {count}")
    if args.json:
        with files.atomic(args.json) as path:
            path.write_text(json.dumps(outcomes, indent=2) + "\n")
    return int(any(each["outcome"].startswith("FAILED") for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
