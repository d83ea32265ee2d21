"""Evaluation of a checkpoint: the trained encoder beside untrained ones and pixels, then table and report.

The same code runs at the end of training and alone (`--mode=eval`).
"""

import logging
import pathlib

import jax
from ml_collections import ConfigDict

from discovr_jax import distributed, samples, sharding, train_step, workdir
from discovr_jax import experiment as experiment_lib
from discovr_jax.checkpoint import CheckpointError, Checkpoints
from discovr_jax.data import mixture, records
from discovr_jax.models.discovr import Discovr
from discovr_jax.models.readouts import readouts

logger = logging.getLogger(__name__)


def make_embed(model: Discovr, mesh, map_side: int):
    """`embed(params, frames, num_valid) -> readouts`, jitted over the mesh; params of the teacher.

    Each process gives its rows of the batch and gets the readouts of all.
    """
    batch = sharding.batch_sharding(mesh)

    def embed(params, frames, num_valid):
        tokens = model.apply({"params": params}, frames, num_valid, method="encode_video")
        return readouts(tokens, num_valid, model.grid, map_side)

    jitted = jax.jit(embed, in_shardings=(None, batch, batch), out_shardings=sharding.replicated(mesh))

    def call(params, frames, num_valid):
        return jax.device_get(jitted(params, *sharding.place_rows((frames, num_valid), mesh)))

    return call


def evaluate_state(
    config: ConfigDict, directory, state, step: int, experiment, mesh, everything: bool | None = None
) -> dict:
    """Score a state's video teacher on `mixture.scored`; writes eval/STEP, results.json, report.html; prints a table.

    Args:
      everything: whether the evaluators run that are to run `at_end` only; None: at the last step.

    Returns:
      The content of results.json.
    """
    from discovr_jax.evaluation import extraction, features, report, runner, table

    everything = step == experiment.total if everything is None else everything
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    dataset = mixture.scored(config)
    sources = {split: mixture.open_source(config.data, dataset, split) for split in extraction.SPLITS}
    model = experiment.model
    embed = make_embed(model, mesh, config.eval.map_side)

    def encoder(params):
        params = {"video_encoder": params["video_encoder"]}
        return features.Encoder(
            lambda frames, num_valid: embed(params, frames, num_valid),
            f"{features.fingerprint(sharding.to_host(params))} {model.intensity} {model.dtype} {config.eval.map_side}",
        )

    encoders = {
        "discovr": [encoder(state.teacher)],
        "random": [encoder(untrained_teacher(experiment, seed, mesh)) for seed in _random_seeds(config)],
    }
    manifest = records.manifest_hash(sources["test"].path)
    part, parts = sharding.batch_part(mesh)
    share = features.Share(part, parts, lambda rows: sharding.gather_rows(rows, mesh), distributed.is_first())
    evaluation = runner.run(config, sources, encoders, directory, share, everything)
    seen = step * config.batch_size
    results = runner.write(
        evaluation, directory, step, config.eval.dataset, share.writes, clips_seen=seen, manifest_sha256=manifest
    )
    logger.info("evaluation of step %d on %s\n%s", step, dataset, table.metrics_table(results))
    shown = samples.of_clips(config, state, model, sources["test"], mesh)
    if not share.writes:
        return results
    path = report.write_report(
        directory,
        step,
        results,
        workdir.read_metrics(directory),
        features=evaluation.features,
        fields=evaluation.fields,
        predictions=evaluation.predictions,
        clips=shown["clips"],
        usage=shown.get("usage"),
        neighbours=samples.neighbours(results, sources, evaluation.fields),
        summary=_summary(config, experiment, step),
    )
    logger.info("report: %s", path)
    return results


def evaluate_workdir(config: ConfigDict, directory) -> dict:
    """`--mode=eval`: the newest checkpoint of a workdir.

    Raises:
      CheckpointError: there is none.
      WorkdirError: it was trained with another model; data and evaluators may be others.
    """
    workdir.compare(
        directory, experiment_lib.config_dict(config), only="model.",
        free=("model.remat", "model.dtype", "model.attention"), defaults=experiment_lib.default_config(),
    )  # fmt: skip
    if not (pathlib.Path(directory) / "checkpoints").is_dir():
        raise CheckpointError(f"--workdir={directory} holds no checkpoints: train first, or name another workdir")
    source = mixture.open_source(config.data, mixture.scored(config), "train")
    experiment = experiment_lib.make_experiment(config, len(source))
    mesh = sharding.make_mesh(config.mesh)
    checkpoints = Checkpoints(directory, read_only=True)  # training may be going on
    abstract = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
    restored = checkpoints.restore_latest(abstract)
    if restored is None:
        raise CheckpointError(f"{checkpoints.directory} holds no checkpoint: train first")
    step, state, _ = restored
    checkpoints.close()
    return evaluate_state(config, directory, state, step, experiment, mesh, everything=True)


def _summary(config: ConfigDict, experiment, step: int) -> dict[str, str]:
    """What was trained, in a few lines for the report; config.json has every setting."""
    m, data = experiment.model, config.data
    weights = ", ".join(f"{name} {value:g}" for name, value in experiment.options.weights.items() if value)
    return {
        "Training data": ", ".join(f"{name} ({weight:g})" for name, weight in mixture.weights(data).items()),
        "Training videos": data.train_filter,
        "Clips": f"{data.num_frames} frames of {data.image_size} x {data.image_size}",
        "Encoder": f"ViT, width {m.width}, {m.depth} blocks, patches of {m.patch} pixels, tubelets of {m.grid.tubelet}",
        "Loss weights": weights,
        "Clips seen": f"{step * config.batch_size} in {step} steps of {config.batch_size}",
        "Seed": str(config.seed),
    }


def _random_seeds(config: ConfigDict) -> range:
    # Apart from the seed of the run itself: the baseline is not the run's own starting point.
    return range(config.seed + 1, config.seed + 1 + config.eval.random_seeds)


def untrained_teacher(experiment, seed: int, mesh) -> dict:
    """The teachers of a fresh state, on the mesh: the "random" baseline."""

    def init(key):
        return train_step.init_state(experiment.model, experiment.tx, experiment.masks, key).teacher

    return jax.jit(init, out_shardings=sharding.replicated(mesh))(experiment_lib.initial_key(seed))
