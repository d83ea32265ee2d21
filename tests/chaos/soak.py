"""Whether reading many batches needs more and more memory or files."""

import time

import psutil

_LOOKS, _PAUSE = 5, 0.02  # seconds


def soak(batches, warm_up: int, count: int, report=None) -> dict:
    """Reads `warm_up` and then `count` batches.

    Args:
      batches: an iterator; its worker processes are children of this process.
      report: called with the growth ten times on the way.

    Returns:
      {"batches", "mib" and "files" after the warm-up, "grown_mib", "grown_files" since}: memory that this process
      and its children hold (shared pages in each), and their open files.
    """
    for _ in range(warm_up):
        next(batches)
    mib, files = _usage()
    growth = {}
    for number in range(1, count + 1):
        next(batches)
        if number % max(count // 10, 1) == 0:
            now, opened = _usage()
            growth = {"batches": number, "mib": mib, "files": files}
            growth |= {"grown_mib": now - mib, "grown_files": opened - files}
            if report:
                report(growth)
    return growth


def _usage() -> tuple[float, int]:
    """Memory in MiB, and open files: the fewest of some looks, as grain closes those of past batches in a thread."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    memory = sum(process.memory_info().rss for process in processes) / 2**20
    files = []
    for _ in range(_LOOKS):
        files.append(sum(process.num_fds() for process in processes))
        time.sleep(_PAUSE)
    return memory, min(files)
