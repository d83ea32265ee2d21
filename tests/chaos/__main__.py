"""The long form of the attack on training: breaks real runs in every way of `faults`, and prints the table.

python -m tests.chaos [--output=runs/chaos] [--kills=50] [--batches=10000] [--seed=0]

Started again it goes on where it was. Exit code 0 if nothing was lost.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile
import time

import numpy as np

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
    given = parser.parse_args()
    lab = laboratory.Laboratory(given.output)
    notes = given.output / "attacks.jsonl"
    _say("making the records and the undisturbed run")
    lab.make_reference()
    while _broken(_read(notes)) < given.kills:
        number = len({row["run"] for row in _read(notes) if "lost" in row})
        _one_run(lab, number, given.seed, notes)
    if not any(row["fault"] == "preparing" for row in _read(notes)):
        _prepare(lab, given.seed, notes)
    for workers in (0, 1):
        name = f"loader, {workers} workers"
        if given.batches and not any(row["fault"] == name for row in _read(notes)):
            _soak(lab, workers, given.batches, name, notes)
    rows = _read(notes)
    table = format_table(rows)
    (given.output / "table.md").write_text(table)
    print(table)
    return 1 if any(row.get("lost") for row in rows) else 0


def _one_run(lab, number: int, seed: int, notes: pathlib.Path) -> None:
    rng = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, laboratory.small_disk(pathlib.Path(folder)):
        workdir = pathlib.Path(folder) / f"run{number}"
        done = []
        for name in rng.permutation(ROUND):
            began = time.monotonic()
            what = faults.ALL[name](lab, workdir, rng)
            seconds = time.monotonic() - began
            _say(f"run {number}: {name}: {what or 'not reached'} ({seconds:.0f} s)")
            if what:
                done.append({"run": number, "fault": str(name), "what": what, "seconds": round(seconds, 1)})
            if _finished(workdir):
                break
        start = lab.start(workdir)
        if start.wait() != 0:
            raise AssertionError(start.said()[-3000:])
        lost = laboratory.differences(lab.reference, workdir)
        _say(f"run {number} finished: {'nothing lost' if not lost else lost}")
        _note(notes, [row | {"lost": lost} for row in done])


def _finished(workdir: pathlib.Path) -> bool:
    path = workdir / "metrics.jsonl"
    return path.exists() and "state_sha256" in path.read_text()


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
        figures = soak.soak(
            batches, warm_up=count // 20, count=count, report=lambda now: _say(f"{name}: {json.dumps(now)}")
        )
    grown = figures["grown_mib"] > 32 or figures["grown_files"] > 16
    _note(notes, [{"run": name, "fault": name, "what": figures, "lost": ["it grows"] if grown else []}])


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
            outcome = "made again, the same bytes"
        elif not fault:
            what = group[0]["what"]
            outcome = f"{what['batches']} batches: {what['grown_mib']:+.1f} MiB, {what['grown_files']:+d} files"
        lost = sum(len(row["lost"]) for row in group)
        lines.append(f"| {told.strip().rstrip('.')} | {len(group) * KILLS.get(name, 1)} | {outcome} | {lost} |")
    runs = len({row["run"] for row in rows if isinstance(row["run"], int)})
    lines.append(f"\n{_broken(rows)} interruptions in {runs} runs.\n")
    return "\n".join(lines)


def _broken(rows: list[dict]) -> int:
    return sum(KILLS.get(row["fault"], 1) for row in rows if isinstance(row["run"], int))


def _read(notes: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def _note(notes: pathlib.Path, rows: list[dict]) -> None:
    with notes.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
