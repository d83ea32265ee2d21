"""Locks that the kernel gives back when their process dies, however it dies."""

import os
import socket


class InUseError(RuntimeError):
    """Another process holds the file; the message is its "PID on HOST"."""


def lock(handle, wait: bool) -> None:
    """Hold an open file, by its object or its descriptor, until it is closed.

    Raises:
      BlockingIOError: another process holds it, and `wait` is False.
      OSError: a system without such locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where using an encoder needs no lock
        raise OSError(
            "training, prepare and --shard need the file locks of Linux or macOS; on Windows run them in WSL"
        ) from None
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def claim(handle: int) -> None:
    """Hold an open file, by its descriptor, and write into it whose it is.

    Raises:
      InUseError: another process holds it.
      OSError: a system without such locks.
    """
    try:
        lock(handle, wait=False)
    except BlockingIOError:
        raise InUseError(os.read(handle, 256).decode(errors="replace").strip() or "unknown") from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
