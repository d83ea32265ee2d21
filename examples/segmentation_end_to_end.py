"""Encoder and decoder head of the segmentation, trained together on the masks: from scratch, or from a pretrained run.

    python examples/segmentation_end_to_end.py --config=configs/camus.py:small --workdir=runs/camus --output=scratch.npz
    python examples/segmentation_end_to_end.py ... --pretrained --output=tuned.npz
    python examples/segmentation_end_to_end.py --compare scratch.npz tuned.npz

The baseline of a frozen encoder: what the labels alone teach the same network. Same frames, clips, head, loss and
choice on validation Dice as `eval.evaluators.segmentation`; --compare prints metrics of each file, and differences,
with 95 % bootstrap intervals over patients.
"""

import argparse
import itertools
import pathlib
import sys

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from discovr_jax import command_line
from discovr_jax.data import mixture, pipeline
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import heads, mask_ef, segmentation
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import tokens
from discovr_jax.evaluation.metrics import bootstrap
from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.evaluation.metrics import videos as video_metrics
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.runs import checkpoint


class Segmenter(nn.Module):
    """Clips of a labelled frame [B, T, S, S], uint8, and its tubelet [B] -> logits [B, S, S, classes]."""

    model: nn.Module
    head: nn.Module

    @nn.compact
    def __call__(self, inputs):
        frames, num_valid, tubelet = inputs
        grid = self.model.grid
        encoded = self.model.encode_video(frames, num_valid)[:, 1:]
        by_time = encoded.reshape(len(frames), grid.time, grid.num_positions, -1)
        return self.head(jnp.take_along_axis(by_time, tubelet[:, None, None, None], axis=1)[:, 0])


def fit(segmenter: Segmenter, inputs, covered: np.ndarray, score, given: argparse.Namespace, start: dict):
    """AdamW with a warm-up and a cosine; the parameters of the best validation score, looked at every 100 steps."""
    key = jax.random.key(given.seed)
    params = jax.jit(segmenter.init)(key, jax.tree.map(lambda x: x[:1], inputs))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    params = flax.traverse_util.unflatten_dict(flat | start, sep="/")
    rate = optax.warmup_cosine_decay_schedule(0.0, given.learning_rate, given.steps // 10, given.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.05))

    @jax.jit
    def step(params, state, number):
        chosen = jax.random.permutation(jax.random.fold_in(key, number), len(covered))[: given.batch]
        some, wanted = jax.tree.map(lambda x: x[chosen], (inputs, covered))
        grads = jax.grad(lambda p: segmentation.cross_entropy(segmenter.apply(p, some), wanted))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    inputs, covered = jax.tree.map(jnp.asarray, (inputs, covered))
    state, best = jax.jit(optimizer.init)(params), (-np.inf, params, 0)
    for number in range(given.steps):
        params, state = step(params, state, number)
        if (number + 1) % 100 == 0 or number + 1 == given.steps:
            found = score(params)
            print(f"step {number + 1}/{given.steps}: validation Dice {found:.4f}", flush=True)
            best = max(best, (found, params, number + 1), key=lambda each: each[0])
    return best


def clips(config, source, frames: tokens.Labelled, tubelet: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A clip that shows each labelled frame: uint8 [N, T, S, S], int32 [N] real frames, int32 [N] its tubelet."""
    rows = list(zip(frames.record.tolist(), frames.frame.tolist(), strict=True))
    size = config.eval.batch_size
    with pipeline.labelled_batches(source, config, rows, tubelet=tubelet, batch_size=size) as loader:
        batches = list(loader)
    names = ("frames", "num_valid", "position")
    shown, num_valid, position = (np.concatenate([each[name] for each in batches])[: len(rows)] for name in names)
    return shown, num_valid, position // tubelet


def run(config, given: argparse.Namespace) -> None:
    """Writes {metric: [test frames], "patient": [test frames]} of the step with the best validation Dice."""
    dataset = mixture.scored(config)
    sources = {split: mixture.open_source(config.data, dataset, split) for split in feature_extraction.SPLITS}
    fields = feature_extraction.read_fields(sources, config, dataset)
    directory = given.workdir / "eval" / "features"
    context = tokens.TokenContext(config, sources, fields, {}, directory, feature_cache.ALONE)
    frames = {split: tokens.labelled(context, split) for split in feature_extraction.SPLITS}
    model = experiment_lib.make_experiment(config, len(sources["train"])).model
    inputs = {split: clips(config, sources[split], each, model.grid.tubelet) for split, each in frames.items()}
    classes = [int(one) for one in np.unique(frames["train"].masks) if one]
    head = segmentation.DecoderHead(model.grid.rows, model.grid.cols, model.patch, 1 + len(classes))
    segmenter = Segmenter(model, head)

    def maps(params, split):
        size = sources[split].frame_size
        return segmentation.class_maps(segmenter, params, inputs[split], classes, size, given.batch)

    def score(params):
        drawn = maps(params, "val")
        return heads.mean_score([mask_metrics.dice(frames["val"].masks == one, drawn == one) for one in classes])

    start, teacher = {}, "teacher/video_encoder"
    if given.pretrained:
        arrays, _ = checkpoint.read_arrays(checkpoint.newest_step(given.workdir), lambda name: name.startswith(teacher))
        start = {name.replace("teacher", "params/model", 1): array for name, array in arrays.items()}
    covered = segmentation.shares(frames["train"].masks, classes, model.grid.rows * model.patch)
    _, params, number = fit(segmenter, inputs["train"], covered, score, given, start)
    val, test, cavity = maps(params, "val"), maps(params, "test"), segmentation.CAVITY
    line = mask_ef.calibration(frames["val"], frames["val"].masks == cavity, val == cavity)
    found = segmentation.measure(frames["test"], test, classes, line)
    patients = results_lib.patients_of(fields["test"])[frames["test"].record]
    patients = np.unique(patients, return_inverse=True)[1]  # numbers: no patient is named in the file
    np.savez(given.output, patient=patients, steps=number, **found)


def compare(files: list[pathlib.Path]) -> None:
    """Prints the mean of each metric of each file, and differences of every two, over the same resamples."""
    tables = [dict(np.load(file)) for file in files]
    of = tables[0]["patient"]
    weights, patients = bootstrap.weights_of(of), len(np.unique(of))
    for metric in [name for name in segmentation.METRICS if all(name in table for table in tables)]:
        made = [bootstrap.distribution(video_metrics.mean, of, table[metric], weights) for table in tables]
        texts = [f"{file.stem} {values[0]:.3f}" for file, values in zip(files, made, strict=True)]
        for one, two in itertools.combinations(range(len(files)), 2):
            found = bootstrap.interval(made[two] - made[one], patients)
            name = f"{files[two].stem} - {files[one].stem}"
            texts.append(f"{name} {found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})")
        print(f"{metric}: {'; '.join(texts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="of the pretrained run; --config.KEY=VALUE changes it")
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="NAME.npz, metrics of each test frame")
    parser.add_argument("--pretrained", action="store_true", help="begin with the workdir's video teacher")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", type=pathlib.Path, nargs="+", help="files of --output")
    given, overrides = parser.parse_known_args()
    if given.compare:
        return compare(given.compare)
    if not (given.config and given.workdir and given.output):
        sys.exit("error: --config, --workdir and --output are needed, or --compare")
    return run(command_line.read_config(given.config, overrides), given)


if __name__ == "__main__":
    main()
