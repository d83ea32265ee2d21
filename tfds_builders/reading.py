"""Reads clips in worker processes, in order, with bounded memory."""

import collections
import concurrent.futures
import inspect
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from discovr_jax.data.io.video import VideoError
from tfds_builders.tables import SourceError

# Below this many clips, a worker costs more to start than it saves.
_CLIPS_PER_WORKER = 8
# Results that may wait for their turn, for each worker.
_WAITING = 4
_LOOK = 1.0  # seconds after which a clip that is waited for is told of, if nothing else was
NONE_CAME_UP = (
    "No process that reads or simulates videos came up. A script must make records below the line "
    "`if __name__ == \"__main__\":`, as each of these processes imports it"
)


class Reader:
    """A pool of processes that turn clips into records; a context that ends them.

    Args:
      read_clip: (clip, frame_size) -> record; raises VideoError if the video is unusable.
      frame_size: pixels.
      workers: processes; None for one per core. Fewer are started for few clips, none for one worker.
      total: clips that will be read in all.
      tell: called every few seconds while a clip is waited for.
    """

    def __init__(
        self, read_clip: Callable, frame_size: int, workers: int | None, total: int, tell: Callable[[], None]
    ):
        self._arguments, self._tell = (read_clip, frame_size), tell
        self._workers = min(workers or os.cpu_count() or 1, total // _CLIPS_PER_WORKER)
        self._pool = None

    def __enter__(self) -> "Reader":
        leave_if_main_is_imported()
        if self._workers > 1:
            self._pool, self._started = start_pool(self._workers)
        return self

    def __exit__(self, *error) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def read(self, clips: Sequence) -> Iterator[tuple]:
        """Yields (clip, its record or the VideoError that says why there is none), in the order of `clips`.

        Raises:
          SourceError: a worker was killed, or none came up.
        """
        if self._pool is None:
            for clip in clips:
                yield clip, read_one(*self._arguments, clip)
            return
        waiting: collections.deque = collections.deque()
        for clip in clips:
            try:
                waiting.append((clip, self._pool.submit(read_one, *self._arguments, clip)))
            except concurrent.futures.process.BrokenProcessPool:
                raise self._broken(clip, waiting) from None
            if len(waiting) >= _WAITING * self._workers:
                yield self._first(waiting)
        while waiting:
            yield self._first(waiting)

    def _first(self, waiting: collections.deque) -> tuple:
        clip, future = waiting.popleft()
        while not concurrent.futures.wait([future], _LOOK).done:
            self._tell()
        try:
            return clip, future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise self._broken(clip, waiting) from None

    def _broken(self, clip, waiting) -> SourceError:
        """Why the pool is broken."""
        if not self._started.is_set():
            return SourceError(f"{NONE_CAME_UP}; or give workers=1.")
        return SourceError(
            f"A process that read videos was killed, at {clip.where} or up to {len(waiting)} clips further on. "
            "If the machine ran out of memory, try fewer --workers."
        )


def start_pool(workers: int) -> tuple[concurrent.futures.ProcessPoolExecutor, Any]:
    """Processes that end with this one, and an event that is set once one of them is up."""
    # Not fork: the caller may run threads (jax, TFDS) whose locks a forked child would inherit.
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(started,)
    )
    return pool, started


def leave_if_main_is_imported() -> None:
    """Ends this process if it is a worker that is importing the caller's script, which lacks the guard.

    There it would make the records once more, and wait for ever for the process that waits for it.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            sys.exit(1)  # what to do the first process says
        frame = frame.f_back


def read_one(read_clip: Callable, frame_size: int, clip) -> dict | VideoError:
    """The record of one clip, or why there is none; any other error names the clip's row."""
    try:
        return read_clip(clip, frame_size)
    except VideoError as error:
        return error
    except Exception as error:
        error.add_note(f"While reading the clip of {clip.where}.")
        raise


def _start_worker(started) -> None:
    """Says that a worker came up; ends it when its parent is gone, which also covers a parent that was killed."""
    import cv2

    started.set()

    cv2.setNumThreads(1)  # The workers share the cores already.
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
