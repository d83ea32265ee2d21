"""What every benchmark says about the machine and the config, and how it takes time."""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import platform
import resource
import time
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of repeated calls: median, quartiles and the fastest."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    @property
    def fastest(self) -> float:
        return min(self.seconds)


def timed(call: Callable[[], object], repeats: int, warmup: int) -> Times:
    """Wall times of `call`, which must return only when its work is done; the first `warmup` do not count."""
    seconds = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return Times(tuple(seconds[warmup:]))


def description() -> str:
    """One line: processor, cores, load and commit."""
    from discovr_jax.evaluation.results_io import commit_id

    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; commit {commit_id()}"


def reset_peak_memory() -> None:
    """Gives freed memory back and lets `peak_memory` count from here; elsewhere than on Linux the peak is of all."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest resident memory of this process in bytes, since `reset_peak_memory`."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(header: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table."""
    return "\n".join(map(row, (header, ("---",) * len(header), *rows)))


def row(cells: tuple) -> str:
    """A line of one."""
    return f"| {' | '.join(map(str, cells))} |"
