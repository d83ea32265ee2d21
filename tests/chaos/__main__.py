"""The long form of the attack on training: breaks real runs in every way of `faults`, and prints the table.

python -m tests.chaos [--output=runs/chaos] [--kills=50] [--batches=10000] [--seed=0] [--minutes=12]

Started again it goes on where it was. Exit code 0 if nothing was lost, 2 if the minutes are over.
"""

import argparse
import collections
import functools
import json
import pathlib
import sys
import tempfile
import time

import numpy as np

from discovr_jax.runs import workdir as workdir_lib
from tests.chaos import faults, laboratory, soak

# What one run goes through, in an order of its own. Those that hardly cost progress come often.
ROUND = [*faults.ALL, "killed", "killed_saving"]
KILLS = {"killed_twice": 2}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/chaos"))
    parser.add_argument("--kills", type=int, default=50, help="go on until a run was broken so often")
    parser.add_argument("--batches", type=int, default=10_000, help="of the loader's long run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing new after so many")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    lab = laboratory.Laboratory(given.output)
    notes = given.output / "attacks.jsonl"
    _say("making the records and the undisturbed run")
    lab.make_reference()
    for task in _tasks(lab, given, notes):
        if time.monotonic() > deadline:
            return 2
        task()
    rows = _read(notes)
    table = format_table(rows)
    (given.output / "table.md").write_text(table)
    print(table)
    return 1 if any(row.get("lost") for row in rows) else 0


def _tasks(lab, given, notes: pathlib.Path):
    """What is still to be done, a few minutes each."""
    while _broken(_read(notes)) < given.kills:
        number = len({row["run"] for row in _read(notes) if isinstance(row["run"], int) and "lost" in row})
        yield from _one_run(lab, number, given.seed, notes)
    if not any(row["fault"] == "preparing" for row in _read(notes)):
        yield functools.partial(_prepare, lab, given.seed, notes)
    for workers in (0, 1):
        name = f"loader, {workers} workers"
        if given.batches and not any(row["fault"] == name for row in _read(notes)):
            yield functools.partial(_soak, lab, workers, given.batches, name, notes)


def _one_run(lab, number: int, seed: int, notes: pathlib.Path):
    """The faults of one run that are still to come, then its end: a task each."""
    with laboratory.small_disk(lab.folder / f"disk{number}") as disk:
        workdir = disk / f"run{number}"
        if not workdir.exists():  # what is noted of it went with a disk that is gone
            _rewrite(notes, [row for row in _read(notes) if row["run"] != number])
        done = sum(row["run"] == number for row in _read(notes))
        for place, name in list(enumerate(np.random.default_rng([seed, number]).permutation(ROUND)))[done:]:
            if not laboratory.finished(workdir):
                rng = np.random.default_rng([seed, number, place])
                yield functools.partial(_attack, lab, workdir, number, str(name), rng, notes)
        yield functools.partial(_compare, lab, workdir, number, notes)


def _attack(lab, workdir: pathlib.Path, number: int, name: str, rng, notes: pathlib.Path) -> None:
    began = time.monotonic()
    what = faults.ALL[name](lab, workdir, rng)
    seconds = time.monotonic() - began
    _say(f"run {number}: {name}: {what or 'not reached'} ({seconds:.0f} s)")
    _note(notes, [{"run": number, "fault": name, "what": what, "seconds": round(seconds, 1)}])


def _compare(lab, workdir: pathlib.Path, number: int, notes: pathlib.Path) -> None:
    start = lab.start(workdir)
    if start.wait() != 0:
        raise AssertionError(start.said()[-3000:])
    lost = laboratory.differences(lab.reference, workdir)
    _say(f"run {number} finished: {'nothing lost' if not lost else lost}")
    ours = [row | {"lost": lost} for row in _read(notes) if row["run"] == number and row["what"]]
    _rewrite(notes, [row for row in _read(notes) if row["run"] != number] + ours)


def _prepare(lab, seed: int, notes: pathlib.Path) -> None:
    rng = np.random.default_rng([seed, 10**6])
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        times, lost = faults.preparing(lab, pathlib.Path(folder), rng, kills=4)
    _say(f"preparing: killed {times} times, differs: {lost}")
    _note(notes, [{"run": "records", "fault": "preparing", "what": "killed", "lost": lost}] * times)


def _soak(lab, workers: int, count: int, name: str, notes: pathlib.Path) -> None:
    from discovr_jax.data import mixture, pipeline
    from tests import run_case

    config = run_case.make_config(lab.folder / "phantom", {"data.workers": workers, "batch_size": 2})
    with pipeline.train_batches(mixture.open_training(config.data), config) as batches:
        growth = soak.soak(
            batches, warm_up=count // 20, count=count, report=lambda now: _say(f"{name}: {json.dumps(now)}")
        )
    grown = growth["grown_mib"] > 32 or growth["grown_files"] > 16
    _note(notes, [{"run": name, "fault": name, "what": growth, "lost": ["it grows"] if grown else []}])


def format_table(rows: list[dict]) -> str:
    """Markdown: fault, times tried, outcome, data lost."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["fault"]].append(row)
    lines = ["| fault | times | outcome | lost |", "| --- | --- | --- | --- |"]
    for name, group in groups.items():
        fault = faults.ALL.get(name)
        told = fault.__doc__ if fault else {"preparing": "SIGKILL while the records are made"}.get(name, name)
        outcome = "resumed, equal bit for bit"
        if name == "preparing":
            outcome = "made again, every record the same"
        elif not fault:
            what = group[0]["what"]
            outcome = f"{what['batches']} batches: {what['grown_mib']:+.1f} MiB, {what['grown_files']:+d} files"
        lost = sum(len(row["lost"]) for row in group)
        lines.append(f"| {told.strip().rstrip('.')} | {len(group) * KILLS.get(name, 1)} | {outcome} | {lost} |")
    runs = len({row["run"] for row in rows if isinstance(row["run"], int)})
    lines.append(f"\n{_broken(rows)} interruptions in {runs} runs.\n")
    return "\n".join(lines)


def _broken(rows: list[dict]) -> int:
    """Interruptions of runs that were compared to the end."""
    return sum(KILLS.get(row["fault"], 1) for row in rows if isinstance(row["run"], int) and "lost" in row)


def _read(notes: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def _rewrite(notes: pathlib.Path, rows: list[dict]) -> None:
    workdir_lib.write_atomically(notes, "".join(json.dumps(row) + "\n" for row in rows))


def _note(notes: pathlib.Path, rows: list[dict]) -> None:
    with notes.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
