"""What a run says of one of its clips: its heads' predictions, the cavity frame by frame, prototypes of its tokens."""

import dataclasses
import functools
import os
import types
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from discovr_jax import inference, prediction_pictures
from discovr_jax.convert import read as weights_lib
from discovr_jax.evaluation import samples
from discovr_jax.evaluation.features import video_clips
from discovr_jax.evaluation.report.plots import prototype_palette
from discovr_jax.losses.interface import LossState
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.predictor import Outline


@dataclasses.dataclass(frozen=True)
class Said:
    """Of one clip.

    Attributes:
      words: predictions, a line each.
      outlines: of the cavity, in the order of the frames; empty where nothing draws.
      prototypes: frame numbers [t] of a clip's tubelets, int [t, rows, cols], colours uint8 [P, 3]; None without SCD.
      stop: the frame after the clip of the prototypes, 0 without.
    """

    words: Sequence[str]
    outlines: Sequence[Outline] = ()
    prototypes: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    stop: int = 0


class RunHeads:
    """Loaded when first asked; `of` takes seconds then."""

    def __init__(self, workdir: str | os.PathLike, use_fps: bool):
        """
        Args:
          use_fps: whether the evaluation took frames at a frame rate, not at a stride.
        """
        self._workdir, self._use_fps = workdir, use_fps

    @functools.cached_property
    def _encoder(self) -> inference.VideoEncoder:
        return inference.load_encoder(self._workdir)

    @functools.cached_property
    def _prototypes(self):
        """(frames, num_valid) -> nearest prototypes int [1, t, rows, cols]; frames per tubelet; colours; or None."""
        parts = ("teacher/", "params/prototypes/", "memory/position_mean")
        loaded = weights_lib.read_weights(self._workdir, lambda name: name.startswith(parts))
        arrays = {name: jnp.asarray(each) for name, each in loaded.arrays.items()}
        model, data = experiment_lib.make_model(loaded.config), loaded.config.data
        scored_alike = all(self._encoder.options[name] == data[name] for name in ("num_frames", "image_size"))
        if "prototypes" not in model.outputs or not scored_alike:
            return None
        teacher = {name.removeprefix("teacher/"): each for name, each in arrays.items() if "teacher/" in name}
        state = types.SimpleNamespace(
            params={"prototypes": {"vectors": arrays["params/prototypes/vectors"]}},
            teacher=traverse_util.unflatten_dict(teacher, sep="/"),
            memory=LossState({}, arrays.get("memory/position_mean")),
        )
        options = experiment_lib.make_options(loaded.config)
        assign = jax.jit(lambda *clip: samples.prototypes(model, options, state, *clip)[1])
        return assign, model.grid.tubelet, prototype_palette(model.num_prototypes)[:-1]

    def of(self, frames: np.ndarray, fps: float) -> Said:
        """What is said of a record's frames, uint8 [T, S, S], at `fps` (NaN unknown)."""
        rate = fps if self._use_fps and np.isfinite(fps) else None
        try:
            prediction = self._encoder.predict(frames, fps=rate)
        except ValueError as error:  # no heads, or a clip that is none
            words, outlines = [f"No predictions: {error}"], []
        else:
            words = prediction_pictures.words(prediction)
            outlines = [] if prediction.out_of_distribution else self._encoder.predictor.cavities(frames, rate)
        if self._prototypes is None:
            return Said(words, outlines)
        assign, tubelet, palette = self._prototypes
        options = self._encoder.options
        clip, num_valid = video_clips.clips(frames, rate, None, options)[0]
        numbers = video_clips.clip_frames(len(frames), rate, options)[0][0][:num_valid]
        maps = np.asarray(assign(clip[None], np.array([num_valid], np.int32)))[0]
        starts = numbers[::tubelet]
        return Said(words, outlines, (starts, maps[: len(starts)], palette), int(numbers[-1]) + 1)
