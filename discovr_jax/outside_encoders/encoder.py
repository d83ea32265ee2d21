"""An encoder of others where a `VideoEncoder` stands: `extract` writes the same table with it."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from discovr_jax.data import video_arrays
from discovr_jax.outside_encoders import clips as clips_lib
from discovr_jax.outside_encoders import torch_module
from discovr_jax.outside_encoders.known import KNOWN
from discovr_jax.outside_encoders.torch_module import OutsideEncoderError


class OutsideEncoder:
    """`width` is D of a video's features; `uses_fps`: clips are taken by the frame, as all of these encoders do."""

    uses_fps = False

    def __init__(
        self,
        name: str,
        loader: str | os.PathLike,
        weights: str | os.PathLike,
        clips: int | None = None,
        batch_size: int = 8,
    ):
        """
        Args:
          name: of `KNOWN`; loader, weights: as of `torch_module.load`.
          clips: of a video, whose vectors are averaged; None: 3, as for our own encoders.
          batch_size: clips, or frames of an encoder of frames, that go through it at once.

        Raises:
          OutsideEncoderError: another name, or an encoder that cannot be built or gives vectors of another width.
        """
        if name not in KNOWN:
            raise OutsideEncoderError(f"--encoder=torch:{name}: there are {', '.join(KNOWN)}")
        self.name, self._known, self._clips, self._batch_size = name, KNOWN[name], clips or 3, batch_size
        self._embed, self._about = torch_module.load(loader, weights)
        noise = np.random.default_rng(0).integers(256, size=(self._known.frames, 32, 32), dtype=np.uint8)
        self.width = len(self._vectors([noise])[0])
        if self.width not in self._known.widths:
            raise OutsideEncoderError(
                f"{name} gave vectors of {self.width} numbers, not of {' or '.join(map(str, self._known.widths))}: "
                "weights of another encoder, or the output of another layer (a head, say)"
            )

    def embed(
        self,
        frames: np.ndarray | Sequence[np.ndarray],
        fps: float | Sequence[float | None] | None = None,
        *,
        spacing: Sequence[tuple[float, float] | None] | None = None,
    ) -> np.ndarray:
        """Mean over a video's clips, float32 [D], or [N, D] for several.

        Args:
          frames: uint8 [T, H, W], or several videos; colour is made grey.
          fps, spacing: not used.

        Raises:
          ValueError: no such frames; or vectors that are not finite.
        """
        videos, _, _, several = video_arrays.per_video(frames, fps, spacing)
        features = self._vectors([video_arrays.luma(video) for video in videos])
        if bad := int((~np.isfinite(features).all(1)).sum()):
            raise OutsideEncoderError(f"{self.name} gave vectors that are not finite, of {bad} of {len(videos)} videos")
        return features if several else features[0]

    def card(self) -> dict[str, Any]:
        """What somebody needs to know of the features, as JSON values."""
        return {
            "encoder": f"torch:{self.name}",
            "features": self.width,
            "readouts": {"features": self.width},
            "preprocessing": dataclasses.asdict(self._known) | {"clips": self._clips},
            **self._about,
        }

    def _vectors(self, videos: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [N, D] of grey videos."""
        # A short video's clips are one and the same, which goes through the network once.
        begins = [clips_lib.distinct_starts(len(video), self._known, self._clips) for video in videos]
        of_clips = self._of_clips(
            clips_lib.clip(video, self._known, start)
            for video, (starts, _) in zip(videos, begins, strict=True)
            for start in starts.tolist()
        )
        means = [np.average([next(of_clips) for _ in times], axis=0, weights=times) for _, times in begins]
        return np.stack(means).astype(np.float32)

    def _of_clips(self, clips: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """A vector [D] of each clip; a few clips are in memory at a time."""
        if self._known.per_frame:
            for clip in clips:
                frames = clip.swapaxes(0, 1)
                starts = range(0, len(frames), self._batch_size)
                found = np.concatenate([self._embed(frames[i : i + self._batch_size]) for i in starts])
                lengths = np.linalg.norm(found, axis=1, keepdims=True) if self._known.unit_length else 1
                yield (found / np.where(lengths == 0, 1, lengths)).mean(0)
            return
        batch: list[np.ndarray] = []
        for clip in clips:
            batch.append(clip)
            if len(batch) == self._batch_size:
                yield from self._embed(np.stack(batch))
                batch = []
        if batch:
            yield from self._embed(np.stack(batch))
