"""Whole runs on a tiny phantom: its records, a config that trains in seconds, and ways to cut a run short.

As a program it is the command line in a process of its own that sends itself a signal:
python -m tests.run_case SIGKILL 5 --config=phantom:smoke --workdir=DIR [...]
"""

import contextlib
import functools
import importlib
import json
import os
import pathlib
import resource
import runpy
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from discovr_jax import prepare, train
from discovr_jax.configs import phantom
from discovr_jax.data import feed
from discovr_jax.evaluation import evaluate
from discovr_jax.evaluation.report import report
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.models.readouts import KNOWN
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.runs import checkpoint
from discovr_jax.runs import workdir as workdir_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Overrides of phantom.py:smoke. Both classes are in every split under this rule.
TINY = {
    "batch_size": 8,
    "duration": "9 steps",
    "log.every": "2 steps",
    "checkpoint.every": "3 steps",
    "data.simulate.train": 10,
    "data.simulate.val": 5,
    "data.simulate.test": 5,
    "data.abnormal_rule": "ef < 57",
    "data.workers": 0,
    "data.image_size": 32,
    "data.num_frames": 8,
    "phase.frames": 4,
    "loss.vid": 0.01,  # beside the recipe's own terms, for its teacher, centre and monitors
    "optim.lr": 1e-3,
    "model.patch": 8,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.decoder_width": 16,
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
    "model.num_prototypes": 16,
    "head.hidden": 32,
    "head.bottleneck": 16,
    "head.outputs": 32,
    "eval.clips": 1,
    "eval.batch_size": 8,
    "eval.random_seeds": 1,
    "eval.resamples": 50,
}
TINY_HEADS = {
    "eval.evaluators.probe.Cs": (0.1, 1.0),
    "eval.evaluators.labels.draws": 1,
    "eval.evaluators.segmentation.heads_used": ("linear",),
    "eval.evaluators.segmentation.linear.steps": 6,
    "eval.evaluators.attentive.fields": ("label", "ef"),
    "eval.evaluators.attentive.fit.steps": 6,
    "eval.evaluators.mlp.fields": ("label", "ef"),
    "eval.evaluators.mlp.fit.steps": 6,
    "eval.evaluators.mlp.widths": (4,),
}
# What else phantom.py changes of a config of full size.
FULL_SIZE = {
    "model.variant": "custom",
    "model.dtype": "float32",
    "optim.warmup": "1 steps",
    "dino.teacher_temperature_warmup": "1 steps",
}


def make_config(data_dir, overrides=()):
    """phantom.py:smoke shrunk to seconds, on the records in `data_dir`."""
    config = phantom.get_config("smoke").lock()
    config.update_from_flattened_dict(TINY | TINY_HEADS | {"data.data_dir": str(data_dir)} | dict(overrides))
    return config


def shrunk(name, data_dir, overrides=()):
    """A shipped config of full size shrunk likewise, its own data and evaluators kept."""
    config = importlib.import_module(f"discovr_jax.configs.{name}").get_config().lock()
    sizes = {key: value for key, value in TINY.items() if key != "data.abnormal_rule"}
    own = [key for key in TINY_HEADS if key.split(".")[2] in config.eval.evaluators and not key.endswith(".fields")]
    heads = {key: TINY_HEADS[key] for key in own}
    config.update_from_flattened_dict(sizes | heads | FULL_SIZE | {"data.data_dir": str(data_dir)} | dict(overrides))
    return config


def command_flags(data_dir, overrides=(), config="phantom:smoke", heads=TINY_HEADS) -> list[str]:
    """The same config as arguments of the command line; `heads` for another config, which may lack those evaluators."""
    values = TINY | dict(heads) | {"data.data_dir": str(data_dir)} | dict(overrides)
    return [f"--config={config}", *(f"--config.{key}={value}" for key, value in values.items())]


def session_folder(tmp_path_factory) -> pathlib.Path:
    """A folder for what all tests of a session share, whichever worker of pytest-xdist they run in."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def simulated(folder: pathlib.Path) -> pathlib.Path:
    """A data_dir with the phantom's records, made when first asked for; shared by the tests of a session."""
    data_dir = folder / "phantom"
    prepare.ensure_records(make_config(data_dir))
    return data_dir


def saved(tiny, workdir: pathlib.Path, step: int = 5) -> pathlib.Path:
    """A workdir that holds the state of the shared tiny experiment as the checkpoint of a step."""
    checkpoints = checkpoint.Checkpoints(workdir)
    checkpoints.save(step, tiny.state, {}, experiment_lib.config_dict(tiny.config))
    checkpoints.close()
    return workdir


# Of `evaluated`.
EVALUATION = {name: value for name, value in TINY.items() if name.startswith("eval.")} | TINY_HEADS
EVALUATION |= {"eval.clips": 2, "eval.readouts": (*KNOWN,), "data.abnormal_rule": "ef < 57", "data.workers": 0}
_evaluated: dict[pathlib.Path, dict] = {}


@contextlib.contextmanager
def evaluated(tiny, tmp_path_factory):
    """(config, workdir, results) of random weights as a checkpoint of step 3 and its evaluation, on one device.

    Made when first asked for, and shared by the tests of a worker: they change copies only.
    """
    folder, run = session_folder(tmp_path_factory), tmp_path_factory.getbasetemp() / "evaluated"
    with pytest.MonkeyPatch.context() as patch, compiled_programs(folder):
        patch.setattr(mesh_lib, "make_mesh", one_device)
        patch.setattr(evaluate.samples, "of_clips", lambda *_: {"clips": []})
        patch.setattr(report, "write_report", lambda *_, **__: "no report")
        config = tiny.config.copy_and_resolve_references()
        config.update_from_flattened_dict(EVALUATION | {"data.data_dir": str(simulated(folder))})
        if run not in _evaluated:
            run.mkdir()
            workdir_lib.claim(run, experiment_lib.config_dict(config))
            checkpoints = checkpoint.Checkpoints(run)
            checkpoints.save(3, tiny.state, {}, experiment_lib.config_dict(config))
            checkpoints.close()
            _evaluated[run] = evaluate.evaluate_workdir(config, run)
        yield config, run, _evaluated[run]


def command_environment(folder: pathlib.Path) -> dict[str, str]:
    """Environment of a command in its own process: this repository, and compiled programs shared in `folder`."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OPENBLAS_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def compiled_programs(folder: pathlib.Path):
    """This process shares the compiled programs of `command_environment`."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(folder / "xla"), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@contextlib.contextmanager
def largest_file(size: int):
    """As a full disk: files of this process cannot grow beyond `size` bytes. (Python ignores the signal; the write
    fails.)

    No fixture: pytest writes its own output between the phases of a test, perhaps to a file that is larger.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_device(shape):
    """`mesh_lib.make_mesh` on the first device, whatever the config says."""
    del shape
    return make_mesh({"data": 1, "fsdp": 1, "model": 1, "slices": 1}, jax.devices()[:1])


make_mesh = mesh_lib.make_mesh


def traced_once(patch) -> None:
    """Patches what a start traces and compiles, which is most of a short run, to do it once for a config.

    A run that is to prove that all of it repeats itself goes without.
    """

    def copied(make):
        # The run donates its state.
        return lambda *arguments: jax.tree.map(jnp.copy, make(*arguments))

    def remembered(function, key):
        made = {}

        def lookup(*arguments):
            name = key(*arguments)
            if name not in made:
                made[name] = function(*arguments)
            return made[name]

        return lookup

    def step_key(experiment, config, mesh):
        e = experiment
        return repr((e.model, e.options, e.masks, e.schedules, config.optim, config.batch_size, config.seed, mesh))

    def state_key(experiment, mesh, seed):
        return repr((experiment.model, mesh, seed))

    def abstract_key(model, tx, masks, mesh):
        return repr((model, mesh))

    patch.setattr(experiment_lib, "jit_train_step", remembered(experiment_lib.jit_train_step, step_key))
    patch.setattr(train_step, "abstract_state", remembered(train_step.abstract_state, abstract_key))
    patch.setattr(train, "init_state", copied(remembered(train.init_state, state_key)))


def weight_metrics(config, directory, state, step, experiment, mesh) -> dict:
    """Stands in for the evaluation: one metric that any change of the teacher's weights changes."""
    total = sum(float(np.abs(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(mesh_lib.to_host(state.teacher)))
    return {"encoders": {"discovr": {"weights/sum": {"value": total}}}}


def cut_short(at: int, action):
    """`feed.device_batches` where `action()` is done before batch number `at` of this process is handed out."""

    def hook(number, batch):
        if number == at:
            action()
        return batch

    return intercepted(hook)


def intercepted(hook):
    """`feed.device_batches` whose every batch goes through `hook(number, batch) -> batch`."""
    return functools.partial(_Intercepted, hook=hook)


class _Intercepted:
    def __init__(self, iterator, placement, hook):
        self._batches = feed.DeviceBatches(iterator, placement, 2)
        self._number, self._hook = -1, hook

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._batches.close()

    def __next__(self):
        self._number += 1
        return self._hook(self._number, next(self._batches))


def send(name: str):
    """Sends the signal to this process; refuses where that would end the tests."""
    if name == "SIGTERM" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        raise AssertionError("nobody handles SIGTERM")
    os.kill(os.getpid(), signal.Signals[name])


def rows(directory) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    lines = (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("perf/")} for line in lines]


def main() -> None:
    name, at, *sys.argv[1:] = sys.argv[1:]
    feed.device_batches = cut_short(int(at), functools.partial(send, name))
    mesh_lib.make_mesh = one_device
    evaluate.evaluate_state = weight_metrics
    runpy.run_module("discovr_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
