"""What a run that is killed again and again says of its goodput, against what is seen from outside.

python -m tests.chaos.goodput [--output=runs/goodput] [--steps=1500] [--pace=0.2] [--kill_every=60]
    [--save_every=50] [--local_seconds=0]

A tiny run whose steps are slowed down to `pace` seconds is killed so many seconds after the first step of each start,
by SIGKILL and SIGTERM in turn, and started again. Seen from outside: the wall clock, when each step began
(tests/chaos/paced.py) and which step each start resumed from.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import re
import statistics
import time

from tests.chaos import laboratory

# Lines of the log stand at other steps than checkpoints. No evaluation.
OVERRIDES = {"log.every": "7 steps", "eval.at_end": False, "eval.every": "0 steps"}
SIGNALS = ("SIGKILL", "SIGTERM")
BEGIN = 1e6  # Unix time of the first start by a clock of our own


@dataclasses.dataclass
class Part:
    """One start as outside saw it."""

    first: int  # step that it began with
    began: list[float]  # when each of its steps began, Unix time
    end: str


def run(
    lab, workdir: pathlib.Path, pace: float, enough, report=lambda part: None, between: float | None = None
) -> tuple[float, list[Part]]:
    """A run to its end, killed where `enough(number of the start, when each of its steps began)` says so.

    Args:
      between: None measures real time. Else the run has a clock by which a step takes `pace` seconds, from the last
        step of a start to the next start so many pass, and all else takes none.

    Returns:
      Unix time of the first start, and its parts.
    """
    started, parts = time.time() if between is None else BEGIN, []
    for number in itertools.count():
        clock = "real"
        if between is not None:
            clock = str(parts[-1].began[-1] + between if parts else started)
        file = lab.folder / f"{workdir.name}-{number}.steps"
        file.write_text("")
        began = functools.partial(_times, file)
        start = lab.start(workdir, module=("tests.chaos.paced", str(pace), str(file), clock))
        name = SIGNALS[number % 2]
        if start.until(lambda: enough(number, began())):  # noqa: B023
            start.send(name)
        code = start.wait()
        ended = laboratory.finished(workdir)
        assert ended or code == (-9 if name == "SIGKILL" else 0), start.said()
        resumed = re.search(r"resumed from step (\d+)", start.said())
        parts.append(Part(int(resumed[1]) if resumed else 0, began(), "end" if ended else name))
        report(parts[-1])
        if ended:
            return started, parts


def _times(file: pathlib.Path) -> list[float]:
    return [float(line) for line in file.read_text().split("\n")[:-1]]  # the last one may be cut


def seen(started: float, parts: list[Part], total: int, saved_every: int) -> dict[str, float]:
    """What outside knows of a run that saved every `saved_every` steps.

    Returns:
      "made": steps; "counted": of each start those up to where the next one resumed, without the first, which compiles;
      "step": median seconds; "seconds" of those that count, "wall" seconds since the first start, and "goodput".
    """
    durations = [
        {step: b - a for step, (a, b) in enumerate(itertools.pairwise(part.began), part.first + 1)} for part in parts
    ]
    for part, steps in zip(parts, durations, strict=True):
        steps.pop(part.first + 1, None)
        for step in [step for step in steps if step % saved_every == 0]:
            del steps[step]  # the next one began after saving
    median = statistics.median(seconds for steps in durations for seconds in steps.values())
    counted = [
        steps.get(step, median)
        for part, steps, resumed in zip(parts, durations, [*(part.first for part in parts[1:]), total], strict=True)
        for step in range(part.first + 2, resumed + 1)
    ]
    wall = parts[-1].began[-1] + median - started
    result = {"made": sum(len(part.began) for part in parts), "counted": len(counted), "step": median}
    return result | {"seconds": sum(counted), "wall": wall, "goodput": sum(counted) / wall}


def told(workdir: pathlib.Path) -> float:
    """Goodput that the run itself says in its last line."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["perf/goodput"] for row in rows if "perf/goodput" in row][-1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.goodput", description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/goodput"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pace", type=float, default=0.2, help="seconds per step")
    parser.add_argument("--kill_every", type=float, default=60, help="seconds after a start's first step")
    parser.add_argument("--save_every", type=int, default=50, help="steps")
    parser.add_argument("--local_seconds", type=float, default=0, help="between checkpoints on a local disk; 0: none")
    given = parser.parse_args()
    overrides = OVERRIDES | {"duration": f"{given.steps} steps", "checkpoint.every": f"{given.save_every} steps"}
    if given.local_seconds:
        overrides |= {"checkpoint.local_dir": given.output / "local", "checkpoint.local_seconds": given.local_seconds}
    lab = laboratory.Laboratory(given.output, overrides, heads={})
    workdir = lab.folder / "run"

    def enough(number, began):
        del number
        return len(began) > 1 and time.time() - began[1] > given.kill_every

    started, parts = run(lab, workdir, given.pace, enough, lambda part: print(_line(part), flush=True))
    result = seen(started, parts, given.steps, given.save_every)
    print(f"\n{len(parts) - 1} kills; seen from outside: " + ", ".join(f"{k} {v:.3f}" for k, v in result.items()))
    print(f"told by the run: goodput {told(workdir):.3f}")


def _line(part: Part) -> str:
    return f"from step {part.first}: {len(part.began)} steps, {part.end}"


if __name__ == "__main__":
    main()
