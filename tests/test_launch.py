"""The launch files: valid, complete on a dry run, and their flags known to the program."""

import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from discovr_jax import command_line, extract
from discovr_jax.benchmark import ablations, step
from discovr_jax.configs import adult
from discovr_jax.runs.workdir import flatten

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
SCRIPTS = ("tpu_vm.sh", "slurm.sh", "slurm_extract.sh", "study.sh", "gpu_learn.sh", "gpu_bench.sh")
FLAGS = ["--config=adult", "--config.duration=20 steps"]


def dry_run(name, **environ):
    command = ["bash", str(LAUNCH / name), *FLAGS]
    return subprocess.run(command, env=os.environ | {"DRY_RUN": "1"} | environ, capture_output=True, text=True)


def assert_known(words):
    """Flags of the program with their values, quoting undone."""
    flags = [word for word in words if word.startswith("--")]
    assert set(FLAGS) <= set(flags), words
    known = flatten(adult.get_config().to_dict())
    for flag in flags:
        name = flag.removeprefix("--").partition("=")[0]
        assert name in ("workdir", "config") or name.removeprefix("config.") in known, flag


def test_nothing_ends_processes_by_name_or_empties_shared_memory():
    """Another run on the same machine would die of it. What we end is ours, by its id."""
    root = LAUNCH.parent
    within = [root / folder for folder in ("discovr_jax", "tfds_builders", "launch", ".ci")]
    files = [path for folder in within for path in folder.rglob("*") if path.suffix in (".py", ".sh", ".yaml", "")]
    files = [path for path in files if path.is_file()]
    assert len(files) > 200
    for path in [*files, root / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(pkill|killall|process_iter)\b|\b(rm|rmtree|unlink)\b.*/dev/shm", text), path


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_pass_shellcheck(name):
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(shellcheck), str(LAUNCH / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_tpu_vm_creates_installs_and_runs_on_all_hosts():
    done = dry_run("tpu_vm.sh", TPU="name", ZONE="zone", BUCKET="bucket")
    assert done.returncode == 0, done.stderr
    create, setup, train = [line for line in done.stdout.splitlines() if line.startswith("+ gcloud")]
    assert "tpu-vm create name --zone=zone --accelerator-type=v5litepod-16" in create
    assert "--worker=all" in setup and "discovr_jax[tpu]" in setup
    assert "--rename-dir-limit=" in setup  # without it no checkpoint can be finished in the bucket
    (command,) = [word for word in shlex.split(train) if word.startswith("--command=")]
    assert "--worker=all" in train
    words = shlex.split(command.removeprefix("--command="))
    assert words[:3] == ["$HOME/venv/bin/python", "-m", "discovr_jax.main"]
    assert_known(words)


def test_tpu_vm_says_what_it_needs():
    done = dry_run("tpu_vm.sh", TPU="", ZONE="zone", BUCKET="bucket")
    assert done.returncode != 0 and "name of the TPU VM" in done.stderr


def test_slurm_runs_one_task_a_gpu():
    done = dry_run("slurm.sh", SLURM_JOB_NUM_NODES="2", WORKDIR="/shared/run")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:2] == ["srun", "--kill-on-bad-exit=1"]
    assert "--config.mesh.slices=2" in words and "--workdir=/shared/run" in words
    assert_known(words[2:])
    head = (LAUNCH / "slurm.sh").read_text()
    assert "--ntasks-per-node=8" in head and "--gpus-per-node=8" in head


def extraction(**environ):
    """launch/slurm_extract.sh, dry, as SLURM starts a task of an array."""
    flags = ["--checkpoint=runs/adult", "--input=/shared/videos", "--output=/shared/f.parquet"]
    command = ["bash", str(LAUNCH / "slurm_extract.sh"), *flags]
    return subprocess.run(command, env=os.environ | {"DRY_RUN": "1"} | environ, capture_output=True, text=True)


def test_slurm_extracts_a_shard_per_task():
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "8", "SLURM_CPUS_PER_TASK": "6"}
    done = extraction(**task)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[1:4] == ["-u", "-m", "discovr_jax.extract"]
    args, others = extract._parser().parse_known_args(words[4:])
    assert (args.shard, args.workers, args.output, others) == ("3/8", 6, "/shared/f.parquet", [])
    # A task that failed, alone: its array ends at itself.
    again = extraction(**task | {"SLURM_ARRAY_TASK_MAX": "3", "SHARDS": "8"})
    assert "--shard=3/8" in shlex.split(again.stdout)
    assert "sbatch --array=1-N" in extraction().stderr


def test_the_study_runs_every_method_at_every_seed():
    done = dry_run("study.sh", SEEDS="0 1", METHODS="discovr video_only", RUNS="/runs", JOBS="1")
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for words, (seed, method) in zip(lines, [(s, m) for s in "01" for m in ("discovr", "video_only")], strict=True):
        assert f"--workdir=/runs/study/{method}-{seed}" in words and f"--config.seed={seed}" in words
        assert f"--config=configs/baselines.py:method={method},recipe=phantom_long" in words
        assert "--config.duration=20 steps" in words


def at_second(folder, now):
    """PATH where `date` says that so many seconds have passed."""
    (folder / "bin").mkdir()
    (folder / "bin" / "date").write_text(f"#!/bin/sh\necho {now}\n")
    (folder / "bin" / "date").chmod(0o755)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def bench(out, *overrides, **environ):
    """launch/gpu_bench.sh with this Python; returns what it printed, and its report."""
    command = ["bash", str(LAUNCH / "gpu_bench.sh"), str(out), *overrides]
    environ = os.environ | {"PYTHON": sys.executable} | environ
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, (out / "report.md").read_text()


def test_gpu_bench_measures_the_most_valuable_first(tmp_path):
    path = at_second(tmp_path, 580)
    _, report = bench(tmp_path, "--config.model.depth=2", DRY_RUN="1", TORCH_STEP="python step.py", PATH=path)
    parts = ["step-48", "step-32", "step-64", "step-96", "ablations", "parts", "learn", "torch"]
    assert [line.removeprefix("## ") for line in report.splitlines() if line.startswith("## ")] == parts
    commands = [shlex.split(line) for line in report.splitlines() if line.startswith("    ")]
    for words in commands[:6]:
        assert words[1:3] == ["-m", "discovr_jax.benchmark"]
        parser = argparse.ArgumentParser()
        {"step": step, "ablations": ablations}[words[3]].add_arguments(parser)
        flags, overrides = parser.parse_known_args(words[4:])
        assert command_line.read_config(flags.config, overrides).model.depth == 2
        assert set(getattr(flags, "only", ())) <= set(ablations.ABLATIONS)
    assert commands[6][-2:] == ["launch/gpu_learn.sh", str(tmp_path / "learn")]
    assert "UNTIL=1060" in commands[6], "a minute before the end, for the scores"


def test_gpu_bench_names_what_the_time_does_not_reach(tmp_path):
    printed, report = bench(tmp_path, ROWS="step-48 parts", LIMIT="0")
    assert printed == report == "step-48: not reached in 0 s\nparts: not reached in 0 s\n"


def test_gpu_bench_trains_only_where_there_is_time_for_it(tmp_path):
    """It simulates and compiles first, for some minutes."""
    _, report = bench(tmp_path, ROWS="learn parts", LIMIT="359", DRY_RUN="1")
    assert report.startswith("learn: not reached in 359 s\n\n## parts\n")


@pytest.mark.parametrize(("until", "told"), [("600", ["--seconds=20"]), ("580", [])])
def test_gpu_learn_trains_for_what_the_simulation_has_left(until, told, tmp_path):
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/commands\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "rows.jsonl").touch()
    environ = {"PYTHON": str(tmp_path / "python"), "UNTIL": until, "SEEDS": "0", "ABLATIONS": "0"}
    environ = os.environ | environ | {"PATH": at_second(tmp_path, 580)}
    done = subprocess.run(
        ["bash", str(LAUNCH / "gpu_learn.sh"), str(tmp_path), str(tmp_path / "videos")], env=environ,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (0 if told else 1) and ("no time is left" in done.stderr) == (not told), done.stderr
    simulated, *trained = (tmp_path / "commands").read_text().splitlines()
    assert "tfds_builders.echo_phantom.frames" in simulated
    assert [[word for word in line.split() if "--seconds" in word] for line in trained] == [told][: len(told)]


@pytest.mark.long  # compiles two steps
def test_gpu_bench_keeps_what_is_measured_when_a_later_part_fails(tmp_path):
    tiny = {"model.depth": 1, "loss.scd": 0.0, "loss.img": 0.0, "loss.phase": 0.0, "data.num_frames": 4}
    environ = {"CONFIG": "phantom", "ROWS": "step-8 ablations torch", "ABLATIONS": "last_block", "TIMED": "2"}
    environ |= {"ABLATIONS_BATCH": "8", "WARMUP": "1", "TORCH_STEP": "echo timed; echo no such code >&2; exit 3"}
    printed, report = bench(tmp_path, *(f"--config.{key}={value}" for key, value in tiny.items()), **environ)
    assert printed.count("exit code 0") == 2 and "torch: done after" in printed
    assert "| clips per second |" in report and "| loss of the first step |" in report
    assert "| all tokens in the last block, though only CLS is read | " in report
    assert report.endswith("timed\n\ntorch: exit code 3\n\n    no such code\n")


def test_jobset_has_a_pod_for_every_host_of_the_slice():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    words = shlex.split(container["args"][0].partition("&&")[0])
    known = flatten(adult.get_config().to_dict())
    assert all(w.partition("=")[0].removeprefix("--config.") in known for w in words if w.startswith("--config."))


def test_each_is_a_page():
    for path in LAUNCH.iterdir():
        assert len(path.read_text().splitlines()) <= 70, path
