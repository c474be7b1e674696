"""TensorBoard events, written at once.

tensorboardX writes from a thread of its own. On a full disk that thread dies with a
traceback, and closing its writer then waits for ever.
"""

import os
import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from llie_jax import files, messages


class Events:
    """Writes the events of a run; if they cannot be written, says so once.

    Args:
        folder: their folder, created if missing.
        purge_step: TensorBoard hides events of this step and later ones that an
            interrupted run left.
    """

    def __init__(self, folder: str | os.PathLike, *, purge_step: int):
        self._writer = None
        try:
            files.path(folder).mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(os.path.join(folder, "events"))
        except OSError as error:
            self._give_up(error)
        self._write(step=purge_step, file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""
        self._write(step=step, summary=summary.scalar(name, value))

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Writes a uint8 picture [H, W, 3]."""
        picture = summary.image(name, image, dataformats="HWC")
        self._write(step=step, summary=picture)

    def flush(self) -> None:
        """Gives what was written to the file system."""
        try:
            if self._writer:
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Closes the file."""
        try:
            if self._writer:
                self._writer.close()
        except OSError as error:
            self._give_up(error)

    def _write(self, **content) -> None:
        try:
            if self._writer:
                self._writer.write_event(Event(wall_time=time.time(), **content))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        messages.note(
            f"TensorBoard events are not written any more: {error.strerror or error}."
        )
