"""When does DINO's teacher become uniform? Trains one branch alone and writes how far its outputs differ between clips.

    python -m tfds_builders.echo_phantom.frames --output=VIDEOS --train=400 --val=4 --test=4
    python examples/law_of_collapse.py --videos=VIDEOS --output=rows.jsonl [--ratios 0.9 0.5] [--temperatures 0.02]
    python docs/images/collapse.py rows.jsonl

The law, for targets near uniform: the teacher amplifies differences by tau_s / tau_t, the student returns the share rho
of them that its masked view predicts, and the teacher follows it by 1 - m per step. So differences grow by
(1 - m) (rho tau_s / tau_t - 1) per step, and die out where rho < tau_t / tau_s.

One line per run: mask ratio, tau_t, tau_s, m, and every 20 steps: step; standard deviation of the teacher's outputs
about their mean over frames; rho, here the squared correlation of student and teacher; and ln K - H. They are of the
same 256 frames each time, which are not trained on.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.configs import phantom
from discovr_jax.losses import dino, monitors
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as step_lib

EVERY, HELD_OUT, BATCH = 20, 8, 8
TERMS = ("vid", "img", "scd", "phase", "amplitude")


def config_of(ratio: float, temperature: float, steps: int):
    """`phantom:long`, but L_img alone, views that differ in masks alone, and nothing that changes on the way."""
    c = phantom.get_config("long")
    c.batch_size, c.duration = BATCH, f"{steps} steps"
    for name in TERMS:
        c.loss[name] = 1.0 if name == "img" else 0.0
    c.views.crop, c.views.gamma, c.views.gain, c.views.attenuation, c.views.noise = 1.0, 0.0, 0.0, 0.0, 0.0
    c.mask.image_ratio = ratio
    c.dino.teacher_temperature = (temperature, temperature)
    c.dino.centering, c.dino.center_momentum = "mean", 0.9
    c.optim.warmup = "0 steps"
    return c


class Clips:
    """Random clips of the videos of `tfds_builders.echo_phantom.frames`, as the config's loader would cut them."""

    def __init__(self, videos: pathlib.Path):
        self._frames = np.load(videos / "frames.npy", mmap_mode="r")
        self._counts = np.load(videos / "table.npz")["counts"]
        self._first = np.cumsum(self._counts) - self._counts

    def batch(self, data, seed: int, rows: range | None = None) -> dict[str, jax.Array]:
        """Clips of `rows`, or of `BATCH` random ones of all but the first `HELD_OUT` videos."""
        draw = np.random.default_rng(seed)
        chosen = draw.integers(HELD_OUT, len(self._counts), BATCH) if rows is None else rows
        clips = []
        for row in chosen:
            stride = data.stride * (1 + data.stride_jitter * draw.uniform(-1, 1))
            start = draw.integers(0, int(self._counts[row] - data.num_frames * stride) + 1)
            times = start + np.floor(np.arange(data.num_frames) * stride + 0.5).astype(int)
            clip = self._frames[self._first[row] + np.minimum(times, self._counts[row] - 1)]
            clips.append(clip.reshape(-1, data.image_size, data.image_size))
        return {"frames": jnp.asarray(np.stack(clips)), "num_valid": jnp.full(len(clips), data.num_frames, jnp.int32)}


def run(clips: Clips, ratio: float, temperature: float, steps: int) -> dict:
    config = config_of(ratio, temperature, steps)
    experiment = experiment_lib.make_experiment(config, len(clips._counts))
    model, step = experiment.model, jax.jit(experiment_lib.make_train_step(experiment, config))

    @jax.jit
    def outputs(state, batch, key):
        masks = step_lib.draw_masks(key, model, experiment.masks, len(batch["frames"]))
        teacher = model.apply({"params": state.teacher}, batch["frames"], batch["num_valid"], method="teacher")
        student = model.apply({"params": state.params}, **batch, masks=masks, method="student")
        return teacher.image_logits, student.image_logits[:, 0]

    held_out = [clips.batch(config.data, seed, range(HELD_OUT)) for seed in (1, 2)]

    def look(state) -> tuple[float, float, float]:
        seen = [outputs(state, batch, jax.random.key(number)) for number, batch in enumerate(held_out)]
        teacher, student = (np.concatenate([np.asarray(pair[side], np.float64) for pair in seen]) for side in (0, 1))
        a, b = teacher - teacher.mean(0), student - student.mean(0)
        targets = dino.teacher_targets(jnp.asarray(a), jnp.zeros(a.shape[1]), temperature, "mean")
        gap = np.log(a.shape[1]) - float(monitors.entropy(targets).mean())
        rho = (a * b).sum() ** 2 / (np.square(a).sum() * np.square(b).sum())
        return float(np.sqrt(np.square(a).mean())), float(rho), gap

    fresh = jax.jit(lambda key: step_lib.init_state(model, experiment.tx, experiment.masks, key))
    state = fresh(experiment_lib.initial_key(0))
    rows = []
    for number in range(steps + 1):
        if number % EVERY == 0:
            rows.append([number, *(round(value, 6) for value in look(state))])
        if number < steps:
            state, _ = step(state, clips.batch(config.data, 1000 + number))
    momentum, student_temperature = config.ema.momentum[0], config.dino.student_temperature
    return {"ratio": ratio, "tau_t": temperature, "tau_s": student_temperature, "m": momentum, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.9, 0.5], help="share that is masked")
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.01, 0.02, 0.04, 0.08], help="teacher's")
    parser.add_argument("--steps", type=int, default=300)
    flags = parser.parse_args()
    clips = Clips(flags.videos)
    for ratio in flags.ratios:
        for temperature in flags.temperatures:
            row = run(clips, ratio, temperature, flags.steps)
            with open(flags.output, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            _, _, rho, gap = row["rows"][-1]
            print(f"mask {ratio}, tau_t {temperature}: rho {rho:.2f}, ln K - H {gap:.3f} at the end", flush=True)


if __name__ == "__main__":
    main()
