"""Evaluation of a checkpoint: the trained encoder beside untrained ones and pixels, then table and report.

The same code runs at the end of training and alone (`--mode=eval`).
"""

import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from discovr_jax import trees
from discovr_jax.data import frame_rates, manifest, mixture, training_videos
from discovr_jax.evaluation import samples
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.models import discovr, readouts
from discovr_jax.models.discovr import Discovr
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.parallel import processes
from discovr_jax.progress import doing
from discovr_jax.runs import collapse, metrics_log, workdir
from discovr_jax.runs.checkpoint import CheckpointError, Checkpoints
from discovr_jax.trees import path_name

logger = logging.getLogger(__name__)


def make_embed(model: Discovr, mesh, map_side: int):
    """`embed(params, frames, num_valid) -> readouts`, jitted over the mesh; params as of `scored`.

    Each process gives its rows of the batch and gets the readouts of all.
    """
    batch = mesh_lib.batch_sharding(mesh)

    def embed(params, frames, num_valid):
        tokens = discovr.apply(model)(params, frames, num_valid, method="encode_video")
        return readouts.pooled(discovr.apply(model), params, tokens, frames, num_valid, model.grid, map_side)

    jitted = jax.jit(embed, in_shardings=(None, batch, batch), out_shardings=mesh_lib.replicated(mesh))

    def call(params, frames, num_valid):
        return jax.device_get(jitted(params, *mesh_lib.place_rows((frames, num_valid), mesh)))

    return call


def make_token_encoder(model: Discovr, mesh):
    """`encoder(params) -> tokens.TokenEncoder` of a teacher's params, jitted over the mesh as `make_embed`."""
    from discovr_jax.evaluation.features import tokens

    batch = mesh_lib.batch_sharding(mesh)
    places = {"out_shardings": mesh_lib.replicated(mesh)}

    def tokens_of(params, frames, num_valid):
        return model.apply({"params": params}, frames, num_valid, method="encode_video")

    def of_clip(params, frames, num_valid):
        return readouts.over_time(tokens_of(params, frames, num_valid), num_valid, model.grid)

    def of_frame(params, frames, num_valid, position):
        grid = model.grid
        # The cache keeps float16; the CPU backend has none of its own to compute in.
        by_time = tokens_of(params, frames, num_valid)[:, 1:].astype(jnp.float16)
        by_time = by_time.reshape(len(frames), grid.time, grid.num_positions, -1)
        return jnp.take_along_axis(by_time, (position // grid.tubelet)[:, None, None, None], axis=1)[:, 0]

    clips = jax.jit(of_clip, in_shardings=(None, batch, batch), **places)
    frames = jax.jit(of_frame, in_shardings=(None, batch, batch, batch), **places)

    def encoder(params, key: str):
        def call(jitted):
            return lambda *arrays: jax.device_get(jitted(params, *mesh_lib.place_rows(arrays, mesh)))

        return tokens.TokenEncoder(call(frames), call(clips), key, model.grid, model.patch, model.width)

    return encoder


def make_tuner(model: Discovr, mesh, map_side: int, teachers: dict):
    """A `finetune.Tuner`: the encoder lies on the mesh as in training, its head whole on every device."""
    from discovr_jax.evaluation.evaluators import finetune

    def shardings(tree):
        leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        by_rule = mesh_lib.shardings({name: leaf for name, leaf in leaves.items() if finetune.HEAD not in name}, mesh)
        return jax.tree_util.tree_map_with_path(
            lambda path, _: by_rule.get(path_name(path), mesh_lib.replicated(mesh)), tree
        )

    return finetune.Tuner(
        model, map_side, teachers, partial(mesh_lib.place_rows, mesh=mesh), shardings, mesh_lib.replicated(mesh)
    )


@doing("evaluation", logger.info)
def evaluate_state(
    config: ConfigDict,
    directory,
    state,
    step: int,
    experiment,
    mesh,
    everything: bool | None = None,
    outside: Mapping[str, Sequence[str]] | None = None,
) -> dict:
    """Score a state on `mixture.scored`; writes eval/STEP, results.json, report.html; prints a table.

    Args:
      everything: whether the evaluators run that are to run `at_end` only; None: at the last step.
      outside: {name: files} of other encoders' features, scored beside (`features.outside`).

    Returns:
      The content of results.json.

    Raises:
      TableError: a file of features that does not fit the records.
    """
    from discovr_jax.evaluation import results_io, runner, subgroups, token_runner
    from discovr_jax.evaluation.cross_validation import of_evaluation
    from discovr_jax.evaluation.features import cache as feature_cache
    from discovr_jax.evaluation.features import extract as feature_extraction
    from discovr_jax.evaluation.features import tokens
    from discovr_jax.evaluation.report import cross_validation as tables_of_folds
    from discovr_jax.evaluation.report import report, table

    everything = step == experiment.total if everything is None else everything
    mesh_lib.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    dataset = mixture.scored(config)
    sources = {split: mixture.open_source(config.data, dataset, split) for split in feature_extraction.SPLITS}
    videos = ", ".join(f"{len(source)} {split}" for split, source in sources.items())
    logger.info("scoring step %d: %s videos of %s", step, videos, dataset)
    model = experiment.model
    map_side = config.eval.map_side
    embed, token_encoder = make_embed(model, mesh, map_side), make_token_encoder(model, mesh)
    untrained = untrained_weights(experiment, _random_seeds(config), mesh, config.eval.readouts)
    weights = {"discovr": [scored(state, config.eval.readouts)]}
    if config.eval.random_seeds:
        weights["random"] = list(untrained)
    teachers = {name: [{"video_encoder": p["video_encoder"]} for p in group] for name, group in weights.items()}

    def fingerprint(tree):
        return trees.fingerprint(mesh_lib.to_host(tree))

    # What changes features without changing parameters. (Without motion, as keys always were: caches stay good.)
    read_as = f"{model.input_normalisation} {model.dtype}" + (f" {model.motion}" if model.motion != "none" else "")
    keys = {name: [f"{fingerprint(p)} {read_as}" for p in group] for name, group in teachers.items()}

    def of_all(params, make):
        return {
            name: [make(each, key) for each, key in zip(group, keys[name], strict=True)]
            for name, group in params.items()
        }

    def encoder(params, key):
        others = "".join(f" {fingerprint(params[name])}" for name in sorted(params) if name != "video_encoder")
        return feature_cache.FeatureEncoder(partial(embed, params), f"{key} {map_side}{others}")

    encoders = of_all(weights, encoder)
    digest = manifest.sha256(sources["test"].path)
    trained = training_videos.read(directory)

    def trained_on(split):
        return training_videos.among_test(trained, dataset, sources[split])

    part, parts = mesh_lib.batch_part(mesh)
    share = feature_cache.Share(
        part, parts, lambda rows: mesh_lib.gather_rows(rows, mesh), processes.is_first(), processes.on_any
    )
    evaluation = runner.run_evaluators(config, sources, encoders, directory, share, everything, outside)
    context = tokens.TokenContext(
        config,
        sources,
        evaluation.fields,
        of_all(teachers, token_encoder),
        pathlib.Path(directory) / "eval" / "features",
        share,
        make_tuner(model, mesh, map_side, {name: group[0] for name, group in teachers.items() if group}),
        {**encoders, "pixels": [feature_extraction.pixels(share)]},
    )
    pictures = token_runner.run_token_evaluators(evaluation, runner.chosen(config, everything), context)
    folds = of_evaluation.add(evaluation, config, trained_on) if everything else {}
    if everything:
        subgroups.add(evaluation, config)
    # How the studied encoder's features were made: `load_encoder` makes the same.
    how = {
        "clip": {key: config.data[key] for key in feature_extraction.CLIP_KEYS},
        "dtype": config.model.dtype,
        "mean_lengths": feature_cache.mean_lengths(evaluation.features["discovr"][0]["train"]),
    }
    # At the end only: they hold the features of all training videos.
    heads = _keep_heads(config, directory, step, weights["discovr"][0], evaluation, how, share) if everything else {}
    results = runner.write(
        evaluation, directory, step, config.eval.dataset, share.writes,
        clips_seen=step * config.batch_size, manifest_sha256=digest, trained_on=trained_on("test"), features=how,
        **heads,
    )  # fmt: skip
    for name, text in folds.items() if share.writes else ():
        results_io.write_text(runner.results_dir(directory, step, config.eval.dataset) / name, text)
    rows = metrics_log.read_metrics(directory) if share.writes else []
    until = [row for row in rows if row["step"] <= step]
    health = collapse.health(until, config.model.num_prototypes, config.dino.centering)
    told = [table.metrics_table(results, str(directory)), *tables_of_folds.told(results), *collapse.told(health)]
    logger.info("evaluation of step %d on %s\n%s", step, dataset, "\n".join(told))
    logger.info("drawing the report")
    shown = samples.of_clips(config, state, model, sources["test"], mesh)
    if not share.writes:
        return results
    path = report.write_report(
        directory,
        step,
        results,
        rows,
        features=evaluation.features,
        fields=evaluation.fields,
        predictions=evaluation.predictions,
        clips=shown["clips"],
        overlays=[picture for each in pictures.values() for picture in each],
        usage=shown.get("usage"),
        neighbours=samples.neighbours(results, sources, evaluation.fields),
        summary=_summary(config, experiment, step),
        health=health,
    )
    logger.info("report: %s", path)
    return results


def _keep_heads(config: ConfigDict, directory, step: int, params: dict, evaluation, how: dict, share) -> dict:
    """The heads beside results.json (`fitted_heads`), and their entry in it; `how`: its "features"."""
    from discovr_jax.evaluation import fitted_heads, runner

    path = runner.results_dir(directory, step, config.eval.dataset) / fitted_heads.FILE
    entry = fitted_heads.write(
        evaluation,
        path,
        share.writes,
        step=int(step),
        dataset=evaluation.results["dataset"],
        label_rule=evaluation.results["label_rule"],
        weights_sha256={name: trees.fingerprint(mesh_lib.to_host(tree)) for name, tree in params.items()},
        preprocessing={
            **how["clip"],
            "dtype": how["dtype"],
            "mean_lengths": how["mean_lengths"],
            "clips": config.eval.clips,
            "map_side": config.eval.map_side,
            "batch_size": config.eval.batch_size,
        },
    )
    for part, found in entry["intervals"].items():
        if (held := found["test_coverage"])["low"] is not None:
            logger.info(
                "prediction interval of %s (nominal %.0f %%): +- %.3g, holds the truth of %.0f %% [%.0f, %.0f] of the "
                "test videos", part, 100 * found["nominal"], found["half_width"],
                *(100 * held[name] for name in ("value", "low", "high")),
            )  # fmt: skip
    return {"heads": entry}


@doing("opening the newest checkpoint", logger.info)
def evaluate_workdir(config: ConfigDict, directory, features: Sequence[str] = ()) -> dict:
    """`--mode=eval`: the newest checkpoint of a workdir.

    Args:
      features: NAME=FILE.parquet, or NAME=A.parquet+B.parquet for seeds: other encoders, scored beside.

    Raises:
      TableError: a file of features that does not fit the records.
      CheckpointError: there is none.
      WorkdirError: it was trained with another model; data and evaluators may be others (of other clips a line warns).
    """
    from discovr_jax.evaluation.features import extract as feature_extraction
    from discovr_jax.evaluation.features import outside as outside_features

    experiment_lib.check_settings(config)
    files = outside_features.parse(features)
    given, defaults = experiment_lib.config_dict(config), experiment_lib.default_config()
    free = ("model.remat", "model.dtype", "model.attention")
    workdir.require_same_config(directory, given, only="model.", free=free, defaults=defaults)
    clips = tuple(f"data.{key}" for key in feature_extraction.CLIP_KEYS)
    for line in workdir.changes(directory, given, only=clips, free=(), defaults=defaults):
        logger.warning("the encoder was trained on other clips than it is scored on: %s", line)
    if not (pathlib.Path(directory) / "checkpoints").is_dir():
        raise CheckpointError(f"--workdir={directory} holds no checkpoints: train first, or name another workdir")
    source = mixture.open_source(config.data, mixture.scored(config), "train")
    experiment = experiment_lib.make_experiment(config, len(source))
    mesh = mesh_lib.make_mesh(config.mesh)
    checkpoints = Checkpoints(directory, read_only=True)  # training may be going on
    abstract = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
    restored = checkpoints.restore_latest(abstract)
    if restored is None:
        raise CheckpointError(f"{checkpoints.directory} holds no checkpoint: train first")
    step, state, meta = restored
    checkpoints.close()
    trained = experiment_lib.saved_config(meta["config"]).data
    trained_fps = frame_rates.of_clips(trained, meta["data"].get(frame_rates.KEY))
    if line := frame_rates.of_others(trained_fps, config.data, source, mixture.scored(config)):
        logger.warning("%s", line)
    return evaluate_state(config, directory, state, step, experiment, mesh, everything=True, outside=files)


def _summary(config: ConfigDict, experiment, step: int) -> dict[str, str]:
    """What was trained, in a few lines for the report; config.json has every setting."""
    m, data = experiment.model, config.data
    weights = ", ".join(f"{name} {value:g}" for name, value in experiment.options.weights.items() if value)
    return {
        "Training data": _training_data(data),
        "Training videos": data.train_filter,
        "Clips": f"{data.num_frames} frames of {data.image_size} x {data.image_size}",
        "Encoder": f"ViT, width {m.width}, {m.depth} blocks, patches of {m.patch} pixels, tubelets of {m.grid.tubelet}",
        "Loss weights": weights,
        "Clips seen": f"{step * config.batch_size} in {step} steps of {config.batch_size}",
        "Seed": str(config.seed),
    }


def _training_data(data: ConfigDict) -> str:
    """Datasets, of several with their weights. A phantom's clips go by the dataset whose layout they have."""
    weights = mixture.weights(data)
    names = ", ".join(name if len(weights) == 1 else f"{name} ({weight:g})" for name, weight in weights.items())
    simulated = any(data.simulate[split] for split in ("train", "val", "test"))
    return f"simulated hearts, in the layout of {names}" if simulated else names


def _random_seeds(config: ConfigDict) -> range:
    # Apart from the seed of the run itself: the baseline is not the run's own starting point.
    return range(config.seed + 1, config.seed + 1 + config.eval.random_seeds)


def scored(state: train_step.TrainState, names: Sequence[str]) -> dict:
    """The parameters that evaluation reads: the teachers', and of the decoder, which has no teacher, its own.

    Args:
      names: of readouts; image encoder and decoder are there if one is theirs and they were trained.
    """
    params = {"video_encoder": state.teacher["video_encoder"]}
    for module in sorted(readouts.branches(names)):
        trees_of_it = state.teacher if module in state.teacher else state.params
        if module in trees_of_it:
            params[module] = trees_of_it[module]
        else:
            asked = [name for name in names if module in readouts.branches([name])]
            logger.warning("readouts %s are left out: no %s was trained", ", ".join(asked), module.replace("_", " "))
    return params


def untrained_weights(experiment, seeds: Iterable[int], mesh, names: Sequence[str]) -> Iterator[dict]:
    """What is `scored` of fresh states, on the mesh, one after another: the "random" baseline."""

    def init(key):
        return scored(train_step.init_state(experiment.model, experiment.tx, experiment.masks, key), names)

    jitted = jax.jit(init, out_shardings=mesh_lib.replicated(mesh))  # traced once for all
    for seed in seeds:
        yield jitted(experiment_lib.initial_key(seed))
