"""Robustness: by how much kNN, probe and regression get worse when the pixels of the test clips are spoilt.

Heads and poolings are those that were fitted and chosen on clean training and validation clips; only test clips change
(`features.perturbations`), and go through every encoder again. A drop is the clean metric minus that on the spoilt
clips (of an error the other way round, so that above 0 is always worse), with both from the same resamples of patients.
So are the differences of two encoders' drops.

Source: the corruptions at graded strength of Hendrycks and Dietterich, arXiv 1903.12261, with those of ultrasound.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from scipy.special import expit

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import knn, probe, regression
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import perturbations as perturbations_lib
from discovr_jax.evaluation.features import tokens
from discovr_jax.evaluation.metrics import bootstrap

KINDS = ("knn", "probe", "regression")
Pooled = Mapping[str, np.ndarray]


def check(name: str, options: Mapping[str, Any], depth: int) -> None:
    """Raises ConfigError for perturbations that are not known."""
    del depth  # of the encoder: other evaluators ask for it
    if unknown := set(options.get("perturbations", ())) - perturbations_lib.KNOWN.keys():
        raise ConfigError(
            f"eval.evaluators.{name}.perturbations: unknown {sorted(unknown)}; there are {[*perturbations_lib.KNOWN]}"
        )


def run(
    evaluation: results_lib.Evaluation, family: str, context: tokens.TokenContext, *, perturbations: tuple[str, ...]
) -> None:
    """Enters `evaluation.results["robustness"]`:

        {"strengths": {perturbation: [in words, one per strength]},
         "heads": {part: {"metric": "auroc", "field": "label",
                          "clean": {encoder: entry},
                          "spoilt", "drop": {encoder: {perturbation: [entry, one per strength]}},
                          "paired": {"discovr-ENCODER": {perturbation: [entry, one per strength]}}}}}

    An entry is {"value", "low", "high"}, see `bootstrap.interval`. "paired" is the studied encoder's drop minus the
    other one's: below 0 the studied encoder loses less.

    Args:
      perturbations: names of `perturbations.KNOWN`.

    Raises:
      interface.Skip: there are none, or no head that could be applied.
    """
    if not perturbations:
        raise interface.NotSetUp(
            f"off unless asked for: name some in eval.evaluators.{family}.perturbations; each puts the test split "
            "through every encoder three times"
        )
    heads = {part: _Head.of(head) for part, head in evaluation.heads.items() if head.kind in KINDS}
    if not heads:
        raise interface.Skip(f"none of {', '.join(KINDS)} was fitted")
    asked: dict[str, set[str]] = {}  # pooled features that the heads of each encoder read
    for head in heads.values():
        for encoder, (readout, _) in head.fitted.encoders.items():
            asked.setdefault(encoder, set()).add(readout)
    for encoder in [name for name in asked if name not in context.pooled]:
        results_lib.skip(evaluation, family, "its file has no features of spoilt clips", encoder)
        del asked[encoder]
    clean, entered, strengths = {}, {}, {}
    for part, head in heads.items():
        fitted = {encoder: ones for encoder, (_, ones) in head.fitted.encoders.items() if encoder in asked}
        clean[part] = {encoder: head.values(predictions) for encoder, predictions in fitted.items()}
        entries = {encoder: head.entry(values) for encoder, values in clean[part].items()}
        entered[part] = {"metric": head.metric, "field": head.fitted.field, "clean": entries}
        entered[part] |= {"spoilt": {}, "drop": {}, "paired": {}}
    for name in perturbations:
        about = perturbations_lib.KNOWN[name]
        strengths[name] = [about.label.format(strength) for strength in about.strengths]
        features = _spoilt_features(evaluation, context, asked, name)
        for strength in about.strengths:
            for part, head in heads.items():
                found: dict[str, dict[str, np.ndarray]] = {"spoilt": {}, "drop": {}}
                for encoder, values in clean[part].items():
                    train = [seed["train"] for seed in evaluation.features[encoder]]
                    spoilt = head.values(head.predictions(encoder, train, features[encoder, strength]))
                    found["spoilt"][encoder], found["drop"][encoder] = spoilt, head.sign * (values - spoilt)
                found["paired"] = _differences(found["drop"])
                for kind, of_kind in found.items():
                    for encoders, values in of_kind.items():
                        of_encoders = entered[part][kind].setdefault(encoders, {})
                        of_encoders.setdefault(name, []).append(head.entry(values))
    evaluation.results["robustness"] = {"strengths": strengths, "heads": entered}


def _differences(drops: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{"discovr-ENCODER": drop of discovr minus that of another encoder}, [1 + R], inside each resample."""
    studied = results_lib.STUDIED
    others = [name for name in drops if name != studied]
    return {f"{studied}-{name}": drops[studied] - drops[name] for name in others}


@dataclasses.dataclass(frozen=True)
class _Head:
    """A fitted head with the metric that its pooling was chosen by; `sign` is 1 where larger is better, else -1."""

    fitted: results_lib.FittedHead
    module: Any
    metric: str
    sign: int

    @classmethod
    def of(cls, fitted: results_lib.FittedHead) -> "_Head":
        module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{fitted.kind}")
        return cls(fitted, module, module.SELECT_BY, 1 if module.LARGER_IS_BETTER else -1)

    def values(self, predictions: Sequence[interface.Predictions]) -> np.ndarray:
        """The metric and its resamples, mean over the seeds: float64 [1 + R]."""
        scores = {self.metric: self.module.METRICS[self.metric]}
        return results_lib.metrics_of(self.fitted.rows, scores, predictions)[self.metric]

    def entry(self, values: np.ndarray) -> dict[str, Any]:
        return bootstrap.interval(values, self.fitted.rows.num_patients)

    def predictions(self, encoder: str, train: Sequence[Pooled], test: Sequence[Pooled]) -> list[interface.Predictions]:
        """As the module's `evaluate` predicted, from other features of the test videos; all of one per seed."""
        readout, fitted = self.fitted.encoders[encoder]
        return [
            interface.Predictions(None, self._apply(one.fitted, of_train[readout], of_test[readout]))
            for one, of_train, of_test in zip(fitted, train, test, strict=True)
        ]

    def _apply(self, fitted: Mapping[str, np.ndarray], train: np.ndarray, test: np.ndarray) -> np.ndarray:
        test = np.asarray(test[self.fitted.known["test"]], np.float64)
        if not np.isfinite(test).all():
            raise interface.Skip("features of spoilt clips are not finite")
        if self.fitted.kind == "knn":
            options = {name: self.fitted.options[name] for name in ("k", "temperature")}
            reference = np.asarray(train[self.fitted.known["train"]], np.float64)
            return knn.apply(reference, self.fitted.target["train"], test, **options)
        return expit(probe.log_odds(fitted, test)) if self.fitted.kind == "probe" else regression.apply(fitted, test)


def _spoilt_features(
    evaluation: results_lib.Evaluation, context: tokens.TokenContext, asked: Mapping[str, Set[str]], name: str
) -> dict[tuple[str, float], list[Pooled]]:
    """{(encoder, strength): [pooled features of the test videos, one per seed]}: cached, or made in one pass.

    Args:
      asked: the poolings that are needed of each encoder.
      name: of the perturbation.
    """
    keys = [(encoder, strength) for strength in perturbations_lib.KNOWN[name].strengths for encoder in asked]
    train = {encoder: [seed["train"] for seed in evaluation.features[encoder]] for encoder in asked}
    spoilt = {
        f"{encoder}-{name}-{strength:g}": [
            _spoilt(one, name, strength, sorted({*seed} - {"all"} if "all" in asked[encoder] else asked[encoder]))
            for one, seed in zip(context.pooled[encoder], train[encoder], strict=True)
        ]
        for encoder, strength in keys
    }
    made = feature_extraction.extract_splits(
        context.config, context.dataset, {"test": context.sources["test"]}, context.fields, spoilt,
        context.directory, context.share,
    )  # fmt: skip
    result = {}
    for (encoder, strength), group in zip(keys, made.values(), strict=True):
        result[encoder, strength] = [dict(seed["test"]) for seed in group]
        if "all" in asked[encoder]:
            for pooled, of_train in zip(result[encoder, strength], train[encoder], strict=True):
                pooled["all"] = feature_cache.join(pooled, feature_cache.mean_lengths(of_train))
    return result


def _spoilt(
    encoder: feature_cache.FeatureEncoder, name: str, strength: float, readouts: Sequence[str]
) -> feature_cache.FeatureEncoder:
    """An encoder that sees spoilt clips, and gives only these pooled features."""

    def embed(frames, num_valid):
        found = encoder.embed(perturbations_lib.perturb(frames, name, strength), num_valid)
        return {readout: found[readout] for readout in readouts}

    return feature_cache.FeatureEncoder(
        embed, f"{encoder.key} {name} {strength:g} {perturbations_lib.VERSION} {','.join(readouts)}"
    )
