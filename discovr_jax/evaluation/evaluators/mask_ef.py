"""Ejection fraction from the masks of end-diastole and end-systole, and its calibration on validation videos."""

import numpy as np

from discovr_jax.evaluation.features import tokens
from discovr_jax.evaluation.metrics import masks as mask_metrics

_LEAST = 10  # validation videos that a line is fitted to


def by_discs(frames: tokens.Labelled, cavity: np.ndarray) -> np.ndarray:
    """EF of each video by the method of discs in this one plane.

    A cavity that was not found has no volume: EF is 100 where it is missing at end-systole, 0 at end-diastole. So is
    it 0 where end-systole is the larger one, however much.

    Args:
      frames: which video and phase each mask is of, and the size of its pixels.
      cavity: bool [N, S, S].

    Returns:
      float64 [N], in percent, at each video's first end-systolic frame; else, and of videos without both phases, NaN.
    """
    volume = mask_metrics.disc_volume(cavity, spacing(frames)[0])
    result = np.full(len(cavity), np.nan)
    for record in np.unique(frames.record):
        rows = [np.flatnonzero((frames.record == record) & (frames.phase == phase)) for phase in (0, 1)]
        if all(map(len, rows)):
            ed, es = (each[0] for each in rows)
            result[es] = max(100 * (1 - volume[es] / volume[ed]), 0.0) if volume[ed] > 0 else 0.0
    return result


def spacing(frames: tokens.Labelled) -> tuple[np.ndarray, str]:
    """Size of a pixel, float [N, 2], and its unit: mm where it is known of every frame, else pixels ("mm", "px")."""
    if np.isfinite(frames.spacing).all() and (frames.spacing > 0).all():
        return frames.spacing, "mm"
    return np.ones_like(frames.spacing), "px"


def errors(frames: tokens.Labelled, expert: np.ndarray, ours: np.ndarray, line=None) -> dict[str, np.ndarray]:
    """How far the EF by predicted masks lies from that by the expert's.

    Args:
      frames: of N masks; expert, ours: bool [N, S, S], cavities.
      line: `calibration` by validation videos.

    Returns:
      {"mask_ef_error", and where a line is given "mask_ef_error_calibrated": float64 [N], absolute, in EF points, as of
      `by_discs`}; empty where no video has both phases. Where the expert drew no cavity at end-diastole there is no EF.
    """
    wanted, got = _pair(frames, expert, ours)
    if not np.isfinite(wanted).any():
        return {}
    result = {"mask_ef_error": np.abs(got - wanted)}
    if line is not None:
        result["mask_ef_error_calibrated"] = np.abs(line[0] + line[1] * got - wanted)
    return result


def calibration(frames: tokens.Labelled, expert: np.ndarray, ours: np.ndarray) -> np.ndarray | None:
    """Least-squares line from the EF by predicted masks to that by the expert's.

    Heads draw small cavities too large, so that the EF by their masks is too low; the line corrects that.

    Args:
      frames: of N masks of validation videos; expert, ours: bool [N, S, S], cavities.

    Returns:
      float64 [2], intercept and slope (0 where every video has the same EF by predicted masks); None where fewer than
      10 videos have both.
    """
    wanted, got = _pair(frames, expert, ours)
    known = np.isfinite(wanted)
    if known.sum() < _LEAST:
        return None
    wanted, got = wanted[known], got[known]
    spread = got - got.mean()
    slope = spread @ wanted / (spread @ spread) if np.ptp(got) > 0 else 0.0
    return np.array([wanted.mean() - slope * got.mean(), slope])


def _pair(frames: tokens.Labelled, expert: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EF by the expert's masks and by ours, [N] each; NaN in both where the expert drew no cavity at end-diastole."""
    drawn = {int(record) for record in frames.record[(frames.phase == 0) & expert.any((1, 2))]}
    known = np.isin(frames.record, list(drawn))
    return tuple(np.where(known, by_discs(frames, cavity), np.nan) for cavity in (expert, ours))
