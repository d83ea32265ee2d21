"""How far long work is and how long it will take: a line every few seconds, the same for every command."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

EVERY = 5.0  # seconds between two lines
_NO_RATE = 0.1  # seconds after its start in which a rate says nothing


def to_stderr(line: str) -> None:
    """One line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Tells how many are done of how many, how many per second, and the time left; without a total what it can.

    `EVERY` counts from the last line of any of them, so that many short works in a row are told of too.

    >>> progress = Progress("videos", 3, say=print, every=0)
    >>> for done in range(1, 4):
    ...     progress(done)  # doctest: +ELLIPSIS
    1 of 3 videos (33 %), ... per second, 0 min 0 s left
    2 of 3 videos (66 %), ... per second, 0 min 0 s left
    3 of 3 videos (100 %), ... per second, 0 min 0 s left
    """

    _last = time.monotonic()  # when a line was told; at first when this was imported

    def __init__(
        self, what: str, total: int | None = None, say: Callable[[str], None] = to_stderr, *, every: float = EVERY,
        always: bool = True,
    ):  # fmt: skip
        """
        Args:
          what: the things that are counted, "videos" say.
          total: how many there are; None where only the calls know it, or nobody does.
          say: takes each line; of a logger `logger.info`.
          always: tell the end also of what took less than `every` seconds.
        """
        self._what, self._total, self._say, self._every = what, total, say, every
        self._done, self._tells_end = 0, always
        self._start = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        """`done` of them are done."""
        self._done, now = done, time.monotonic()
        self._total = self._total if total is None else total
        ended = self._total is not None and done >= self._total
        early = now - Progress._last < self._every or now - self._start < min(self._every, _NO_RATE)
        if early and not (ended and self._tells_end):
            return
        Progress._last, self._tells_end = now, not ended
        rate = done / max(now - self._start, 1e-9)
        speed = f"{rate:.1f} per second" if rate >= 0.1 or not rate else f"{1 / rate:.0f} s each"
        if self._total is None:
            self._say(f"{done} {self._what}, {speed}")
            return
        minutes, seconds = divmod(round((self._total - done) / rate) if rate else 0, 60)
        left = f"{minutes} min {seconds} s left" if rate else "time left unknown"
        share = 100 * done // max(self._total, 1)
        self._say(f"{done} of {self._total} {self._what} ({share} %), {speed}, {left}")

    def add(self, count: int = 1) -> None:
        """`count` more are done."""
        self(self._done + count)


@contextlib.contextmanager
def doing(what: str, say: Callable[[str], None] = to_stderr, *, every: float = EVERY) -> Iterator[None]:
    """Tells that `what` goes on, where nothing has been told for `every` seconds: for work that has no count.

    Such as compilation, a bootstrap or a file that is written. Inside another one, what is told is the inner's. The
    outermost watches the clock in a thread, so that it also tells of many short works in a row.

    >>> with doing("compiling", say=print, every=0.01):
    ...     time.sleep(0.3)  # doctest: +ELLIPSIS
    compiling: ... s so far
    ...
    """
    _works.append((what, say, time.monotonic()))
    try:
        with _watched(every) if len(_works) == 1 else contextlib.nullcontext():
            yield
    finally:
        _works.pop()


_works: list[tuple[str, Callable[[str], None], float]] = []  # of `doing`, the innermost last


@contextlib.contextmanager
def _watched(every: float) -> Iterator[None]:
    """A thread that tells of the innermost of `_works` when it is time to."""
    ended = threading.Event()

    def watch() -> None:
        told = time.monotonic()  # apart from that of counts, which would else wait for their turn again
        while not ended.wait(every / 10):
            now = time.monotonic()
            if now - max(told, Progress._last) >= every:
                told = now
                what, say, start = _works[-1]
                say(f"{what}: {now - start:.0f} s so far")

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
