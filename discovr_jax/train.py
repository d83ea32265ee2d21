"""The training loop. Everything it needs is built elsewhere; this file reads top to bottom."""

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import time
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax.convert import init_from
from discovr_jax.data import feed, mixture, pipeline, training_videos
from discovr_jax.losses.terms import TERMS
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.method.fidelity import option
from discovr_jax.method.schedules import should_run
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.parallel import processes
from discovr_jax.prepare import ensure_records
from discovr_jax.progress import doing
from discovr_jax.runs import collapse as collapse_lib
from discovr_jax.runs import metrics_log, workdir
from discovr_jax.runs.checkpoint import Checkpoints
from discovr_jax.runs.clock import Clock
from discovr_jax.runs.local_checkpoints import LocalCheckpoints
from discovr_jax.runs.step_watch import StepWatch
from discovr_jax.runs.workdir_copy import WorkdirCopy
from discovr_jax.trees import path_name

logger = logging.getLogger(__name__)

_FEW = 8  # batches per epoch below which a run warns


@dataclasses.dataclass
class Summary:
    """What a run ends with: the state, the last logged metrics, the evaluation (None if there was none)."""

    state: train_step.TrainState
    metrics: dict
    results: dict | None
    finished: bool


def train_and_evaluate(config: ConfigDict, directory: str, evaluate=None) -> Summary:
    """Train to the end, resuming from the newest checkpoint in `directory`.

    Args:
      config: see configs/base.py.
      directory: the workdir.
      evaluate: `(config, directory, state, step, experiment, mesh) -> results`, called as the config says; None
        for no evaluation.

    Returns:
      A Summary; `finished` is False if SIGTERM ended the run, or its last evaluation, early (state saved).

    Raises:
      RecordsError, WorkdirError, CheckpointError, WeightsError, NonFiniteError, ConfigError: each says what to do.
    """
    # Before records are looked for, or made; what the evaluation refuses, not after days of training.
    began = time.time()
    experiment_lib.check_settings(config)
    if evaluate:
        from discovr_jax.evaluation import dry_run

        dry_run.check_evaluators(config, experiment_lib.make_model(config).depth)
    with contextlib.ExitStack() as closing:
        writes = processes.is_first()
        if writes:
            closing.enter_context(workdir.locked(directory))
        preemption = closing.enter_context(processes.Preemption())
        # Build -------------------------------------------------------------------------------------------
        if writes:
            try:
                with preemption.interrupting():
                    ensure_records(config)
            except processes.Preempted:
                logger.info("SIGTERM while records were being made; the same command goes on with them")
                raise SystemExit(0) from None
        processes.wait("records")
        starting = closing.enter_context(contextlib.ExitStack())  # until the first step is compiled
        starting.enter_context(doing("starting, where the first step compiles", logger.info))
        sources = mixture.open_training(config.data)
        chosen = pipeline.training_records(sources, config.data)
        logger.info("training videos: %s", ", ".join(f"{name} {len(rows)}" for name, rows in chosen.items()))
        warn_of_few(sum(map(len, chosen.values())), config.batch_size)
        # An epoch is as many clips as there are videos to train on, so the data decide how many steps there are.
        experiment = experiment_lib.make_experiment(config, sum(map(len, chosen.values())))
        mesh = mesh_lib.make_mesh(config.mesh)
        # The part of every batch that this process feeds; those that a model axis joins feed the same.
        part, parts = mesh_lib.batch_part(mesh)
        mesh_lib.check_batch(mesh, "batch_size", config.batch_size, config.gradient_accumulation_steps)
        if evaluate:
            mesh_lib.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
        written, defaults = experiment_lib.config_dict(config), experiment_lib.default_config()
        # One process writes config.json; all compare it with their own.
        if writes:
            workdir.claim(directory, written, defaults)
            closing.enter_context(WorkdirCopy(directory, config.checkpoint.copy_to, written, defaults))
            names = training_videos.to_json(training_videos.hashed(sources, chosen, training_videos.read(directory)))
            workdir.write_atomically(pathlib.Path(directory) / training_videos.FILE, names)
        processes.wait("workdir")
        workdir.require_same_config(directory, written, defaults=defaults, claimed=True)
        abstract = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
        logger.info("state on the mesh %s", mesh_lib.placement(abstract, mesh))

        # Restore -----------------------------------------------------------------------------------------
        checkpoints = Checkpoints(directory, config.checkpoint.keep)
        closing.callback(checkpoints.close)
        local = LocalCheckpoints(directory, config.checkpoint.local_dir, config.checkpoint.local_seconds)
        closing.callback(local.close)
        restored = checkpoints.restore_latest(abstract, lambda steps: local.restore_newer(steps, abstract))
        place = local.directory if local.restored else checkpoints.directory
        if not local.restored:
            local.clear()
        if restored is None:
            state, first = init_state(experiment, mesh, config.seed), 0
            if config.init_from:
                state = init_from.initialise_from(state, config)
        else:
            first, state, meta = restored
            differ = workdir.differences(meta["config"], written, defaults=defaults)
            workdir.refuse(f"step {first} of {place}", differ)
            logger.info("resumed from step %d of %s", first, place)
        # The data position is a function of the step: a run that resumes gets the batches that it would have had.
        batches = pipeline.train_batches(
            sources,
            config,
            crop=option(config, "data.crop"),
            second_clip=experiment.views.positive == "other_beat",
            start_step=first,
            process_index=part,
            process_count=parts,
        )
        closing.callback(batches.close)
        position = batches.get_state()
        # A checkpoint of an earlier version says less of its data; what it says must agree.
        if restored is not None and meta["data"] != {name: position.get(name) for name in meta["data"]}:
            raise workdir.WorkdirError(
                f"step {first} of {place} was trained on other data or another order: saved "
                f"{meta['data']}, now {position}. Restore the records, or start in another --workdir"
            )
        rows, so_far = metrics_log.read_metrics(directory), restored[2].get("clock") if restored else None
        clock = Clock(config.batch_size, first, experiment.total, rows, so_far, began)
        log = metrics_log.MetricsLog(
            directory, first, writes, config.log.writers, config.log.project, written
        )
        closing.callback(log.close)
        # Compiled when first called. It takes over the state, which must not be read after the call.
        step_fn = experiment_lib.jit_train_step(experiment, config, mesh)

        # Loop --------------------------------------------------------------------------------------------
        # Order: log -> save -> evaluate the old state -> next batch -> step. So a checkpoint's parameters and
        # data position always agree, and its line in metrics.jsonl is written before it.
        step, total, results, metrics = first, experiment.total, None, {}
        inputs_of_step = tuple(experiment.input_shapes(1))
        collapse = collapse_lib.Watch(config.model.num_prototypes, config.dino.centering)
        watch = StepWatch(
            directory, state, config.max_bad_steps, list(chosen), checkpoints, position, written, writes
        )
        closing.callback(watch.close)

        def save(step, state, where=checkpoints):
            jax.block_until_ready(state)  # steps under way are steps, no saving
            so_far = clock.so_far(step)
            with clock.paused():
                where.save(step, state, position | {"next_step": step}, written, so_far)
            local.reset_timer()

        if first < total:
            logger.info("training from step %d to %d; the first step compiles, which takes a while", first, total)
        with feed.device_batches(batches, mesh_lib.batch_sharding(mesh)) as stream:
            while True:
                # All processes stop at the same step: one that left alone would leave the others in a collective.
                stop = preemption.requested(step)
                if metrics and (should_run(step, experiment.log_every, total) or stop):
                    row = {name: float(value) for name, value in jax.device_get(metrics).items()}
                    row |= clock.read(step)
                    _report(step, total, row, experiment.options.weights)
                    collapse.look(step, row)
                    if should_run(step, experiment.log_every, total):
                        log.write(step, row)
                due = should_run(step, experiment.checkpoint_every, total)
                unsaved = step > first or local.restored  # in the workdir
                if unsaved and (due or stop):
                    save(step, state)
                elif step > first and local.due:
                    save(step, state, local)
                # After the checkpoint: what fails in a long evaluation costs no training.
                at_end = step == total and config.eval.at_end
                periodic = _periodic(step, experiment.eval_every)
                periodic = periodic and not processes.gathered(log.has(step, "eval/"))[0]
                unscored = bool(evaluate) and (at_end or periodic)
                if unscored and not stop:
                    if at_end:
                        checkpoints.wait()
                    logger.info("evaluating step %d", step)
                    try:
                        with clock.paused(), preemption.interrupting():
                            results = evaluate(config, directory, state, step, experiment, mesh)
                        log.write(step, _eval_metrics(results))
                        unscored = False
                    except processes.Preempted:
                        stop = True
                        if unsaved and not due:
                            save(step, state)
                if step == total or stop:
                    break
                # Implicit transfers are errors within the step: one would make the host wait for the device.
                batch = next(stream)
                inputs = {name: batch[name] for name in inputs_of_step}
                with jax.transfer_guard("disallow"):
                    state, metrics = step_fn(state, inputs)
                starting.close()
                watch.look(step, state, metrics, batch)
                step += 1
                clock.tick(step)
        checkpoints.wait()
        local.remove()
        watch.finish(state)
        finished = step == total and not (stop and unscored)
        # Two runs are equal exactly if their last lines are.
        if finished:
            log.write(step, {"state_sha256": state_sha256(state)})
            if results is None and writes:  # an evaluation says it too
                rows = metrics_log.read_metrics(directory)
                health = collapse_lib.health(rows, config.model.num_prototypes, config.dino.centering)
                for line in collapse_lib.told(health):
                    logger.info(line)
        else:
            logger.warning("stopped at step %d of %d on SIGTERM; the same command resumes", step, total)
        return Summary(state, metrics, results, finished)


def init_state(experiment: experiment_lib.Experiment, mesh, seed: int) -> train_step.TrainState:
    """A fresh state, built in place on the mesh."""

    def init(key):
        return train_step.init_state(experiment.model, experiment.tx, experiment.masks, key)

    key = experiment_lib.initial_key(seed)
    places = mesh_lib.shardings(jax.eval_shape(init, key), mesh)
    return jax.jit(init, out_shardings=places)(key)


def state_sha256(state: train_step.TrainState) -> str:
    """Hash over parameters, teachers, optimizer and centres: equal exactly if they are bit for bit."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(path_name(path).encode())
        digest.update(np.ascontiguousarray(mesh_lib.to_host(leaf)).tobytes())
    return digest.hexdigest()


def _periodic(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _eval_metrics(results: dict) -> dict:
    """The trained encoder's metrics of an evaluation, for metrics.jsonl."""
    trained = results["encoders"].get("discovr", {})
    return {f"eval/{name}": metric["value"] for name, metric in trained.items()}


def warn_of_few(videos: int, batch_size: int) -> None:
    """Says in the log that there are few training videos for so many clips per step."""
    if videos >= _FEW * batch_size:
        return
    repeated = "each batch holds a video several times" if videos < batch_size else "batches hold much the same videos"
    logger.warning(
        "few training videos: %d, with %d clips per step, are %.1f batches per epoch, so %s. The run goes on; to learn "
        "from it, prepare more videos or give a smaller --config.batch_size (%d batches per epoch or more)",
        *(videos, batch_size, videos / batch_size, repeated, _FEW),
    )


def loss_terms(row: Mapping[str, float], weights: Mapping[str, float]) -> str:
    """The terms of a row of metrics for the log, each with its weight if that is not 1, so that they add up.

    >>> loss_terms({"loss/scd": 6.872, "loss/amplitude": 0.225}, {"scd": 1.0, "amplitude": 3.0})
    'scd 6.872 amplitude 3 x 0.225'
    """
    factors = {name: "" if weight == 1 else f"{weight:g} x " for name, weight in weights.items()}
    return " ".join(f"{name} {factors[name]}{row[f'loss/{name}']:.3f}" for name in TERMS if f"loss/{name}" in row)


def _report(step: int, total: int, row: dict, weights: Mapping[str, float]) -> None:
    minutes, seconds = divmod(int(row["perf/eta_seconds"]), 60)
    logger.info(
        "step %d/%d  loss %.4f (%s)  grad %.2f  %.1f clips/s  ETA %d:%02d",
        *(step, total, row["loss/total"], loss_terms(row, weights)),
        *(row["optim/grad_norm"], row["perf/clips_per_second"], minutes, seconds),
    )
