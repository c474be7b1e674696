"""Signals that stop a run between two steps, in all of its processes."""

import signal

from llie_jax import cluster, parallel


class Signals:
    """Records SIGINT and SIGTERM inside the context; a second signal interrupts.

    In a run of several processes, JAX takes SIGTERM as the notice of a preemption, and
    SIGINT is passed on as one. If they were joined without that, a note says so, and
    signals do what they did before.

    Attributes:
        received: the number of the signal that stops the run, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._old = {}
        self._alone = parallel.process_count() == 1
        self._shared = cluster.notices_preemption()
        self._interrupted = False

    def __enter__(self):
        numbers = (signal.SIGINT, signal.SIGTERM) if self._alone else ()
        if self._shared:
            numbers = (signal.SIGINT,)
        elif not self._alone:
            parallel.note(
                "SIGTERM and Ctrl-C end the run without another checkpoint: its "
                "processes were joined without cluster.joined(preemptible=True)."
            )
        for number in numbers:
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:
                break  # not in the main thread: signals belong to the caller
        return self

    def __exit__(self, *error):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def stop(self, step: int) -> bool:
        """Returns whether to stop after this step, the same in all processes.

        Args:
            step: the step; all processes ask after each.
        """
        if self._shared and cluster.preempted(step):
            self.received = signal.SIGTERM
        return self.received is not None

    def _handle(self, number, frame):
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._shared:
            signal.raise_signal(signal.SIGTERM)
        else:
            self.received = number
