"""How features grow with the clips seen: trains a phantom config on one device that holds the videos in its memory.

    python -m tfds_builders.echo_phantom.frames --output=VIDEOS
    python -m discovr_jax.benchmark.learning --videos=VIDEOS --output=OUT --name=NAME [--config.KEY=VALUE ...]

The step is that of `discovr_jax.main`. The loader is not: a small model takes more clips per second than cores can
read, so clips are cut from the videos on the device (whole frames, random time and stride). It may be started before
the videos are there, and compiles meanwhile.

It adds a line to OUT/rows.jsonl untrained, at each of `--milestones` clips and at the end: kNN and probe AUROC and
LVEF from the poolings `KINDS` on the test split (heads fitted on the first `--labels` training videos, their
strength chosen on validation), and the health of the run. OUT/NAME-start.npz and -end.npz hold the features,
OUT/labels.npz the ejection fractions.
"""

import argparse
import functools
import json
import pathlib
import time

import numpy as np

from discovr_jax.command_line import read_config

SPLITS = ("val", "test", "train")  # in the order of the videos
EVAL_ROWS = 200  # videos embedded at once
MOST_FRAMES = 200  # of a video of the phantom
ABNORMAL_BELOW = 50.0  # percent, as `data.abnormal_rule` of the phantom
HEALTH = (
    "loss/", "teacher/vid/entropy", "teacher/img/entropy", "features/rank", "jepa/", "phase/", "amplitude/",
    "scd/agreement",
)  # fmt: skip
KINDS = ("cls", "mean", "frame_std")  # poolings that are scored, those that the encoder has


def cut(frames, first, counts, rows, start, stride, data):
    """Clips of the videos `rows`: uint8 [b, T, S, S], frames as `data.transforms.clip_indices` chooses them."""
    import jax.numpy as jnp

    steps = jnp.floor(jnp.arange(data.num_frames) * stride[:, None] + 0.5).astype(jnp.int32)
    index = jnp.minimum(start[:, None] + steps, counts[rows][:, None] - 1)
    clips = frames[first[rows][:, None] + index]
    return clips.reshape(*index.shape, data.image_size, data.image_size)


def read(flags, count: int, size: int):
    """The videos on the device, padded to `MOST_FRAMES` each: frames uint8 [N, S * S], first frame and number of frames
    of each video; their ejection fractions; and the rows of each split, of train those that are labelled."""
    import jax.numpy as jnp

    table, frames = np.load(flags.videos / "table.npz"), np.load(flags.videos / "frames.npy", mmap_mode="r")
    padded = np.zeros((count * MOST_FRAMES, size**2), np.uint8)
    padded[: len(frames)] = frames
    counts = table["counts"]
    ranges, begin = {}, 0
    for split in SPLITS:
        videos = getattr(flags, split)
        ranges[split] = range(begin, begin + (min(videos, flags.labels) if split == "train" else videos))
        begin += videos
    return (jnp.asarray(padded), jnp.asarray(np.cumsum(counts) - counts), jnp.asarray(counts)), table["ef"], ranges


def train(flags, config) -> None:
    import jax
    import jax.numpy as jnp

    from discovr_jax.method import experiment as experiment_lib
    from discovr_jax.method import step as train_step
    from discovr_jax.models import discovr
    from discovr_jax.models.readouts import pooled

    started = time.monotonic()
    experiment = experiment_lib.make_experiment(config, flags.train)
    model, data, batch = experiment.model, config.data, config.batch_size
    longest = data.num_frames * data.stride * (1 + data.stride_jitter)
    step = experiment_lib.make_train_step(experiment, config)

    def clips(key, arrays, rows):
        jitter, when = jax.random.split(key)
        stride = data.stride * (1 + data.stride_jitter * jax.random.uniform(jitter, rows.shape, minval=-1))
        latest = jnp.floor(arrays[2][rows] - data.num_frames * stride)
        start = jnp.floor(jax.random.uniform(when, rows.shape) * (latest + 1)).astype(jnp.int32)
        return cut(*arrays, rows, start, stride, data)

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state, *arrays):
        def one(state, _):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed + 10_000), state.step), 3)
            rows = jax.random.randint(keys[0], (batch,), flags.val + flags.test, arrays[2].shape[0])
            valid = jnp.full((batch,), data.num_frames, jnp.int32)
            inputs = {"frames": clips(keys[1], arrays, rows), "num_valid": valid}
            if "other_frames" in experiment.input_shapes(batch):
                inputs |= {"other_frames": clips(keys[2], arrays, rows), "other_valid": valid}
            return step(state, inputs)

        state, metrics = jax.lax.scan(one, state, length=flags.steps_per_call)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    @jax.jit
    def embed(params, rows, share, *arrays):
        stride = jnp.full(rows.shape, float(data.stride))
        latest = jnp.floor(arrays[2][rows] - data.num_frames * stride)
        result = cut(*arrays, rows, jnp.floor(share * latest).astype(jnp.int32), stride, data)
        valid = jnp.full(rows.shape, data.num_frames, jnp.int32)
        apply = discovr.apply(model)
        tokens = apply(params, result, valid, method="encode_video")
        found = pooled(apply, params, tokens, result, valid, model.grid, 1)
        return {name: found[name] for name in KINDS if name in found}

    # Compiled before the videos are there: only their largest number of frames matters.
    count = sum(getattr(flags, split) for split in SPLITS)
    numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
    shapes = (jax.ShapeDtypeStruct((count * MOST_FRAMES, data.image_size**2), jnp.uint8), numbers, numbers)
    state = jax.jit(lambda key: train_step.init_state(model, experiment.tx, experiment.masks, key))(
        experiment_lib.initial_key(config.seed)
    )
    chunk = chunk.lower(state, *shapes).compile()
    rows = jax.ShapeDtypeStruct((EVAL_ROWS,), jnp.int32)
    embed = embed.lower(state.teacher, rows, jax.ShapeDtypeStruct((), jnp.float32), *shapes).compile()
    print(f"{flags.name}: compiled after {time.monotonic() - started:.0f} s", flush=True)
    while not (flags.videos / "complete").exists():
        time.sleep(0.5)
    arrays, ef, ranges = read(flags, count, data.image_size)
    if (shortest := int(arrays[2].min())) < longest:
        raise SystemExit(f"a video has {shortest} frames; clips need {longest:g}: lower data.stride or stride_jitter")
    efs = {split: ef[list(each)] for split, each in ranges.items()}
    np.savez(flags.output / "labels.npz", **efs)

    def features(params) -> dict[str, dict[str, np.ndarray]]:
        result = {}
        for split, each in ranges.items():
            parts = []
            for begin in range(each.start, each.stop, EVAL_ROWS):
                rows = jnp.minimum(jnp.arange(begin, begin + EVAL_ROWS), each.stop - 1)
                clips = [embed(params, rows, jnp.float32(share), *arrays) for share in (0.0, 0.5, 1.0)]
                parts.append({name: np.mean([np.asarray(clip[name]) for clip in clips], 0) for name in clips[0]})
            result[split] = {name: np.concatenate([part[name] for part in parts])[: len(each)] for name in parts[0]}
        return result

    def write(state, metrics, rate: float | None, name: str = "") -> None:
        result = features(state.teacher)
        if name:
            flat = {f"{split}_{kind}": x for split, kinds in result.items() for kind, x in kinds.items()}
            np.savez(flags.output / f"{flags.name}-{name}.npz", **flat)
        row = {"name": flags.name, "seed": config.seed, "step": int(state.step), "clips": int(state.step) * batch}
        row |= {"seconds": round(time.monotonic() - started, 1), "clips_per_second": rate and round(rate)}
        row |= {kind: scores({split: kinds[kind] for split, kinds in result.items()}, efs) for kind in result["test"]}
        row |= {key: round(float(value), 4) for key, value in metrics.items() if key.startswith(HEALTH)}
        with open(flags.output / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    write(state, {}, None, "start")
    due = sorted(flags.milestones)
    metrics, since, trained = {}, 0, 0.0
    while int(state.step) < experiment.total and time.monotonic() - started < flags.seconds:
        begin = time.monotonic()
        state, metrics = jax.block_until_ready(chunk(state, *arrays))
        if since:  # the first call compiles
            trained += time.monotonic() - begin
        since += 1
        if due and int(state.step) * batch >= due[0]:
            due.pop(0)
            write(state, metrics, None)
    rate = (since - 1) * flags.steps_per_call * batch / trained if since > 1 else None
    write(state, metrics, rate, "end")


def scores(result: dict[str, np.ndarray], efs: dict[str, np.ndarray]) -> dict[str, float]:
    """Metrics of the test split, by the heads of the evaluation."""
    from discovr_jax.evaluation.evaluators import knn, probe, regression
    from discovr_jax.evaluation.interface import Split
    from discovr_jax.evaluation.metrics import videos as metrics

    def splits(target):
        return (Split(name, result[name].astype(np.float64), target(efs[name])) for name in ("train", "val", "test"))

    abnormal, ones = (efs["test"] < ABNORMAL_BELOW).astype(np.float64), np.ones((1, len(efs["test"])))
    labels = list(splits(lambda ef: (ef < ABNORMAL_BELOW).astype(np.float64)))
    values = {
        "knn_auroc": metrics.auroc(abnormal, knn.evaluate(*labels).test, ones)[0],
        "probe_auroc": metrics.auroc(abnormal, probe.evaluate(*labels).test, ones)[0],
    }
    predicted = regression.evaluate(*splits(lambda ef: ef)).test
    values["ef_mae"] = metrics.mae(efs["test"], predicted, ones)[0]
    values["ef_r2"] = metrics.r2(efs["test"], predicted, ones)[0]
    values["rank"] = effective_rank(result["test"])
    return {name: round(float(value), 4) for name, value in values.items()}


def effective_rank(features: np.ndarray) -> float:
    """(tr C)^2 / tr(C^2) of the covariance C of features [N, D]."""
    covariance = np.cov(features.astype(np.float64).T)
    return float(np.trace(covariance) ** 2 / np.square(covariance).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="phantom:long")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--labels", type=int, default=1000, help="labelled training videos that heads are fitted on")
    parser.add_argument("--milestones", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=1e9, help="stop training after so long")
    parser.add_argument("--steps_per_call", type=int, default=20)
    parser.add_argument("--videos", type=pathlib.Path, required=True, help="of tfds_builders.echo_phantom.frames")
    for split, videos in (("train", 2000), ("val", 400), ("test", 1200)):
        parser.add_argument(f"--{split}", type=int, default=videos, help="videos, as simulated")
    flags, overrides = parser.parse_known_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    train(flags, read_config(flags.config, overrides))


if __name__ == "__main__":
    main()
