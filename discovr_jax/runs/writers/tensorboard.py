"""Scalars for TensorBoard, in events files of the workdir."""

import time
from collections.abc import Mapping
from typing import Any

from discovr_jax.runs.writers import Run, numbers


class Writer:
    """Written at once by the thread that logs.

    tensorboardX' SummaryWriter hands scalars to a thread which dies of a full disk; then the tenth value waits for
    ever.
    """

    def __init__(self, run: Run):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        # The name holds the second of the start: without a number a second start in it would overwrite the first.
        number = len(list(run.workdir.glob("events.out.tfevents.*")))
        self._writer = EventsWriter(str(run.workdir / "events"), f".{number}")
        self._event, self._scalar = Event, scalar
        # What an earlier start wrote of these steps is hidden.
        self._writer.write_event(Event(step=run.first, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        for name, value in numbers(row).items():
            summary = self._scalar(name, value)
            self._writer.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
