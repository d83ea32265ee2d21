"""One clip of one record: read, sampled, cropped and resized; in a loader's worker or thread."""

import dataclasses
import logging
import time
from collections.abc import Sequence

import ml_collections
import numpy as np

from discovr_jax.data import records, transforms
from discovr_jax.errors import ConfigError

logger = logging.getLogger(__name__)

# Pauses before a record that could not be read is read again: a network disk may come back.
_RETRY_SECONDS = (0.5, 2.0, 8.0)


@dataclasses.dataclass(frozen=True)
class ClipReader:
    """Reads clips of one or more datasets; plain values only, because it travels to the workers.

    Each method takes one task and gives one clip: frames uint8 [T, S, S], num_valid, record (int32).
    """

    sources: tuple[records.RecordSource, ...]
    num_frames: int
    stride: float
    target_fps: float | None
    image_size: int
    crop_scales: tuple[float, ...]
    crop: str = "uniform"  # of `transforms.CROPS`
    stride_jitter: float = 0.0
    second_clip: bool = False  # `random_clip` gives another clip of each video too

    @classmethod
    def create(
        cls,
        sources: Sequence[records.RecordSource],
        data: ml_collections.ConfigDict,
        selected: Sequence[Sequence[int]],
        crop: str = "uniform",
        second_clip: bool = False,
    ):
        if crop not in transforms.CROPS:
            raise ConfigError(f"data.crop must be one of {transforms.CROPS}, not {crop!r}")
        if data.target_fps is not None:
            for source, indices in zip(sources, selected, strict=True):
                _check_frame_rates(source, indices, data.target_fps)
        if not 0 <= data.stride_jitter < 1:
            raise ConfigError(f"data.stride_jitter = {data.stride_jitter} must be in [0, 1): a share of the stride")
        return cls(
            tuple(sources),
            data.num_frames,
            data.stride,
            data.target_fps,
            data.image_size,
            tuple(data.crop_scales),
            crop,
            data.stride_jitter,
            second_clip,
        )

    @property
    def clip_bytes(self) -> int:
        return self.num_frames * self.image_size**2 * (1 + self.second_clip)

    def random_clip(self, place: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A clip at a random time, randomly cropped. With `second_clip` also other_frames and other_valid: at another
        random time, of the whole frame (crops of views are drawn on the device)."""
        record, stride = self._open(*place)
        side = self.sources[place[0]].frame_size
        when = self._random_time(record, stride, rng)
        if self.crop == "anchors":
            box = transforms.anchored_crop(rng, side, side, self.crop_scales, self.image_size)
        else:
            box = transforms.multi_scale_crop(rng, side, side, self.crop_scales)
        clip = self._sampled(*place, record, *when, box) | {"dataset": np.int32(place[0])}
        if self.second_clip:
            other = self._sampled(*place, record, *self._random_time(record, stride, rng), (0, 0, side, side))
            clip |= {"other_frames": other["frames"], "other_valid": other["num_valid"]}
        return clip

    def _random_time(self, record: dict, stride: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Frames of a clip that starts at random, and how many of them are real."""
        frames = len(record["frames"])
        if self.stride_jitter:
            stride *= 1 + self.stride_jitter * rng.uniform(-1, 1)
        start = rng.integers(transforms.last_start(frames, self.num_frames, stride), endpoint=True)
        return transforms.clip_indices(frames, self.num_frames, stride, int(start))

    def even_clip(self, task: tuple[int, int, int]) -> dict[str, np.ndarray]:
        index, clip, clips = task
        record, stride = self._open(0, index)
        start = transforms.even_starts(len(record["frames"]), self.num_frames, stride, clips)[clip]
        return self._clip(0, index, record, stride, int(start), self._whole)

    def clip_showing(self, task: tuple[int, int, int], *, tubelet: int) -> dict[str, np.ndarray]:
        row, index, frame = task
        record, stride = self._open(0, index)
        which, num_valid, position = transforms.clip_showing(len(record["frames"]), self.num_frames, stride, frame)
        which = transforms.read_apart(which, position, record["mask_frames"], tubelet)
        return self._sampled(0, row, record, which, num_valid, self._whole) | {"position": np.int32(position)}

    @property
    def _whole(self) -> transforms.Box:
        side = self.sources[0].frame_size
        return (0, 0, side, side)

    def _open(self, dataset: int, index: int) -> tuple[dict, float]:
        record = _read_record(self.sources[dataset], index)
        # A still has no rate, and a clip of it one frame, whatever the stride.
        if self.target_fps is None or len(record["frames"]) == 1:
            return record, self.stride
        return record, float(record["fps"]) / self.target_fps

    def _clip(
        self, dataset: int, index: int, record: dict, stride: float, start: int, box: transforms.Box
    ) -> dict[str, np.ndarray]:
        which, num_valid = transforms.clip_indices(len(record["frames"]), self.num_frames, stride, start)
        return self._sampled(dataset, index, record, which, num_valid, box)

    def _sampled(
        self, dataset: int, index: int, record: dict, which: np.ndarray, num_valid: int, box: transforms.Box
    ) -> dict[str, np.ndarray]:
        side = self.sources[dataset].frame_size
        real = which[:num_valid]
        frames = records.decode_frames(record["frames"], side, side, real, record_id=record["id"])
        frames = transforms.crop_resize(frames, box, self.image_size)
        if num_valid < self.num_frames:
            frames = np.concatenate([frames, np.repeat(frames[-1:], self.num_frames - num_valid, axis=0)])
        return {"frames": frames, "num_valid": np.int32(num_valid), "record": np.int32(index)}


def _read_record(source: records.RecordSource, index: int) -> dict:
    for pause in _RETRY_SECONDS:
        try:
            return source[index]
        except (OSError, records.RecordsError) as error:
            logger.warning("a read failed, and is tried again in %g s: %s", pause, error)
            time.sleep(pause)
    return source[index]


def _check_frame_rates(source: records.RecordSource, selected: Sequence[int], target_fps: float) -> None:
    if not target_fps > 0:
        raise ConfigError(f"data.target_fps must be positive or None, got {target_fps}.")
    fields = records.record_fields(source, ("id", "fps", "num_frames"))
    unknown = [i for i in selected if not 0 < fields["fps"][i] < np.inf and fields["num_frames"][i] > 1]
    if unknown:
        raise ConfigError(
            f"Record {fields['id'][unknown[0]]} has no frame rate (fps {fields['fps'][unknown[0]]}), which "
            f"data.target_fps={target_fps} needs; {len(unknown)} of {len(selected)} records have none. "
            "Set data.target_fps=None to sample every data.stride-th frame instead."
        )
