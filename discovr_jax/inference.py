"""Features of any video from a trained encoder, in two lines.

encoder = discovr_jax.load_encoder("runs/adult")
features = encoder.embed(frames, fps=50)  # uint8 [T, H, W] -> float32 [D]
"""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from discovr_jax import hub, pretrained
from discovr_jax.convert import read as weights_lib
from discovr_jax.data import frame_rates, video_arrays
from discovr_jax.evaluation import scored
from discovr_jax.evaluation.features import video_clips
from discovr_jax.evaluation.features.cache import join
from discovr_jax.evaluation.scored import PREFIXES, SCORED
from discovr_jax.method.experiment import default_config, make_model
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
OUTPUTS = ("video", "frames", "tokens")


def load_encoder(
    path: str | os.PathLike | ConfigDict,
    branch: str = "video_teacher",
    *,
    readout: str | None = None,
    clips: int | None = None,
    fit: str = "letterbox",
    channels: int = 1,
    num_frames: int | None = None,
    image_size: int | None = None,
    trained_fps: float | None = None,
    dtype: str | None = None,
    batch_size: int = 8,
    untrained: int | None = None,
) -> "VideoEncoder":
    """Load one encoder of a checkpoint.

    What is left out is as in the evaluation of these weights, so that features are those that were scored; where
    there was none (a converted public checkpoint), the pooling is CLS, in float32, the mean of 3 clips.

    Args:
      path: a workdir, a converted checkpoint, a checkpoints/step_N folder, or a .pth or .safetensors file; "phantom",
        the one of simulated hearts that comes with the package; "hf:OWNER/NAME[@REVISION]", a repository of the
        Hugging Face Hub, which is fetched (`hub`); or a config, with `untrained`.
      branch: "video_teacher" (the one to use), "video_student", "image_teacher" or "image_student".
      readout: the pooling, one of `models.readouts.KNOWN`, or several with commas between them, which stand side by
        side; or "best", what the evaluation's validation chose (for the first of its evaluators), or "best:NAME" for an
        evaluator of that name ("best:lvef"). None: "best" where there is one.
      clips: evenly spaced clips of a video; features are averaged over them.
      fit: "letterbox" keeps the aspect ratio and pads with black; "squeeze" does not, as the public code.
      channels: 1 reduces RGB to luma; 3 feeds colour as it is (only weights of input_normalisation "imagenet").
      num_frames, image_size: of a clip, where they are to differ from training: positions are then counted in
        the checkpoint's own grid (`positions.sincos_1d`).
      trained_fps: frames per second of the training clips, where the checkpoint does not say.
      dtype: of the activations, "float32" or "bfloat16".
      batch_size: clips per batch.
      untrained: a seed: the same architecture with the weights that a run of that seed begins with.

    Raises:
      CheckpointError, ConversionError: the weights cannot be read.
      HubError: they cannot be fetched.
      ReadoutError: "best" or "all" of weights that were not evaluated.
      ValueError: an option of no known value; a config without `untrained`, which says nothing of weights.

    >>> encoder = load_encoder("runs/adult")
    >>> encoder.options["readout"], encoder.width
    ('cls', 16)
    """
    for name, value, known in (
        ("branch", branch, tuple(BRANCHES)),
        ("fit", fit, video_clips.FITS),
        ("channels", channels, (1, 3)),
        ("dtype", dtype, (None, "float32", "bfloat16")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, not {value!r}")
    prefix, module = BRANCHES[branch]
    if not isinstance(path, ConfigDict):
        path = hub.download(os.fspath(path)) if hub.is_remote(path) else pretrained.path_of(os.path.expanduser(path))
    elif untrained is None:
        raise ValueError("a config has no weights: give untrained=SEED, or the path of a checkpoint")
    evaluated = scored.find(path) if branch == SCORED and not isinstance(path, ConfigDict) else None
    readout, readout_from = _readout(path, readout, evaluated)
    lengths = dict(evaluated.features.get("mean_lengths", {})) if evaluated and readout == "all" else {}
    if readout == "all" and not lengths:
        raise scored.ReadoutError(
            f"readout 'all' divides each readout by its mean length on the training videos, which no evaluation of the "
            f"{SCORED} in {path} says: evaluate it (--mode=eval), or choose another readout"
        )
    prefixes = {prefix.partition("/")[2]: f"{prefix}/"}
    others = readouts_lib.branches((*readout.split(","), *lengths)) - {*prefixes}
    if others and branch != SCORED:
        raise ValueError(f"readout {readout!r} is of {SCORED}, not of {branch}")
    prefixes |= {name: PREFIXES[name] for name in sorted(others)}
    loaded = _weights(path, tuple(prefixes.values()), "" if others else module, untrained)
    config = loaded.config
    if evaluated:
        config.data.update(evaluated.features.get("clip", {}))
        config.eval.map_side = evaluated.settings["map_side"]
        clips = clips or evaluated.settings["clips"]
        dtype = dtype or evaluated.features.get("dtype")
    clips, dtype = clips or 3, dtype or "float32"
    config.model.dtype, config.model.remat, config.model.attention = dtype, "none", "auto"
    trained = make_model(config)
    if num_frames or image_size:
        grid = trained.position_grid or (trained.grid.time, trained.grid.rows, trained.grid.cols)
        config.model.position_grid = grid
        config.data.num_frames = num_frames or config.data.num_frames
        config.data.image_size = image_size or config.data.image_size
    if channels == 3 and config.model.input_normalisation != "imagenet":
        raise ValueError(
            f"channels=3 needs weights of input_normalisation 'imagenet', not {config.model.input_normalisation!r}"
        )
    if channels == 3 and config.model.motion != "none" and branch.startswith("video"):
        raise ValueError(f"channels=3 is not for weights of model.motion = {config.model.motion!r}: they read grey")
    trained_fps = frame_rates.of_clips(config.data, loaded.frame_rates) if trained_fps is None else trained_fps
    options = {
        "branch": branch,
        "readout": readout,
        "readout_from": readout_from,
        # A checkpoint may be older than the key.
        "map_side": (config.eval if "map_side" in config.eval else default_config()["eval"])["map_side"],
        "mean_lengths": lengths,
        "clips": clips,
        "num_frames": config.data.num_frames,
        "stride": config.data.stride,
        "trained_fps": trained_fps,
        # Records are made first, and from them the clips.
        "frame_size": config.data.image_size if image_size else config.data.frame_size,
        "image_size": config.data.image_size,
        "fit": fit,
        "channels": channels,
        "input_normalisation": config.model.input_normalisation,
        "dtype": dtype,
    }
    # Set in the config: then the stride was not used, and does not serve where a video's rate is unknown.
    options |= {"target_fps": config.data.target_fps} if config.data.target_fps else {}
    options |= {} if untrained is None else {"untrained": untrained}
    params = {name: _below(loaded.arrays, start) for name, start in prefixes.items()}
    for name in sorted(others):
        if not params[name]:
            raise scored.ReadoutError(f"readout {readout!r}: {path} holds no {name.replace('_', ' ')}; choose another")
    if untrained is not None:  # no head was fitted on these weights
        path, evaluated = "the untrained encoder", None
    heads, rates = evaluated.heads if evaluated else None, loaded.frame_rates
    return VideoEncoder(make_model(config), params, options, batch_size, path=path, heads=heads, frame_rates=rates)


def _weights(source, prefixes: tuple[str, ...], module: str, untrained) -> weights_lib.Weights:
    """Arrays of the checkpoint that start so, or initial ones of its config."""

    def wanted(name: str) -> bool:
        return name.startswith(prefixes)

    if isinstance(source, ConfigDict):
        return weights_lib.initial_weights(source, untrained, wanted)
    loaded = weights_lib.read_weights(source, wanted, only=module)
    if untrained is None:
        return loaded
    initial = weights_lib.initial_weights(loaded.config, untrained, wanted)
    return dataclasses.replace(initial, frame_rates=loaded.frame_rates)


def _readout(path, readout: str | None, evaluated: scored.Scored | None) -> tuple[str, str]:
    """The pooling that is meant by `load_encoder`'s argument, and who chose it."""
    several = (readout or "").split(",")
    if readout in readouts_lib.KNOWN or (set(several) <= {*readouts_lib.KNOWN} - {"all"} and len(several) > 1):
        return str(readout), "named"
    best, _, part = (readout or scored.BEST).partition(":")
    if best != scored.BEST:
        known = (*readouts_lib.KNOWN, scored.BEST, f"{scored.BEST}:EVALUATOR")
        raise ValueError(f"readout must be one of {known}, not {readout!r}")
    if evaluated and evaluated.readouts:
        return evaluated.chosen(part)
    if readout is None:
        return "cls", "these weights were not evaluated"
    raise scored.ReadoutError(
        f"readout {readout!r}: no evaluation of the checkpoint at {path} is beside it: evaluate it (--mode=eval), or "
        f"name one of {', '.join(readouts_lib.KNOWN)}"
    )


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict:
    """The tree of the arrays whose path starts so."""
    result = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return traverse_util.unflatten_dict(result, sep="/")


class VideoEncoder:
    """A frozen encoder with its preprocessing; made by `load_encoder`.

    Attributes:
      options: what turns a video into features; JSON values.
      width: D of a video's features; parts: {pooling: its share of D}, in their order.
      weights_sha256: of the encoder's arrays.
      path: what it was loaded from; heads: the file of the heads that its evaluation fitted, None without one.
      frame_rates: of the training videos, as the checkpoint keeps them (`data.frame_rates.of_training`).
      model: its `models.discovr.Discovr`; params: as of the constructor, on the device.
      uses_fps: whether `embed` takes frames by the videos' frame rates.
    """

    uses_fps = True

    def __init__(
        self, model, params: dict, options: dict[str, Any], batch_size: int, *, path=None, heads=None, frame_rates=None
    ):  # fmt: skip
        """
        Args:
          params: {"video_encoder" or "image_encoder": its parameters}, and others of `readouts.branches` that the
            readout is made from.
        """
        self.options, self.path, self.heads, self.frame_rates = options, path, heads, frame_rates
        self._predictor: Any = None  # of `predictor`, which imports this module
        self.model, self._batch_size = model, batch_size
        self._video = options["branch"].startswith("video")
        self.weights_sha256 = fingerprint(params["video_encoder" if self._video else "image_encoder"])
        self.params = jax.device_put(params)
        self._forward = jax.jit(self._encode, static_argnames="output")
        frames = jax.ShapeDtypeStruct((1, model.grid.frames, options["image_size"], options["image_size"]), np.uint8)
        shapes = jax.eval_shape(self.pooled, self.params, frames, jax.ShapeDtypeStruct((1,), np.int32))
        self.parts = {name: shape.shape[1] for name, shape in shapes.items()}
        self.width = sum(self.parts.values())

    def embed(
        self, frames: np.ndarray | Sequence[np.ndarray], fps: float | Sequence[float | None] | None = None,
        *, output: str = "video", spacing: Sequence[tuple[float, float] | None] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Features of one video or of several.

        Of a recording of a scanner's screen give the sector alone: `data.sector.isolate_video`.

        Args:
          frames: uint8 [T, H, W], [T, H, W, 3] (RGB), either with N videos in front, or a list of N videos of
            any sizes and lengths.
          fps: frames per second (one number, or one per video): resamples to the trained frame rate. None takes frames
            at the trained stride. So does NaN, as of a file that does not say it (`Video.fps`), unless the encoder was
            trained at a set frame rate (`data.target_fps`): that is refused.
          output: "video" for one vector per video; "frames" for one per tubelet (image branches: a frame) of each
            clip; "tokens" for every patch of each clip.
          spacing: one per video, millimetres between rows and between columns: pixels that are not square become so,
            where the fit is "letterbox". None: they are.

        Returns:
          float32, with N in front for several videos: "video" [D]; "frames" [clips, t, D], the mean token of
          each tubelet (the image branches: each frame's CLS); "tokens" [clips, t, rows, columns, D].

        Raises:
          ValueError: other dtypes or shapes, or a frame rate that cannot be met.

        >>> encoder = load_encoder("runs/adult")
        >>> features = encoder.embed(np.zeros((60, 112, 112), np.uint8), fps=50)
        >>> features.shape, features.dtype
        ((16,), dtype('float32'))
        """
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}, not {output!r}")
        clips, several = video_clips.clips_of(frames, fps, spacing, self.options)
        features = self._run(clips, output)
        features = features.reshape(-1, self.options["clips"], *features.shape[1:])
        if output == "video":
            features = features.mean(1)
        return features if several else features[0]

    def predict(self, frames, fps=None, *, spacing=None, show_out_of_distribution: bool = False):
        """What the heads of this encoder's evaluation say of one video or of several: for research use only.

        Args:
          frames, fps, spacing: as of `embed`, one of each.
          show_out_of_distribution: numbers for videos unlike those of training too, which are withheld otherwise.

        Returns:
          `predictor.Prediction`, a list of them for several videos.

        Raises:
          HeadsError: the evaluation kept no heads, or they are of other weights or clips.
          ValueError: as `embed`; or a video that is a still.
        """
        videos, rates, spacing, several = video_arrays.per_video(frames, fps, spacing)
        found = self.predictor.predict(videos, rates, spacing, show_out_of_distribution=show_out_of_distribution)
        return found if several else found[0]

    @property
    def predictor(self):
        """`predictor.Predictor` of the evaluation's heads, read when first asked for; raises as `predict`."""
        if self._predictor is None:
            from discovr_jax.predictor import load_predictor

            self._predictor = load_predictor(self)
        return self._predictor

    def card(self) -> dict[str, Any]:
        """What somebody needs to know of the features, as JSON values."""
        return {
            "package": f"discovr_jax {_version()}",
            "weights_sha256": self.weights_sha256,
            "features": self.width,
            "readouts": self.parts,
            "preprocessing": self.options,
        }

    def _run(self, clips: list[tuple[np.ndarray, int]], output: str) -> np.ndarray:
        """One row per clip, in batches of one size, so that the forward pass is compiled once."""
        rows, size = [], self._batch_size
        for first in range(0, len(clips), size):
            part = clips[first : first + size]
            filled = part + [part[-1]] * (size - len(part))
            frames = np.stack([frames for frames, _ in filled])
            num_valid = np.array([valid for _, valid in filled], np.int32)
            rows.append(np.asarray(self._forward(self.params, frames, num_valid, output=output))[: len(part)])
        return np.concatenate(rows)

    def _encode(self, params: dict, frames: jax.Array, num_valid: jax.Array, output: str) -> jax.Array:
        if output == "video":
            return jnp.concatenate([*self.pooled(params, frames, num_valid).values()], axis=1)
        cls, tokens, grid = self._tokens(params, frames, num_valid)
        by_position = tokens[:, 1:].reshape(-1, grid.time, grid.rows, grid.cols, self.model.width).astype(jnp.float32)
        if output == "tokens":
            return by_position
        return by_position.mean((2, 3)) if self._video else cls.astype(jnp.float32)

    def pooled(self, params: dict, frames: jax.Array, num_valid: jax.Array) -> dict[str, jax.Array]:
        """Pooled features of clips, float32 [B, D], as `evaluate.make_embed` and `evaluation.features` make them."""
        _, tokens, grid = self._tokens(params, frames, num_valid)
        o = self.options
        result = readouts_lib.pooled(self._apply, params, tokens, _input(frames), num_valid, grid, o["map_side"])
        if o["readout"] == "all":
            return {"all": join(result, o["mean_lengths"], jnp.concatenate)}
        return {name: result[name] for name in o["readout"].split(",")}

    def _tokens(self, params: dict, frames: jax.Array, num_valid: jax.Array):
        """The CLS of every frame (None of video branches), tokens [B, 1 + N, D] and their grid."""
        grid = self.model.grid
        method = "encode_video" if self._video else "encode_frames"
        tokens = self._apply(params, _input(frames), num_valid, method=method)
        return (None, tokens, grid) if self._video else _as_clip(tokens, frames.shape[0], num_valid, grid)

    def _apply(self, params: dict, *arrays, method: str):
        # Float32 means float32: accelerators would otherwise multiply in fewer bits.
        with jax.default_matmul_precision("highest" if self.model.dtype == jnp.float32 else "default"):
            return self.model.apply({"params": params}, *arrays, method=method)


def _input(frames: jax.Array) -> jax.Array:
    """Frames as the network takes them: grey as they are, colour normalised."""
    return (frames / jnp.float32(255) - IMAGENET_MEAN) / IMAGENET_STD if frames.ndim == 5 else frames


def _as_clip(tokens, num_clips, num_valid, grid):
    """Tokens of single frames [B * F, 1 + P, D] as those of a clip whose CLS is the mean over real frames."""
    tokens = tokens.reshape(num_clips, grid.frames, *tokens.shape[1:])
    cls = tokens[:, :, 0]
    valid = (jnp.arange(grid.frames) < num_valid[:, None]).astype(cls.dtype)[:, :, None]
    mean = (cls * valid).sum(1, keepdims=True) / valid.sum(1, keepdims=True)
    by_position = tokens[:, :, 1:].reshape(num_clips, -1, tokens.shape[-1])
    return cls, jnp.concatenate([mean, by_position], 1), ClipGrid(grid.frames, grid.rows, grid.cols, 1)


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("discovr_jax")
    except importlib.metadata.PackageNotFoundError:
        return "from its source tree"
