"""Features of any video from a trained encoder, in two lines.

    encoder = discovr_jax.load_encoder("runs/adult")
    features = encoder.embed(frames, fps=50)  # uint8 [T, H, W] -> float32 [D]
"""

import functools
import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from discovr_jax.convert import read as weights_lib
from discovr_jax.data import colour, facts, transforms
from discovr_jax.data.letterbox import letterbox
from discovr_jax.method.experiment import make_model
from discovr_jax.models import readouts as readouts_lib
from discovr_jax.models.discovr import ClipGrid
from discovr_jax.models.patches import IMAGENET_MEAN, IMAGENET_STD
from discovr_jax.trees import fingerprint

# branch: (path of its arrays, its module in a PyTorch file)
BRANCHES = {
    "video_teacher": ("teacher/video_encoder", "video_teacher"),
    "video_student": ("params/video_encoder", "encoder"),
    "image_teacher": ("teacher/image_encoder", "image_teacher"),
    "image_student": ("params/image_encoder", "image_student"),
}
FITS = ("letterbox", "squeeze")
OUTPUTS = ("video", "frames", "tokens")


def load_encoder(
    path: str | os.PathLike,
    branch: str = "video_teacher",
    *,
    readout: str = "cls",
    clips: int = 3,
    fit: str = "letterbox",
    channels: int = 1,
    num_frames: int | None = None,
    image_size: int | None = None,
    trained_fps: float | None = None,
    dtype: str = "float32",
    batch_size: int = 8,
) -> "Encoder":
    """Load one encoder of a checkpoint.

    Args:
      path: a workdir, a converted checkpoint, a checkpoints/step_N folder, or a .pth or .safetensors file.
      branch: "video_teacher" (the one to use), "video_student", "image_teacher" or "image_student".
      readout: "cls", "mean", "std_of_mean" or "mean_of_std"; see `models.readouts`.
      clips: evenly spaced clips of a video; features are averaged over them.
      fit: "letterbox" keeps the aspect ratio and pads with black; "squeeze" does not, as the public code.
      channels: 1 reduces RGB to luma; 3 feeds colour as it is (only weights with imagenet intensity).
      num_frames, image_size: of a clip, where they are to differ from training: positions are then counted in
        the checkpoint's own grid (`positions.flat_positions`).
      trained_fps: frames per second of the training clips, where the checkpoint does not say.
      dtype: of the activations.
      batch_size: clips a batch.

    Raises:
      CheckpointError, ConversionError: the weights cannot be read.
      ValueError: an option of no known value.
    """
    for name, value, known in (
        ("branch", branch, tuple(BRANCHES)),
        ("readout", readout, readouts_lib.NAMES),
        ("fit", fit, FITS),
        ("channels", channels, (1, 3)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, not {value!r}")
    prefix, module = BRANCHES[branch]
    loaded = weights_lib.read(path, lambda name: name.startswith(f"{prefix}/"), only=module)
    config = loaded.config
    config.model.dtype, config.model.remat, config.model.attention = dtype, "none", "auto"
    trained = make_model(config)
    if num_frames or image_size:
        grid = trained.position_grid or (trained.grid.time, trained.grid.rows, trained.grid.cols)
        config.model.position_grid = grid
        config.data.num_frames = num_frames or config.data.num_frames
        config.data.image_size = image_size or config.data.image_size
    if channels == 3 and config.model.intensity != "imagenet":
        raise ValueError(f"channels=3 needs weights of intensity 'imagenet', not {config.model.intensity!r}")
    if trained_fps is None:
        about = facts.of(config.data.dataset)
        nominal = about.nominal_fps if about else None
        trained_fps = config.data.target_fps or (nominal and nominal / config.data.stride)
    options = {
        "branch": branch,
        "readout": readout,
        "clips": clips,
        "num_frames": config.data.num_frames,
        "stride": config.data.stride,
        "trained_fps": trained_fps,
        "image_size": config.data.image_size,
        "fit": fit,
        "channels": channels,
        "intensity": config.model.intensity,
        "dtype": dtype,
    }
    arrays = {name.removeprefix(f"{prefix}/"): array for name, array in loaded.arrays.items()}
    params = traverse_util.unflatten_dict(arrays, sep="/")
    return Encoder(make_model(config), params, options, batch_size)


class Encoder:
    """A frozen encoder with its preprocessing; made by `load_encoder`.

    Attributes:
      options: what turns a video into features; JSON values.
      width: D.
      weights_sha256: of the encoder's arrays.
    """

    def __init__(self, model, params: dict, options: dict[str, Any], batch_size: int):
        self.options, self.width = options, model.width
        self.weights_sha256 = fingerprint(params)
        self._model, self._batch_size = model, batch_size
        self._video = options["branch"].startswith("video")
        module = "video_encoder" if self._video else "image_encoder"
        self._params = jax.device_put({module: params})
        self._forward = jax.jit(self._encode, static_argnames="output")

    def embed(
        self, frames: np.ndarray | Sequence[np.ndarray], fps: float | Sequence[float | None] | None = None,
        *, output: str = "video", spacing: Sequence[tuple[float, float] | None] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Features of one video or of several.

        Of a recording of a scanner's screen give the sector alone: `data.sector.isolate_video`.

        Args:
          frames: uint8 [T, H, W], [T, H, W, 3] (RGB), either with N videos in front, or a list of N videos of
            any sizes and lengths.
          fps: frames per second (one number, or one a video): resamples to the trained frame rate. None takes
            frames at the trained stride.
          output: "video" for one vector a video; "frames" for one a tubelet (image branches: a frame) of each
            clip; "tokens" for every patch of each clip.
          spacing: one a video, millimetres between rows and between columns: pixels that are not square become so,
            where the fit is "letterbox". None: they are.

        Returns:
          float32, with N in front for several videos: "video" [D]; "frames" [clips, t, D], the mean token of
          each tubelet (the image branches: each frame's CLS); "tokens" [clips, t, rows, columns, D].

        Raises:
          ValueError: other dtypes or shapes, or a frame rate that cannot be met.
        """
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}, not {output!r}")
        videos, several = _as_videos(frames)
        rates = list(fps) if isinstance(fps, (Sequence, np.ndarray)) else [fps] * len(videos)
        if len(rates) != len(videos):
            raise ValueError(f"{len(rates)} frame rates for {len(videos)} videos")
        spacing = [None] * len(videos) if spacing is None else spacing
        if len(spacing) != len(videos):
            raise ValueError(f"{len(spacing)} spacings for {len(videos)} videos")
        clips = [clip for one in zip(videos, rates, spacing, strict=True) for clip in self._clips(*one)]
        features = self._run(clips, output)
        features = features.reshape(len(videos), self.options["clips"], *features.shape[1:])
        if output == "video":
            features = features.mean(1)
        return features if several else features[0]

    def card(self) -> dict[str, Any]:
        """What somebody needs to know of the features, as JSON values."""
        return {
            "package": f"discovr_jax {_version()}",
            "weights_sha256": self.weights_sha256,
            "features": self.width,
            "preprocessing": self.options,
        }

    def _clips(self, video: np.ndarray, fps: float | None, spacing) -> list[tuple[np.ndarray, int]]:
        """Evenly spaced clips of the model's length and size, each with its number of real frames."""
        o, stride = self.options, float(self.options["stride"])
        if fps is not None:
            if not (np.isfinite(fps) and fps > 0):
                raise ValueError(f"fps must be a positive number, not {fps}; None takes frames at the stride")
            if not o["trained_fps"]:
                raise ValueError(
                    "the checkpoint does not say at how many frames per second it was trained: give "
                    "load_encoder(..., trained_fps=...), or embed without fps to take every "
                    f"{o['stride']}th frame"
                )
            stride = fps / o["trained_fps"]
        found = []
        for start in transforms.even_starts(len(video), o["num_frames"], stride, o["clips"]):
            which, num_valid = transforms.clip_indices(len(video), o["num_frames"], stride, int(start))
            frames = _fitted(video[which[:num_valid]], o["image_size"], o["fit"], o["channels"], spacing)
            padding = np.repeat(frames[-1:], o["num_frames"] - num_valid, axis=0)
            found.append((np.concatenate([frames, padding]), num_valid))
        return found

    def _run(self, clips: list[tuple[np.ndarray, int]], output: str) -> np.ndarray:
        """One row a clip, in batches of one size, so that the forward pass is compiled once."""
        rows, size = [], self._batch_size
        for first in range(0, len(clips), size):
            part = clips[first : first + size]
            filled = part + [part[-1]] * (size - len(part))
            frames = np.stack([frames for frames, _ in filled])
            num_valid = np.array([valid for _, valid in filled], np.int32)
            rows.append(np.asarray(self._forward(self._params, frames, num_valid, output=output))[: len(part)])
        return np.concatenate(rows)

    def _encode(self, params: dict, frames: jax.Array, num_valid: jax.Array, output: str) -> jax.Array:
        model = self._model
        if frames.ndim == 5:
            frames = (frames / jnp.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
        # Float32 means float32: accelerators would otherwise multiply in fewer bits.
        with jax.default_matmul_precision("highest" if model.dtype == jnp.float32 else "default"):
            method = "encode_video" if self._video else "encode_frames"
            tokens = model.apply({"params": params}, frames, num_valid, method=method)
        grid, cls = model.grid, tokens[:, 0]
        if not self._video:
            cls, tokens, grid = _as_clip(tokens, frames.shape[0], num_valid, model.grid)
        if output == "video":
            return readouts_lib.readouts(tokens, num_valid, grid, 1)[self.options["readout"]]
        places = tokens[:, 1:].reshape(-1, grid.time, grid.rows, grid.cols, self.width).astype(jnp.float32)
        if output == "tokens":
            return places
        return places.mean((2, 3)) if self._video else cls.astype(jnp.float32)


def _as_clip(tokens, num_clips, num_valid, grid):
    """Tokens of single frames [B * F, 1 + P, D] as those of a clip whose CLS is the mean over real frames."""
    tokens = tokens.reshape(num_clips, grid.frames, *tokens.shape[1:])
    cls = tokens[:, :, 0]
    valid = (jnp.arange(grid.frames) < num_valid[:, None]).astype(cls.dtype)[:, :, None]
    mean = (cls * valid).sum(1, keepdims=True) / valid.sum(1, keepdims=True)
    places = tokens[:, :, 1:].reshape(num_clips, -1, tokens.shape[-1])
    return cls, jnp.concatenate([mean, places], 1), ClipGrid(grid.frames, grid.rows, grid.cols, 1)


def _as_videos(frames) -> tuple[list[np.ndarray], bool]:
    """A list of uint8 [T, H, W(, 3)], and whether there were several."""
    if not isinstance(frames, np.ndarray) and isinstance(frames, Sequence):
        videos, several = [np.asarray(video) for video in frames], True
    else:
        frames = np.asarray(frames)
        several = frames.ndim - (frames.shape[-1:] == (3,)) == 4
        videos = list(frames) if several else [frames]
    if not videos:
        raise ValueError("there is no video to embed: the list is empty")
    for number, video in enumerate(videos):
        grey = video.ndim == 3
        if not (grey or (video.ndim == 4 and video.shape[-1] == 3)) or not video.size:
            raise ValueError(
                f"video {number} has shape {video.shape}: give [T, H, W] or [T, H, W, 3], at least one frame, "
                "with the number of videos in front for several"
            )
        if video.dtype != np.uint8:
            raise ValueError(f"video {number} is {video.dtype}: give uint8 grey levels from 0 to 255")
    return videos, several


def _fitted(frames: np.ndarray, size: int, fit: str, channels: int, spacing=None) -> np.ndarray:
    """Frames uint8 [T, H, W(, 3)] at the model's size and channels: [T, size, size] or [T, size, size, 3]."""
    if channels == 1 and frames.ndim == 4:
        frames = colour.luma(frames)
    if channels == 3:
        colours = frames if frames.ndim == 4 else np.repeat(frames[..., None], 3, axis=3)
        return np.stack([_fitted(colours[..., i], size, fit, 1, spacing) for i in range(3)], axis=-1)
    if fit == "squeeze":
        return transforms.crop_resize(frames, (0, 0, *frames.shape[1:]), size)
    return letterbox(frames, size, spacing)[0]


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("discovr_jax")
    except importlib.metadata.PackageNotFoundError:
        return "from its source tree"
