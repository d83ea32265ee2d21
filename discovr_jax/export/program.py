"""The function that is exported: clips of one video -> pooled features, and what the heads say of the video.

uint8 [clips, T, S, S] -> encoder -> pooled features, the mean over clips -> measurements, probability, distance

It is made of the functions that `VideoEncoder.embed` and `.predict` run, in float32 throughout. Heads that are the
training videos themselves (kNN, anomaly, the most similar videos) stay with the run, and so do outlines.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.features.cache import join
from discovr_jax.evaluation.fitted_heads import NOMINAL
from discovr_jax.evaluation.out_of_distribution import PIXELS
from discovr_jax.export.pixel_frames import pixel_features
from discovr_jax.inference import VideoEncoder
from discovr_jax.predictor import Predictor

CLIPS = "clips"  # the dimension that may have any size


@dataclasses.dataclass(frozen=True)
class Value:
    """An input or output: its dtype, its shape (`CLIPS` stands for any number), and what it is."""

    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


class Program:
    """`(frames, num_valid) -> {name: array}`, to be traced by JAX.

    Attributes:
      inputs: {"frames", "num_valid": what they are}; outputs: {name: what it is}, in their order.
    """

    def __init__(self, encoder: VideoEncoder, predictor: Predictor | None, show_out_of_distribution: bool = False):
        """
        Args:
          encoder: with activations in float32.
          predictor: of its heads; None exports the encoder alone.
          show_out_of_distribution: numbers of videos unlike those of training too, which are NaN otherwise.
        """
        # How "memory_efficient" cuts its tiles depends on the number of clips; the numbers are the same.
        model = encoder.model.clone(attention="reference")
        self._encoder = VideoEncoder(model, encoder.params, encoder.options, 1)
        self._predictor = predictor and Predictor(self._encoder, predictor.heads, predictor.params)
        self._params = predictor.params if predictor else encoder.params
        self._shows_all = show_out_of_distribution
        frames, side = model.grid.frames, encoder.options["image_size"]
        self.inputs = {
            "frames": Value(
                "uint8", (CLIPS, frames, side, side),
                "clips of one video, grey levels 0 to 255 as they are: any normalisation is inside",
            ),
            "num_valid": Value(
                "int32", (CLIPS,), f"real frames of each clip, 1 to {frames}; later ones repeat the last, uncounted"
            ),
        }  # fmt: skip
        shapes = jax.eval_shape(self, *self.specs(1))
        meanings = self._meanings()
        self.outputs = {n: Value(str(shapes[n].dtype), shapes[n].shape, text) for n, text in meanings.items()}

    @property
    def nbytes(self) -> int:
        """Of the weights."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._params))

    def specs(self, clips: Any) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the inputs for a number of clips, which may be a symbol of `jax.export`."""
        return [
            jax.ShapeDtypeStruct(tuple(clips if size == CLIPS else size for size in one.shape), one.dtype)
            for one in self.inputs.values()
        ]

    def __call__(self, frames: jax.Array, num_valid: jax.Array) -> dict[str, jax.Array]:
        """
        Args:
          frames: uint8 [clips, T, S, S]; num_valid: int32 [clips].

        Returns:
          By the names of `outputs`, of the one video: "features" and "features_POOLING" float32 [D], others scalars.
        """
        # Float32 means float32: accelerators would otherwise multiply in fewer bits.
        with jax.default_matmul_precision("highest"):
            pooled = self._pooled(frames, num_valid)
            features = jnp.concatenate([pooled[name] for name in self._encoder.parts], 1)[0]
            if self._predictor is None:
                return {"features": features}
            outputs = {f"features_{name}": pooled[name][0] for name in self._other_poolings()}
            return {"features": features} | outputs | self._numbers(pooled, num_valid)

    def _pooled(self, frames, num_valid) -> dict[str, jax.Array]:
        """{readout: float32 [1, D]}, the mean over clips."""
        if self._predictor is None:
            pooled = self._encoder.pooled(self._params, frames, num_valid)
        else:
            pooled, _ = self._predictor.encode(self._params, frames, num_valid)
            if PIXELS in self._predictor.heads.readouts:
                pooled[PIXELS] = pixel_features(frames, num_valid)
        pooled = {name: each.mean(0, keepdims=True) for name, each in pooled.items()}
        if self._predictor and "all" in (*self._encoder.parts, *self._predictor.heads.readouts):
            lengths = self._predictor.heads.about["preprocessing"]["mean_lengths"]
            pooled["all"] = join(pooled, lengths, jnp.concatenate)
        return pooled

    def _numbers(self, pooled: Mapping[str, jax.Array], num_valid: jax.Array) -> dict[str, jax.Array]:
        """As `Predictor.predict`."""
        limits = self._predictor.heads.about["out_of_distribution"]
        said = {name: each[0] for name, each in self._predictor.of_pooled(pooled).items()}
        distance = said.pop("distance")
        strange = ~(distance <= limits["threshold"]) | (num_valid.max() < limits["fewest_frames"])
        numbers = {}
        for part in self._predictor.regressions:
            low, high = self._predictor.interval(part, said[part])
            numbers |= {part: said[part], f"{part}_low": low, f"{part}_high": high}
        if "probe" in said:
            numbers["probability_abnormal"] = said["probe"]
        if not self._shows_all:
            numbers = {name: jnp.where(strange, jnp.nan, value) for name, value in numbers.items()}
        return numbers | {"distance": distance, "out_of_distribution": strange}

    def _other_poolings(self) -> list[str]:
        """What the heads read besides the features of `VideoEncoder.embed`."""
        heads = self._predictor.heads
        parts = [*self._predictor.regressions, *heads.of_kind("probe")[:1]]
        return sorted({heads.about["heads"][part]["readout"] for part in parts} - {*self._encoder.parts})

    def _meanings(self) -> dict[str, str]:
        """{output: what it is}, in their order."""
        poolings = ", ".join(self._encoder.parts)
        meanings = {"features": f"pooled feature {poolings} of the video, the mean over its clips"}
        if self._predictor is None:
            return meanings
        for name in self._other_poolings():
            meanings[f"features_{name}"] = f"pooled feature {name} of the video, the mean over its clips"
        heads = self._predictor.heads.about
        withheld = "" if self._shows_all else "; NaN where out_of_distribution"
        for part in self._predictor.regressions:
            field, read = heads["heads"][part]["field"], heads["heads"][part]["readout"]
            name, unit, _ = interface.MEASUREMENTS[field]
            meanings[part] = f"{name} in {unit}, from {read}{withheld}"
            for end in ("low", "high"):
                meanings[f"{part}_{end}"] = f"{end} end of its {NOMINAL:.0%} conformal prediction interval{withheld}"
        for part in self._predictor.heads.of_kind("probe")[:1]:
            read, rule = heads["heads"][part]["readout"], heads["label_rule"]
            meanings["probability_abnormal"] = f"calibrated probability of abnormal ({rule}), from {read}{withheld}"
        limits = heads["out_of_distribution"]
        meanings["distance"] = "distance from the training videos"
        meanings["out_of_distribution"] = (
            f"distance above {limits['threshold']:.6g}, or fewer than {limits['fewest_frames']} real frames in every "
            "clip: the numbers do not hold"
        )
        return meanings
