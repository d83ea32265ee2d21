"""Locks that the kernel gives back when their process dies, however it dies."""


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
            "training and preparing records need the file locks of Linux or macOS; on Windows run them in WSL"
        ) from None
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
