"""A written program beside the encoder that it was made from: the same clips through both."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from discovr_jax import prepare
from discovr_jax.data import read, sector
from discovr_jax.evaluation.features import video_clips
from discovr_jax.export.formats import Loaded
from discovr_jax.inference import VideoEncoder
from discovr_jax.predictor import Prediction, Predictor

TOLERANCE = 1e-4  # absolute; of values above 1, in relation to them


class ExportError(ValueError):
    """A program does not compute what the encoder computes; the message says which output."""


@dataclasses.dataclass(frozen=True)
class CheckVideo:
    """A video to compare on: uint8 [T, H, W], frames per second or None, pixel spacing or None."""

    frames: np.ndarray
    fps: float | None
    spacing: tuple[float, float] | None

    def clips(self, encoder: VideoEncoder) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of the program: frames uint8 [clips, T, S, S] and num_valid int32 [clips]."""
        clips = video_clips.clips(self.frames, self.fps, self.spacing, encoder.options)
        return np.stack([frames for frames, _ in clips]), np.array([valid for _, valid in clips], np.int32)


def simulated(encoder: VideoEncoder) -> list[CheckVideo]:
    """Two simulated hearts, and the second cut to half a clip, so that frames that fill up do not count."""
    timed = bool(encoder.options["trained_fps"])
    videos = [CheckVideo(frames, fps if timed else None, None) for frames, fps in prepare.simulated_videos(2)]
    last = videos[-1]
    stride = last.fps / encoder.options["trained_fps"] if timed else encoder.options["stride"]
    half = max(2, round(encoder.options["num_frames"] * stride / 2))
    return [*videos, dataclasses.replace(last, frames=last.frames[:half])]


def of_file(path: str | os.PathLike, encoder: VideoEncoder) -> CheckVideo:
    """A video file as `extract` and `predict` read it: the sector alone.

    Raises:
      VideoError: it cannot be read.
    """
    video, _ = sector.isolate_video(read.read_video(path))
    known = np.isfinite(video.fps) and encoder.options["trained_fps"]
    return CheckVideo(video.frames, video.fps if known else None, video.pixel_size)


def expected(
    encoder: VideoEncoder, predictor: Predictor | None, video: CheckVideo, show_out_of_distribution: bool
) -> dict[str, Any]:
    """{output: what `embed` and `predict` say of a video}, and pooled features besides.

    Raises:
      ValueError: the video is a still.
    """
    spacing = [video.spacing]
    outputs = {"features": encoder.embed([video.frames], video.fps, spacing=spacing)[0]}
    if predictor is None:
        return outputs
    (made,) = predictor.predict(
        [video.frames], [video.fps], spacing, show_out_of_distribution=show_out_of_distribution
    )
    features, _ = predictor.run([video_clips.clips(video.frames, video.fps, video.spacing, encoder.options)])
    outputs |= {f"features_{name}": each[0] for name, each in features.items()}
    return outputs | _numbers(made)


def _numbers(made: Prediction) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for part, one in made.measurements.items():
        numbers |= {part: one.value, f"{part}_low": one.low, f"{part}_high": one.high}
    for name in ("probability_abnormal", "distance", "out_of_distribution"):
        numbers[name] = getattr(made, name)
    return numbers


class Difference(NamedTuple):
    """How far a program is from the encoder: `scaled` is `absolute`, of values above 1 in relation to them."""

    absolute: float
    scaled: float


SAME, OTHER = Difference(0.0, 0.0), Difference(np.inf, np.inf)


def difference(wanted, got) -> Difference:
    """The largest of two arrays; infinite where one has a number and the other has none, or another shape.

    >>> difference([0.5, 200.0, float("nan")], [0.5, 202.0, float("nan")])
    Difference(absolute=2.0, scaled=0.01)
    """
    wanted, got = (np.asarray(each, np.float64) for each in (wanted, got))
    if wanted.shape != got.shape:
        return OTHER
    differ = (wanted != got) & ~(np.isnan(wanted) & np.isnan(got))  # infinite ends of intervals are equal
    wanted, got = wanted[differ], got[differ]
    if not np.isfinite([wanted, got]).all():
        return OTHER
    apart = np.abs(wanted - got)
    return Difference(*(float(np.max(each, initial=0)) for each in (apart, apart / np.maximum(1, np.abs(wanted)))))


def differences(
    program: Loaded, outputs: Sequence[str], encoder: VideoEncoder, videos: Sequence[CheckVideo],
    wanted: Sequence[dict[str, Any]],
) -> dict[str, Difference]:  # fmt: skip
    """{output: the largest `difference` over videos} between a loaded program and `expected`."""
    result = dict.fromkeys(outputs, SAME)
    for video, want in zip(videos, wanted, strict=True):
        got = program(*video.clips(encoder))
        for name in outputs:
            pairs = zip(result[name], difference(want[name], got[name]), strict=True)
            result[name] = Difference(*(max(pair) for pair in pairs))
    return result
