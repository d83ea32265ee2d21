"""What the heads of an evaluation say of other videos; `VideoEncoder.predict` and `python -m discovr_jax.predict`.

clips of a video, as the evaluation took them -> tokens -> pooled features -> heads
                                              -> tokens of each tubelet -> outline of the cavity -> ED and ES
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from discovr_jax import trees, unsuited_videos
from discovr_jax.convert import read as weights_lib
from discovr_jax.data.letterbox import letterbox
from discovr_jax.evaluation import fitted_heads, interface, out_of_distribution
from discovr_jax.evaluation.evaluators import anomaly, knn, probe, regression, segmentation
from discovr_jax.evaluation.features import pixels, video_clips
from discovr_jax.evaluation.features.cache import join
from discovr_jax.evaluation.fitted_heads import RESEARCH_USE, Heads, HeadsError
from discovr_jax.evaluation.scored import PREFIXES, SCORED
from discovr_jax.models import discovr
from discovr_jax.models import readouts as readouts_lib

PHASES = {"ed": "end-diastole", "es": "end-systole"}
NEAREST = 5  # training videos that are named
# What decides a feature besides the weights: the encoder's options, by the names of the heads' preprocessing.
_PREPROCESSING = ("num_frames", "stride", "image_size", "frame_size", "clips", "map_side", "dtype")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A predicted measurement with its prediction interval; all NaN where it is withheld.

    Attributes:
      field, unit: see `interface.MEASUREMENTS`.
      low, high: of the interval that holds the truth for `fitted_heads.NOMINAL` of videos like those of validation;
        infinite where validation had too few.
    """

    field: str
    unit: str
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Outline:
    """The left ventricular cavity in one frame, as the segmentation head draws it.

    Attributes:
      frame: of the video, from 0; mask: bool [H, W], of the video's frames.
    """

    frame: int
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the heads say of one video. What there is no head for is NaN or empty; so is what is withheld.

    Attributes:
      measurements: {head: measurement}.
      probability_abnormal: of the linear probe, calibrated on validation; neighbour_vote: share of the nearest labelled
        training videos that is abnormal, weighted.
      anomaly_score: distance to normal training videos; anomaly_threshold: what 95 % of normal validation videos do
        not exceed.
      out_of_distribution: the video is unlike those of training and validation; numbers are then withheld unless asked
        for. reasons: why.
      distance: from the training videos, and distance_threshold, as of `out_of_distribution`.
      nearest: (id, cosine) of the most similar training videos.
      outlines: {"ed": , "es": }, of the frames with the largest and the smallest predicted cavity.
      notice: what it may be used for.
    """

    measurements: Mapping[str, Measurement]
    probability_abnormal: float
    neighbour_vote: float
    anomaly_score: float
    anomaly_threshold: float
    out_of_distribution: bool
    reasons: tuple[str, ...]
    distance: float
    distance_threshold: float
    nearest: tuple[tuple[str, float], ...]
    outlines: Mapping[str, Outline]
    notice: str = RESEARCH_USE


def load_predictor(encoder) -> "Predictor":
    """The predictor of an `inference.VideoEncoder`, with the heads that the evaluation of its checkpoint kept.

    Raises:
      HeadsError: there are none, or they are of other weights or clips.
    """
    options = encoder.options
    if options["branch"] != SCORED:
        raise HeadsError(f"heads are of branch {SCORED}, not of {options['branch']}")
    if encoder.heads is None:
        raise HeadsError(
            f"{encoder.path}: these weights were not evaluated, so there are no heads that predict: evaluate the run "
            "(--mode=eval)"
        )
    heads = fitted_heads.read(encoder.heads)
    _require_weights(heads, "video_encoder", encoder.weights_sha256)
    wanted = {name: heads.about["preprocessing"][name] for name in _PREPROCESSING} | {"fit": "letterbox", "channels": 1}
    for name, value in wanted.items():
        if options[name] != value:
            raise HeadsError(
                f"the heads in {heads.path} were fitted on clips of {name} = {value}, this encoder makes them with "
                f"{options[name]}: load it without that argument, or evaluate it again (--mode=eval)"
            )
    params = {"video_encoder": encoder.params["video_encoder"]}
    for name in sorted(PREFIXES.keys() & heads.about["weights_sha256"].keys()):
        prefix = PREFIXES[name]
        arrays = weights_lib.read_weights(encoder.path, lambda path, start=prefix: path.startswith(start)).arrays
        module = traverse_util.unflatten_dict({n.removeprefix(prefix): each for n, each in arrays.items()}, sep="/")
        _require_weights(heads, name, trees.fingerprint(module))
        params[name] = jax.device_put(module)
    return Predictor(encoder, heads, params)


def _require_weights(heads: Heads, name: str, sha256: str) -> None:
    wanted = heads.about["weights_sha256"][name]
    if sha256 != wanted:
        raise HeadsError(
            f"the heads in {heads.path} belong to another encoder ({name} {wanted[:12]}, this one is {sha256[:12]}): "
            "evaluate this checkpoint (--mode=eval)"
        )


class Predictor:
    """Heads on an encoder; made by `load_predictor`."""

    def __init__(self, encoder, heads: Heads, params: Mapping[str, Any]):
        """
        Args:
          params: {module: its parameters} of the encoder, and of what else the poolings are made from.
        """
        self._encoder, self.heads, self.params = encoder, heads, params
        self._forward = jax.jit(self.encode)
        # As evaluated, so that the same program computes the same features.
        self._batch = heads.about["preprocessing"]["batch_size"]
        regressions, probes, votes, anomalies = (heads.of_kind(kind) for kind in fitted_heads.KINDS[:4])
        self.regressions = regressions
        # One of each kind answers, where the evaluation has several.
        self._probe, self._knn, self._anomaly = (names[0] if names else None for names in (probes, votes, anomalies))
        self._anomaly_threshold = (
            self._head(self._anomaly)["details"]["thresholds"][fitted_heads.SPECIFICITY] if self._anomaly else np.nan
        )
        self._references = {part: self._reference(part) for part in (self._knn, self._anomaly) if part}
        # What neighbours are similar in.
        self._similar = next((self._head(part)["readout"] for part in (self._knn, self._anomaly) if part), None)
        of_tokens = heads.of_kind("segmentation")
        self._segmentation = max(of_tokens, key=lambda part: self._head(part)["details"]["val_dice"], default=None)

    def predict(
        self, videos: Sequence[np.ndarray], rates: Sequence[float | None], spacing: Sequence[Any],
        *, show_out_of_distribution: bool = False,
    ) -> list[Prediction]:  # fmt: skip
        """A prediction for each video; see `VideoEncoder.predict`.

        Args:
          videos: uint8 [T, H, W] or [T, H, W, 3]; rates: frames per second or None; spacing: as of `embed`.

        Raises:
          ValueError: a still, or as `embed`.
        """
        options = self._encoder.options
        given = list(zip(videos, rates, spacing, strict=True))
        reasons = [
            unsuited_videos.reasons(number, video, video_clips.clip_frames(len(video), rate, options))
            for number, (video, rate, _) in enumerate(given)
        ]
        clips = [video_clips.clips(*one, options) for one in given]
        features, tokens = self.run(clips)
        finite = np.all([np.isfinite(features[name]).all(1) for name in self.heads.readouts], 0)
        if not finite.all():
            raise ValueError(f"the features of {(~finite).sum()} of {len(given)} videos are not finite")
        outputs = self.of_pooled(features)
        distance, nearest = outputs.pop("distance"), self._nearest(features)
        outputs |= self._of_training_videos(features)
        limits = self.heads.about["out_of_distribution"]
        predictions = []
        for row, (video, rate, size) in enumerate(given):
            why = [*reasons[row]]
            if not distance[row] <= limits["threshold"]:  # NaN is no small distance
                why.append(f"unlike the training videos (distance {distance[row]:.3g} > {limits['threshold']:.3g})")
            if max(valid for _, valid in clips[row]) < limits["fewest_frames"]:
                why.append(f"shorter than every training video ({limits['fewest_frames']} frames of a clip)")
            withheld = why and not show_out_of_distribution
            draws = tokens is not None and not withheld
            outlines = self._outlines(video, rate, size, tokens[row]) if draws else {}
            values = {} if withheld else {name: each[row] for name, each in outputs.items()}
            predictions.append(self._prediction(values, why, distance[row], nearest[row], outlines))
        return predictions

    def _prediction(self, values, why, distance, nearest, outlines) -> Prediction:
        measurements = {}
        for part in self.regressions:
            value, field = float(values.get(part, np.nan)), self._head(part)["field"]
            measurements[part] = Measurement(
                field, interface.MEASUREMENTS[field][1], value, *map(float, self.interval(part, value))
            )
        return Prediction(
            measurements,
            float(values.get("probe", np.nan)),
            float(values.get("knn", np.nan)),
            float(values.get("anomaly", np.nan)),
            self._anomaly_threshold,
            bool(why),
            tuple(why),
            float(distance),
            self.heads.about["out_of_distribution"]["threshold"],
            tuple(nearest),
            outlines,
        )

    def of_pooled(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """What the heads say that need no training video, and the distance from these.

        Args:
          features: {readout: float [videos, D]}, arrays of NumPy or JAX.

        Returns:
          {regression, "probe" where there is one, "distance": [videos]}, arrays of the same kind.
        """

        def apply(head, part: str):
            return head.apply(self.heads.fitted(part), features[self._head(part)["readout"]])

        outputs = {part: apply(regression, part) for part in self.regressions}
        if self._probe:
            outputs["probe"] = apply(probe, self._probe)
        limits = self.heads.about["out_of_distribution"]
        return outputs | {"distance": out_of_distribution.distance(limits, self.heads.arrays, features)}

    def interval(self, part: str, value):
        """Both ends of the prediction interval of a regression; infinite where validation had too few videos.

        What no heart has (an ejection fraction above 100 %) is cut off: the truth cannot lie there.

        Args:
          value: predicted, a float or an array of JAX.
        """
        xp, width = (jnp if isinstance(value, jax.Array) else np), self._head(part)["interval"]["half_width"]
        if width is None:
            return value - np.inf, value + np.inf
        most = 100.0 if interface.MEASUREMENTS[self._head(part)["field"]][1] == "%" else np.inf
        low, high = xp.maximum(value - width, 0.0), xp.minimum(value + width, most)
        return xp.minimum(low, value), xp.maximum(high, value)

    def _of_training_videos(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"knn", "anomaly": what it says of each video}: heads that are the training videos themselves."""
        outputs = {}
        for part, kind, module, names in (
            (self._knn, "knn", knn, ("k", "temperature")), (self._anomaly, "anomaly", anomaly, ("k",))
        ):  # fmt: skip
            if part:
                options = {name: self._head(part)["options"][name] for name in names}
                rows = np.asarray(features[self._head(part)["readout"]], np.float64)
                outputs[kind] = module.apply(*self._references[part], rows, **options)
        return outputs

    def _nearest(self, features: Mapping[str, np.ndarray]) -> list:
        """(id, cosine) of the training videos most similar to each."""
        if not self._similar:
            return [()] * len(next(iter(features.values())))
        return fitted_heads.nearest_videos(self.heads, self._similar, features[self._similar], NEAREST)

    def _reference(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, D] and labels [N] of the training videos of a head, float64."""
        known = self.heads.arrays[f"{part}/known"]
        arrays = (self.heads.arrays[name] for name in (f"reference/{self._head(part)['readout']}", "labels"))
        features, labels = (np.asarray(each, np.float64)[known] for each in arrays)
        return features, labels

    def _head(self, part: str) -> Mapping[str, Any]:
        return self.heads.about["heads"][part]

    def run(self, clips: Sequence[list[tuple[np.ndarray, int]]]):
        """Pooled features {readout: float32 [videos, D]}, the mean over clips, and the tokens of each video's clips.

        Tokens are float16 [clips, tubelets, patches, D]; none without a head that reads them.
        """
        flat, size, rows = [clip for each in clips for clip in each], self._batch, []
        for first in range(0, len(flat), size):
            part = flat[first : first + size]
            filled = part + [part[-1]] * (size - len(part))
            frames, num_valid = np.stack([one for one, _ in filled]), np.array([n for _, n in filled], np.int32)
            rows.append(jax.device_get(self._forward(self.params, frames, num_valid)))
        pooled, tokens = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(flat)], *rows)
        count = len(clips[0])
        features = {
            name: each.astype(np.float64).reshape(len(clips), count, -1).mean(1).astype(np.float32)
            for name, each in pooled.items()
        }
        lengths = self.heads.about["preprocessing"]["mean_lengths"]
        if "all" in self.heads.readouts:
            features["all"] = join(features, lengths)
        if out_of_distribution.PIXELS in self.heads.readouts:
            made = np.stack([pixels.pixel_features(*clip) for clip in flat]).reshape(len(clips), count, -1)
            features[out_of_distribution.PIXELS] = made.mean(1, dtype=np.float64).astype(np.float32)
        return features, None if tokens is None else tokens.reshape(len(clips), count, *tokens.shape[1:])

    def encode(self, params, frames, num_valid):
        """As `evaluate.make_embed` and `make_token_encoder`: pooled features, and tokens where a head reads them.

        Args:
          params: of the constructor; frames: uint8 [B, T, S, S]; num_valid: int32 [B], real frames.

        Returns:
          {readout: float32 [B, D]}, and float16 [B, tubelets, patches, D] or None.
        """
        model, side = self._encoder.model, self._encoder.options["map_side"]
        apply = discovr.apply(model)
        tokens = apply(params, frames, num_valid, method="encode_video")
        pooled = readouts_lib.pooled(apply, params, tokens, frames, num_valid, model.grid, side)
        if self._segmentation is None:
            return pooled, None
        by_time = tokens[:, 1:].reshape(len(frames), model.grid.time, model.grid.num_positions, -1)
        return pooled, by_time.astype(jnp.float16)

    def cavities(self, video: np.ndarray, rate: float | None = None, spacing=None) -> list[Outline]:
        """The cavity in the first frame of every tubelet of the evaluation's clips, in the order of the frames.

        Args:
          video: uint8 [T, H, W]; rate, spacing: of it, as of `predict`.

        Returns:
          One outline per frame; none without a head that draws.
        """
        if self._segmentation is None:
            return []
        _, tokens = self.run([video_clips.clips(video, rate, spacing, self._encoder.options)])
        frames, cavity = self._draw(len(video), rate, tokens[0])
        by_frame = dict(zip(frames, cavity, strict=True))
        return [Outline(frame, mask_in_video(by_frame[frame], video.shape[1:3], spacing)) for frame in sorted(by_frame)]

    def _outlines(self, video: np.ndarray, rate, spacing, tokens: np.ndarray) -> dict[str, Outline]:
        """The cavity where it is largest and smallest over the tubelets of all clips; nothing if none shows one."""
        frames, cavity = self._draw(len(video), rate, tokens)
        area = cavity.sum((1, 2))
        if not area.any():
            return {}
        rows = {"ed": int(area.argmax()), "es": int(np.where(area > 0, area, area.max() + 1).argmin())}
        return {
            phase: Outline(frames[row], mask_in_video(cavity[row], video.shape[1:3], spacing))
            for phase, row in rows.items()
        }

    def _draw(self, length: int, rate, tokens: np.ndarray) -> tuple[list[int], np.ndarray]:
        """First frame of each tubelet of real frames, and the cavity there as the segmentation head draws it.

        Args:
          length: frames of the video; tokens: float16 [clips, tubelets, patches, D].

        Returns:
          Frame numbers [N], bool [N, S, S] of letterboxed frames.
        """
        part, grid = self._segmentation, self._encoder.model.grid
        options = self._head(part)["options"]
        clips = video_clips.clip_frames(length, rate, self._encoder.options)
        places = [(clip, row) for clip, (_, valid) in enumerate(clips) for row in range(-(-valid // grid.tubelet))]
        chosen = tokens[tuple(np.transpose(places))]
        maps = segmentation.apply(
            options["head"], self.heads.fitted(part), chosen, grid, self._encoder.model.patch, options["classes"],
            options["size"],
        )  # fmt: skip
        frames = [int(clips[clip][0][row * grid.tubelet]) for clip, row in places]
        return frames, maps == segmentation.CAVITY


def mask_in_video(mask: np.ndarray, shape: tuple[int, int], spacing=None) -> np.ndarray:
    """A mask, bool [S, S], of letterboxed frames as one of the frames themselves, bool [H, W] of `shape`."""
    import cv2

    placed = letterbox(np.zeros((1, *shape), np.uint8), len(mask), spacing)[1]
    height, width = round(shape[0] * placed.scale[1]), round(shape[1] * placed.scale[0])
    inside = mask[placed.top : placed.top + height, placed.left : placed.left + width].astype(np.float32)
    return cv2.resize(inside, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) >= 0.5
