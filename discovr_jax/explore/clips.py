"""One video on demand: its frames from records or from its file, and pictures of them for the browser."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from discovr_jax.data import inputs, read, records, sector
from discovr_jax.data.io.video import VideoError, at_constant_rate
from discovr_jax.evaluation.report.video_strips import EXPERT, FOUND
from discovr_jax.explore.videos import ExploreError
from discovr_jax.prediction_pictures import outlined
from discovr_jax.predictor import PHASES, Outline

SIDE = 240  # pixels of a frame in the browser
MOST_FRAMES = 48  # of an animation
THUMBNAIL = 96
_FPS = 30.0  # where a video does not say
_CAVITY = records.MASK_CLASSES.index("LV cavity")
_OPACITY = 0.45


class ClipError(ValueError):
    """A video that cannot be shown; the message says why."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of a video, uint8 [T, H, W].

    Attributes:
      fps: NaN unknown.
      stills: {phase: its outline}, drawn by the expert or predicted (`by`).
    """

    frames: np.ndarray
    fps: float
    stills: Mapping[str, Outline] = dataclasses.field(default_factory=dict)
    by: str = "expert"


class Clips(Protocol):
    """Where videos come from."""

    def read(self, row: int) -> Clip:
        """Raises ClipError."""

    def thumbnail(self, row: int) -> bytes:
        """WebP of a frame. Raises ClipError."""


class RecordClips:
    """Videos of records, the splits one after another."""

    def __init__(self, sources: Sequence[records.RecordSource]):
        self._sources = sources

    def read(self, row: int) -> Clip:
        """All frames, with the expert's cavity at end-diastole and end-systole where there is one."""
        record, size = self._record(row)
        try:
            frames = records.decode_frames(record["frames"], size, size, record_id=record["id"])
        except records.RecordsError as error:
            raise ClipError(str(error)) from None
        drawn = dict(zip(record["mask_frames"].tolist(), record["masks"] == _CAVITY, strict=True))
        stills = {phase: Outline(at, drawn[at]) for phase in PHASES if (at := int(record[f"{phase}_frame"])) in drawn}
        return Clip(frames, float(record["fps"]), {phase: one for phase, one in stills.items() if one.mask.any()})

    def thumbnail(self, row: int) -> bytes:
        """The frame at end-diastole, or the first."""
        record, size = self._record(row)
        which = [max(int(record["ed_frame"]), 0)]
        try:
            return webp([_small(records.decode_frames(record["frames"], size, size, which)[0])])
        except records.RecordsError as error:
            raise ClipError(str(error)) from None

    def _record(self, row: int) -> tuple[dict, int]:
        for source in self._sources:
            if row < len(source):
                try:
                    return source[row], source.frame_size
                except records.RecordsError as error:
                    raise ClipError(str(error)) from None
            row -= len(source)
        raise IndexError(row)


class FileClips:
    """Videos of the files that a table was made from; their sector alone, without what is written around it."""

    def __init__(self, source: str | os.PathLike, table: Any, expected: int | None = None, masks: Any = None):
        """
        Args:
          source: as of `inputs.find`.
          table: DataFrame [N] of row (the file's number), id, num_frames, height, width, as `extract` wrote them.
          expected: files that the table was made from.
          masks: DataFrame [N] of the masks of `predict`.

        Raises:
          ExploreError: nothing there, or other files.
        """
        try:
            self._files = inputs.find(source).files
        except inputs.InputError as error:
            raise ExploreError(str(error)) from None
        self._table, self._masks = table, masks
        least = int(table["row"].max()) + 1
        if len(self._files) < least or len(self._files) != (expected or len(self._files)):
            raise ExploreError(
                f"--input={source} holds {len(self._files)} files, the table was made from {expected or least}: give "
                "the same folder or CSV as to discovr_jax.extract"
            )

    def read(self, row: int) -> Clip:
        """All frames, with the cavity that `predict` drew."""
        known = self._table.iloc[row]
        path = self._files[int(known["row"])].path
        if path is None:
            raise ClipError("the file is not there any more")
        try:
            video = at_constant_rate(path, read.read_video(path))
            isolated, _, (top, left) = sector.isolate_at(video)
        except (VideoError, OSError) as error:
            raise ClipError(f"the file cannot be read ({type(error).__name__})") from None
        shape = tuple(int(known[name]) for name in ("num_frames", "height", "width"))
        if video.frames.shape[:3] != shape:
            raise ClipError("the file is another one than when the table was made")
        stills, (height, width) = {}, isolated.frames.shape[1:3]
        for phase in PHASES if self._masks is not None else ():
            at, png = (self._masks.iloc[row][f"lv_{phase}_{part}"] for part in ("frame", "mask_png"))
            if isinstance(png, bytes):
                whole = np.asarray(Image.open(io.BytesIO(png)).convert("1"))
                stills[phase] = Outline(int(at), whole[top : top + height, left : left + width])
        return Clip(isolated.frames, float(isolated.fps), stills, "predicted")

    def thumbnail(self, row: int) -> bytes:
        """The first frame."""
        return webp([_small(self.read(row).frames[0])])


def played(length: int, first: int = 0, stop: int | None = None) -> np.ndarray:
    """At most `MOST_FRAMES` frame numbers, evenly from `first` to before `stop` (None: the end)."""
    stop = length if stop is None else min(stop, length)
    count = min(MOST_FRAMES, stop - first)
    return np.linspace(first, stop - 1, count).round().astype(int)


def animation(
    clip: Clip,
    which: np.ndarray,
    outlines: Sequence[Outline] = (),
    prototypes: tuple[Sequence[int], np.ndarray, np.ndarray] | None = None,
) -> bytes:
    """WebP that plays again and again in real time.

    Args:
      which: numbers of the frames, evenly spaced.
      outlines: predicted, in the order of their frames; each holds until the next.
      prototypes: frame numbers [t], prototype of each token int [t, rows, cols], colour of each prototype uint8 [P, 3]:
        painted over a second copy beside the first.
    """
    starts = [one.frame for one in outlines]
    pictures = []
    for frame in which:
        masks = [(outlines[_before(starts, frame)].mask, FOUND)] if outlines else []
        picture = outlined(clip.frames[frame], *masks, side=SIDE)
        if prototypes is not None:
            numbers, maps, palette = prototypes
            colour = Image.fromarray(palette[maps[_before(numbers, frame)]])
            grey = Image.fromarray(outlined(clip.frames[frame], side=SIDE))
            painted = Image.blend(grey, colour.resize(grey.size, Image.Resampling.NEAREST), _OPACITY)
            picture = np.concatenate([picture, np.asarray(painted)], axis=1)
        pictures.append(picture)
    fps = clip.fps if np.isfinite(clip.fps) else _FPS
    step = (which[-1] - which[0]) / max(len(which) - 1, 1)
    return webp(pictures, round(1000 * step / fps))


def stills(clip: Clip, outlines: Sequence[Outline] = ()) -> dict[str, bytes]:
    """{phase: WebP} of the frames whose cavity is drawn: by the expert yellow, predicted cyan."""
    own, result = EXPERT if clip.by == "expert" else FOUND, {}
    starts = [one.frame for one in outlines]
    for phase, one in clip.stills.items():
        found = [(outlines[_before(starts, one.frame)].mask, FOUND)] if outlines else []
        result[phase] = webp([outlined(clip.frames[one.frame], (one.mask, own), *found, side=SIDE)])
    return result


def webp(pictures: Sequence[np.ndarray], milliseconds: int = 0) -> bytes:
    """Pictures, uint8 [H, W(, 3)], as one file; several play one after the other."""
    first, *others = [Image.fromarray(picture) for picture in pictures]
    file = io.BytesIO()
    quick = {"method": 0, "kmin": 0, "kmax": 0}  # somebody waits
    first.save(file, "WEBP", quality=80, save_all=True, append_images=others, duration=milliseconds, loop=0, **quick)
    return file.getvalue()


def _before(starts: Sequence[int], frame: int) -> int:
    """Which of ascending numbers is the last one not after `frame`; the first for earlier frames."""
    return max(int(np.searchsorted(starts, frame, side="right")) - 1, 0)


def _small(frame: np.ndarray) -> np.ndarray:
    return outlined(frame, side=THUMBNAIL)
