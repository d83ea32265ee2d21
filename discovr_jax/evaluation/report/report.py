"""WORKDIR/report.html: what was trained, how it went, and what the features know, for a clinical reader.

One file, section by section: overview (the first screen), scores, pictures, training.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from discovr_jax.evaluation import results_io
from discovr_jax.evaluation.report import classes as report_classes
from discovr_jax.evaluation.report import cross_validation as report_folds
from discovr_jax.evaluation.report import html, overview
from discovr_jax.evaluation.report import pictures as report_pictures
from discovr_jax.evaluation.report import robustness as report_robustness
from discovr_jax.evaluation.report import scores as report_scores
from discovr_jax.evaluation.report import subgroups as report_subgroups
from discovr_jax.evaluation.report import training as report_training

_MOST_FACTS = 12  # a longer summary is folded away


def write_report(
    workdir,
    step: int,
    results: Mapping[str, Any] | None,
    metrics_rows: Sequence[Mapping[str, Any]],
    *,
    features=None,
    fields=None,
    predictions: Sequence[Mapping[str, Any]] = (),
    clips: Sequence[Mapping[str, Any]] = (),
    usage: Mapping[str, Any] | None = None,
    overlays: Sequence[Mapping[str, Any]] = (),
    neighbours: Sequence[Mapping[str, Any]] = (),
    summary: Mapping[str, object] | None = None,
    health: Sequence[str] = (),
) -> pathlib.Path:
    """Writes the report as one self-contained file.

    Everything but `step` may be missing; the section then says so.

    Args:
      workdir: report.html goes here.
      step: training steps behind the weights.
      results: content of results.json, or None without an evaluation.
      metrics_rows: parsed lines of metrics.jsonl.
      features: `Evaluation.features`, {encoder: [{split: {readout: [N, D]}}]}; the test split is drawn.
      fields: `Evaluation.fields`, {split: {"label", measurements}}.
      predictions: `Evaluation.predictions`.
      clips, usage: attention and prototypes, as of `samples.of_clips`.
      overlays: outlines, as of `segmentation.run`.
      neighbours: as of `samples.neighbours`.
      summary: facts about the run for the first section (dataset, model, ...); a long list, such as the whole
        config, is folded away.
      health: of the run in one line, and a line for each warning, as of `collapse.health`.

    Returns:
      The path of the file.
    """
    sections = [
        overview.section(step, results, health, summary or {}, metrics_rows, overlays, predictions),
        report_scores.results_section(results),
        report_scores.diagnosis_section(results, predictions),
        report_classes.section(results),
        report_folds.section(results),
        *report_scores.measurement_sections(results, predictions),
        report_scores.labels_section(results),
        report_subgroups.section(results),
        report_robustness.section(results),
        report_pictures.overlay_section(overlays),
        report_pictures.attention_section(clips),
        report_pictures.prototype_section(clips, usage),
        report_pictures.neighbours_section(neighbours),
        report_scores.projection_section(results, features, fields),
        *report_training.sections(metrics_rows),
        report_training.others(metrics_rows),
        _settings_section(step, results, summary or {}),
    ]
    lead = (
        f"Self-supervised pre-training on echocardiography video, {step:,} steps. For research; not a "
        "medical device, and nothing here is meant for the care of a patient."
    )
    path = pathlib.Path(workdir) / "report.html"
    results_io.write_text(path, html.page("DISCOVR: training report", lead, sections))
    return path


def _settings_section(step: int, results, summary: Mapping[str, object]) -> str:
    facts = {"Training steps": f"{step:,}"}
    if results and "clips_seen" in results:
        facts["Clips seen"] = f"{results['clips_seen']:,}"
    if results:
        patients = f" of {results['n_test_patients']:,} patients" if "n_test_patients" in results else ""
        facts |= {"Test videos": f"{results['n_test']:,}{patients}"}
        facts |= {"Code (git commit)": results.get("commit", "unknown")}
    if results and results.get("manifest_sha256"):
        facts["Records and splits (SHA-256 of manifest.csv)"] = results["manifest_sha256"]
    if len(summary) <= _MOST_FACTS:
        return html.section("Run and settings", html.pairs(facts | dict(summary)))
    folded = html.details(f"All {len(summary)} settings", html.pairs(summary))
    return html.section("Run and settings", html.pairs(facts), folded)
