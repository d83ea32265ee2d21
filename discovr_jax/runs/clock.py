"""How fast a run goes: clips per second, time left, and goodput."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Clock:
    """Times the steps of one start of a run, without compilation (the first step), evaluation and saving.

    Goodput is the share of wall time since the run's first start that went into steps which count. Against it count all
    else, the time between two starts, and steps after the checkpoint that a start resumes from, which are done again.
    Time that steps wait for the loader counts as theirs. A checkpoint keeps what its own steps took: lines of
    metrics.jsonl stand at other steps.

    Source of the term: ML goodput of Google Cloud, https://docs.cloud.google.com/tpu/docs/goodput.
    """

    def __init__(
        self,
        batch_size: int,
        step: int,
        total: int,
        rows: Sequence[Mapping[str, float]] = (),
        saved: Mapping[str, float] | None = None,
        began: float | None = None,
    ):
        """
        Args:
          step: that this start begins with; total: of the run.
          rows: that earlier starts have logged.
          saved: `so_far` of the checkpoint that this start resumes from; None of an earlier version's.
          began: Unix time of this start; None: now.
        """
        self._batch, self._total = batch_size, total
        self._mark, self._step, self._away, self._compiled = time.monotonic(), step, 0.0, False
        told = [row for row in rows if "perf/start_time" in row]
        told += [{"step": step, **saved}] if saved else []
        self._start_time = told[0]["perf/start_time"] if told else began or time.time()
        self._in_steps = max((row["perf/step_seconds"] for row in told if row["step"] <= step), default=0.0)

    def tick(self, step: int) -> None:
        """After each step was dispatched; `step` are done."""
        if not self._compiled:
            self._compiled, self._mark, self._step, self._away = True, time.monotonic(), step, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs in here is no training."""
        since = time.monotonic()
        try:
            yield
        finally:
            self._away += time.monotonic() - since

    def so_far(self, step: int) -> dict[str, float]:
        """What the next start needs to go on with goodput: seconds of the steps up to `step`, time of the first start.

        Call it when `step` has ended, not only been dispatched.
        """
        return {"perf/step_seconds": self._in_steps + self._since(step), "perf/start_time": self._start_time}

    def read(self, step: int) -> dict[str, float]:
        """Rates since the last read, `so_far`, and goodput since the first start."""
        seconds = self._since(step)
        rate = (step - self._step) / seconds if seconds else 0.0
        self._in_steps += seconds
        self._mark, self._step, self._away = time.monotonic(), step, 0.0
        return {
            "perf/clips_per_second": rate * self._batch,
            "perf/eta_seconds": (self._total - step) / rate if rate else 0.0,
            **self.so_far(step),
            "perf/goodput": self._in_steps / max(time.time() - self._start_time, self._in_steps, 1e-9),
        }

    def _since(self, step: int) -> float:
        """Seconds of the steps since the last read; 0 if there were none."""
        return max(time.monotonic() - self._mark - self._away, 1e-9) if step > self._step else 0.0
