"""Reads damaged variants of the files of tests.parsers, and counts what comes of them.

python -m tests.fuzz --minutes=10 [--only=NAME]    for that long in all; `make fuzz`
"""

import argparse
import importlib.util
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

import hypothesis

from tests.mutations import SECONDS, Tally, damaged
from tests.parsers import PARSERS, Parser

DEFECTS = pathlib.Path(tempfile.gettempdir()) / "discovr_jax_fuzz"  # the long form keeps there what brings one out
ROUND = 20  # inputs between two looks at the clock; some take a second
SMALL = 2**26  # bytes that a decoded video may have here: MEMORY of tests.mutations is 16 times that


def run(parser: Parser, folder: pathlib.Path, settings: hypothesis.settings, seed: int | None = None) -> Tally:
    """Reads damaged variants of the parser's files in `folder`, which is kept as it was in between."""
    from discovr_jax.data.io import video

    if not folder.exists():
        folder.mkdir(parents=True)
        parser.write(folder)
    found = sorted(path for path in folder.rglob(parser.damaged) if path.is_file() and path.stat().st_size)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    for path in found:  # libraries start their threads here, where memory is not limited
        parser.read(path, folder)
    tally = Tally()

    @settings
    @hypothesis.given(damaged(files))
    def one(case):
        name, data = case
        path = folder / name
        path.write_bytes(data)
        try:
            tally.try_one(lambda: parser.read(path, folder), name, data, folder, parser.named)
        finally:
            path.write_bytes(files[name])

    before, video.MAX_BYTES = video.MAX_BYTES, SMALL
    try:
        (one if seed is None else hypothesis.seed(seed)(one))()
    finally:
        video.MAX_BYTES = before
    return tally


NOISE = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large, hypothesis.HealthCheck.filter_too_much]


def settings(examples: int, **others) -> hypothesis.settings:
    """No deadlines and no memory of earlier runs: what is tried depends on nothing but the seed."""
    return hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=NOISE,
        phases=[hypothesis.Phase.generate], **others,
    )  # fmt: skip


def work(parser: Parser, folder: pathlib.Path, seconds: float, seed: int) -> None:
    """Tries inputs until the time is over, in this process; says after every round how far it is."""
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w")  # libraries print as well, from compiled code too
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(**entry):
        print(json.dumps(entry), file=ours, flush=True)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        say(seed=seed)
        tally = run(parser, folder, settings(ROUND), seed)
        for _, name, data in tally.defects.values():
            (DEFECTS / f"{len(data)}_{pathlib.Path(name).name}").write_bytes(data)
        defects = {kind: [words[:300], name] for kind, (words, name, _) in tally.defects.items()}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(counts=tally.counts, defects=defects, memory=memory)
        seed += 1


def supervise(parser: Parser, seconds: float) -> tuple[dict[str, int], dict[str, list], int]:
    """`work` in processes of their own, which libraries may crash: counts, defects, peak memory in KiB."""
    counts, defects, memory, seed = dict.fromkeys(("valid", "refused", "defect"), 0), {}, 0, 0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1:
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "-m", "tests.fuzz", f"--work={parser.name}", f"--folder={temporary}/files"]
            command += [f"--seconds={left}", f"--seed={seed}"]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            # Libraries may hold the interpreter for ever: then the worker's own alarm does not help.
            watchdog = signal.signal(signal.SIGALRM, lambda *_, worker=worker: worker.kill())
            for line in worker.stdout:
                signal.alarm(10 * SECONDS)
                said = json.loads(line) if line.endswith("\n") else {}  # killed while it spoke
                seed = said.get("seed", seed)
                for kind, number in said.get("counts", {}).items():
                    counts[kind] += number
                defects |= said.get("defects", {})
                memory = max(memory, said.get("memory", 0))
            signal.alarm(0)
            signal.signal(signal.SIGALRM, watchdog)
            if worker.wait():
                counts["defect"] += 1
                defects[f"worker ended with {worker.returncode} in the round of seed {seed}"] = ["", ""]
        seed += 1
    return counts, defects, memory


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--only", help="the parser of this name")
    for name, kind in (("work", str), ("folder", pathlib.Path), ("seconds", float), ("seed", int)):
        arguments.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    by_name = {parser.name: parser for parser in PARSERS}
    if given.work:
        DEFECTS.mkdir(exist_ok=True)
        work(by_name[given.work], given.folder, given.seconds, given.seed)
        return 0
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    chosen = [by_name[given.only]] if given.only else [p for p in PARSERS if importlib.util.find_spec(p.needs)]
    found = {}
    print("| reads | inputs | read | refused | defects | peak memory, MiB |\n| --- | --- | --- | --- | --- | --- |")
    for parser in chosen:
        counts, defects, memory = supervise(parser, 60 * given.minutes / len(chosen))
        found |= {f"{parser.name}: {kind}": words for kind, words in defects.items()}
        row = (parser.name, sum(counts.values()), counts["valid"], counts["refused"], counts["defect"], memory >> 10)
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    for kind, words in found.items():
        print(f"{kind}\n    {words}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
