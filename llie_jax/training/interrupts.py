"""Signals that stop a run between two steps."""

import signal


class Signals:
    """Records SIGINT and SIGTERM inside the context; a second signal interrupts."""

    def __init__(self):
        self.received: int | None = None
        self._old = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:
                break  # not in the main thread: signals belong to the caller
        return self

    def __exit__(self, *error):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
