"""Loading ahead survives the death of its threads."""

import ctypes
import threading
import time

import pytest

from llie_jax import messages
from llie_jax.data import loading


def end(thread):
    """Ends a thread from outside, as soon as it runs Python code again."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
    )


def test_loads_in_order():
    stream = loading.load_ahead(lambda step: step**2, range(3, 9), threads=2)
    assert list(stream) == [step**2 for step in range(3, 9)]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_dead_thread_costs_no_step(threads):
    first = {}
    # Without it, a fast thread may load all that is asked for, and be the only one.
    all_started = threading.Barrier(threads)

    def load(step):
        if step < threads and step not in first:
            first[step] = threading.current_thread()
            all_started.wait(timeout=60)
        return step

    stream = loading.load_ahead(load, range(40), threads=threads, patience=0.1)
    found = [next(stream), next(stream)]
    # They are idle: each dies with the step that it takes next, which is lost.
    for thread in first.values():
        end(thread)
    with pytest.warns(messages.Note, match="thread of the loader died; loading starts"):
        found += list(stream)
    assert found == list(range(40))


def test_a_thread_that_ends_while_it_loads():
    begun = threading.Event()

    def load(step):
        if step == 5 and not begun.is_set():
            begun.set()
            raise SystemExit
        return step

    stream = loading.load_ahead(load, range(8), threads=2)
    with pytest.warns(messages.Note, match="starts again at step 5"):
        assert list(stream) == list(range(8))


def test_slow_loading_is_no_death(recwarn):
    def load(step):
        time.sleep(0.25)
        return step

    stream = loading.load_ahead(load, range(2), threads=1, patience=0.05)
    assert list(stream) == [0, 1]
    assert not recwarn


def test_threads_that_always_die():
    def load(step):
        raise SystemExit

    stream = loading.load_ahead(load, range(2), threads=1)
    with pytest.warns(messages.Note), pytest.raises(OSError, match="died 4 times"):
        next(stream)
