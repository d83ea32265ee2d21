"""Measures what ridges on simple features explain of the EF: neither all nor nothing.

python -m tfds_builders.echo_phantom.quality --train 600 --test 300 --seed 7
"""

import argparse
import dataclasses
import io
import multiprocessing
import os

import cv2
import numpy as np

from discovr_jax.evaluation.features import pixels as pixel_baseline
from tfds_builders.echo_phantom import files, measure
from tfds_builders.echo_phantom.layout_echonet_dynamic import simulate_one


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is measured of one clip, as a reader of its AVI sees it."""

    ef: float  # percent
    mask_ef: float  # percent, from nothing but the true masks of the labelled beat
    pixels: dict[str, np.ndarray]  # the pixel baseline's features (`pixels.NAMES`), mean over three clips
    nuisance: np.ndarray  # float [6]: brightness, ED area, heart rate, fps, frame count, file size
    mean_frame: np.ndarray  # float [784]
    dark_change: float  # by how much the dark area near the cavity shrinks: what an eye looks for
    attributes: dict[str, float | str]
    num_frames: int
    num_beats: float
    digest: str  # of the AVI


def evaluation_clips(frames: np.ndarray, num_frames: int = 32, stride: int = 3) -> list[np.ndarray]:
    """Three evenly spaced clips of a video [T, H, W], each with only the frames that exist."""
    room = max(len(frames) - num_frames * stride, 0)
    starts = np.round(np.linspace(0, room, 3)).astype(int)
    return [frames[start : start + num_frames * stride : stride] for start in starts]


def summarise(job: tuple[int, str, int]) -> Summary:
    """Simulates, encodes and decodes clip (seed, split, index), and measures it."""
    import av

    clip = simulate_one(*job)
    data = files.encode_avi(clip.frames, clip.fps)
    with av.open(io.BytesIO(data)) as container:
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    masks = clip.masks[clip.beat[0] : clip.beat[1] + 1]
    areas = (masks == 1).sum(axis=(1, 2))
    edv, esv = measure.mask_volume(masks[areas.argmax()]), measure.mask_volume(masks[areas.argmin()])
    heart_rate = clip.attributes["HeartRate"]
    parts = evaluation_clips(frames)
    read = [pixel_baseline.readouts(part, len(part)) for part in parts]
    return Summary(
        ef=clip.ef,
        mask_ef=100 * (edv - esv) / edv,
        pixels={name: np.mean([each[name] for each in read], axis=0) for name in pixel_baseline.NAMES},
        nuisance=np.array([frames.mean(), areas.max(), heart_rate, clip.fps, len(frames), len(data)]),
        mean_frame=cv2.resize(frames.mean(axis=0), (28, 28), interpolation=cv2.INTER_AREA).reshape(-1),
        dark_change=_dark_change(parts[0], clip.masks[clip.ed_frame] == 1),
        attributes=clip.attributes,
        num_frames=len(clip.frames),
        num_beats=len(clip.frames) / clip.fps * heart_rate / 60,
        digest=files.digest(data),
    )


def _dark_change(frames: np.ndarray, cavity: np.ndarray) -> float:
    """1 - (dark area when smallest / when largest) in the surroundings of the end-diastolic cavity."""
    near = cv2.dilate(cavity.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    grey = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])[:, near].astype(np.float32)
    low, high = np.percentile((grey < grey.mean()).mean(axis=1), [5, 95])
    return float(1 - low / high)


def summaries(seed: int, split: str, count: int, workers: int) -> list[Summary]:
    """The first `count` clips of a split, measured in `workers` processes."""
    jobs = [(seed, split, index) for index in range(count)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        result = pool.map(summarise, jobs, chunksize=4)
        pool.close()
        pool.join()
    return result


def ridge():
    """Standardised ridge whose strength is chosen by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 13)))


def feature_sets(clips: list[Summary]) -> dict[str, np.ndarray]:
    """Features by name, each float [clips, D]."""
    pixels = {name: np.stack([clip.pixels[name] for clip in clips]) for name in pixel_baseline.NAMES}
    nuisance = np.stack([clip.nuisance for clip in clips])
    mean_frame = np.stack([clip.mean_frame for clip in clips])
    return {
        "nuisance": nuisance,
        "nuisance and mean frame": np.concatenate([nuisance, mean_frame], axis=1),
        **pixels,
        "pixels, mean half": pixels["pixels"][:, :784],
        "pixels, std half": pixels["pixels"][:, 784:],
        "dark change": np.array([[clip.dark_change] for clip in clips]),
    }


def main() -> None:
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    flags = parser.parse_args()
    train = summaries(flags.seed, "train", flags.train, flags.workers)
    test = summaries(flags.seed, "test", flags.test, flags.workers)
    everything = train + test
    ef_train, ef = (np.array([clip.ef for clip in part]) for part in (train, everything))
    error = np.abs([clip.ef - clip.mask_ef for clip in everything])
    print(f"EF {ef.mean():.1f} +- {ef.std():.1f}, below 50: {np.mean(ef < 50):.0%}")
    print(
        f"EF from true masks: mean error {error.mean():.2f}, largest {error.max():.2f} points, "
        f"within 2 points {np.mean(error <= 2):.1%}"
    )
    both = zip(feature_sets(train).items(), feature_sets(test).values(), strict=True)
    folds = KFold(5, shuffle=True, random_state=0)
    for (name, x), x_test in both:
        held_out = r2_score(ef[len(train) :], ridge().fit(x, ef_train).predict(x_test))
        crossed = r2_score(ef, cross_val_predict(ridge(), np.concatenate([x, x_test]), ef, cv=folds))
        print(f"R2 {held_out:6.3f} held out, {crossed:6.3f} cross-validated over all: {name}")
    for name, value in everything[0].attributes.items():
        if not isinstance(value, str):
            values = [clip.attributes[name] for clip in everything]
            print(f"correlation with EF {np.corrcoef(values, ef)[0, 1]:6.3f}: {name}")


if __name__ == "__main__":
    main()
