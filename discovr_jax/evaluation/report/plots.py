"""Charts of the report, each a PNG small enough to stay legible on a phone. No global matplotlib state."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#66707c", "#e3e7ec"
LINES = ("#1f6feb", "#d9480f", "#2b8a3e", "#9c36b5", "#66707c")
NORMAL, ABNORMAL, UNKNOWN = "#1f6feb", "#d9480f", "#b8c0c9"
_SIZE = (4.3, 2.75)  # inches; a chart is shown about 430 px wide


def figure_and_axes(size=_SIZE):
    """An empty chart in the report's style."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    _style(axes)
    return figure, axes


def _style(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, labelsize=8.5)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """The chart as PNG bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=170)
    return file.getvalue()


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of one metric over the lines of metrics.jsonl that hold a finite number for it."""
    points = [
        (row["step"], row[key])
        for row in rows
        if isinstance(row.get(key), int | float) and not isinstance(row[key], bool) and np.isfinite(row[key])
    ]
    return np.array([p[0] for p in points], float), np.array([p[1] for p in points], float)


def curves(
    rows: Sequence[Mapping[str, Any]],
    lines: Mapping[str, str],
    *,
    ylabel: str,
    ceilings: Mapping[str, str] | None = None,
    log: bool = False,
) -> bytes | None:
    """Metrics against the training step.

    Args:
      rows: parsed lines of metrics.jsonl, each with "step".
      lines: {metric: label} drawn as lines.
      ylabel: of the vertical axis, with its unit.
      ceilings: {metric: label} of constants drawn dashed (their last value counts).
      log: logarithmic vertical axis.

    Returns:
      PNG, or None if none of `lines` was logged.
    """
    result = {key: series(rows, key) for key in lines}
    result = {key: line for key, line in result.items() if len(line[0])}
    if not result:
        return None
    figure, axes = figure_and_axes()
    for (key, (steps, values)), color in zip(result.items(), LINES, strict=False):
        marker = "o" if len(steps) < 3 else None
        axes.plot(steps, values, color=color, label=lines[key], linewidth=1.7, marker=marker, markersize=4)
    for key, label in (ceilings or {}).items():
        _, values = series(rows, key)
        if len(values):
            axes.axhline(values[-1], color=INK, linestyle="--", linewidth=1, label=label)
    positive = all((values > 0).all() for _, values in result.values())
    if log and positive:
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))  # 4e-4 written on the axis, not 0.00040
    axes.set_xlabel("training step", fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    if len(result) + len(ceilings or {}) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return png(figure)


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest spread.

    Args:
      features: float [N, D], finite.

    Returns:
      (coordinates float64 [N, 2], share of the variance [2]); zeros where there is no second
      (or first) direction.
    """
    centred = np.asarray(features, np.float64) - np.mean(features, 0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates, share = np.zeros((len(centred), 2)), np.zeros(2)
    total = (values**2).sum()
    if total > 0:
        count = min(2, len(values))
        coordinates[:, :count] = left[:, :count] * values[:count]
        share[:count] = values[:count] ** 2 / total
    return coordinates, share


def projection(
    coordinates: np.ndarray,
    share: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    measured: np.ndarray | None = None,
    name: str = "",
) -> bytes:
    """Points of `principal_plane`, coloured by label (0, 1, NaN) or by a measurement called `name`; give one."""
    figure, axes = figure_and_axes((4.3, 3.4))
    if labels is not None:
        for value, name, color in (
            (np.nan, "unknown", UNKNOWN),
            (0, "normal", NORMAL),
            (1, "abnormal", ABNORMAL),
        ):
            chosen = np.isnan(labels) if np.isnan(value) else labels == value
            if chosen.any():
                axes.scatter(*coordinates[chosen].T, s=13, color=color, alpha=0.65, linewidths=0, label=name)
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    else:
        known = np.isfinite(measured)
        axes.scatter(*coordinates[~known].T, s=13, color=UNKNOWN, linewidths=0)
        points = axes.scatter(*coordinates[known].T, s=13, c=measured[known], cmap="viridis", linewidths=0)
        bar = figure.colorbar(points, ax=axes)
        bar.set_label(name, fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=8, colors=MUTED)
    axes.set_xlabel(f"first direction ({100 * share[0]:.0f} % of variance)", fontsize=9, color=INK)
    axes.set_ylabel(f"second ({100 * share[1]:.0f} %)", fontsize=9, color=INK)
    return png(figure)


def predicted_against_true(target: np.ndarray, prediction: np.ndarray, name: str) -> bytes:
    """A predicted measurement against the recorded one, both [N], with the line of equality."""
    figure, axes = figure_and_axes((4.3, 3.6))
    low, high = min(target.min(), prediction.min()), max(target.max(), prediction.max())
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin
    axes.plot([low, high], [low, high], color=INK, linestyle="--", linewidth=1, label="equality")
    axes.scatter(target, prediction, s=13, color=LINES[0], alpha=0.6, linewidths=0)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.set_aspect("equal")
    axes.set_xlabel(f"recorded {name}", fontsize=9, color=INK)
    axes.set_ylabel(f"predicted {name}", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return png(figure)


def bland_altman(target: np.ndarray, prediction: np.ndarray, name: str, unit: str) -> bytes:
    """Error against the mean of both measurements, [N], with bias and 95 % limits of agreement.

    Args:
      name: of the measurement, with its unit.
      unit: of the error.
    """
    figure, axes = figure_and_axes((4.3, 3.6))
    error, middle = prediction - target, (prediction + target) / 2
    axes.scatter(middle, error, s=13, color=LINES[0], alpha=0.6, linewidths=0)
    bias = error.mean()
    spread = 1.96 * error.std(ddof=1) if len(error) > 1 else 0.0
    for value, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
        axes.axhline(value, color=INK, linestyle=style, linewidth=1)
        axes.annotate(
            f"{value:+.3g}",
            (1, value),
            xycoords=("axes fraction", "data"),
            fontsize=8.5,
            color=INK,
            ha="right",
            va="bottom",
        )
    axes.set_xlabel(f"mean of predicted and recorded {name}", fontsize=9, color=INK)
    axes.set_ylabel(f"predicted - recorded ({unit})", fontsize=9, color=INK)
    return png(figure)


def reliability(bins: Sequence[Mapping[str, float]]) -> bytes:
    """Share that is abnormal against the predicted probability, and below it how many videos each point stands for.

    Args:
      bins: {"from", "to", "videos", "probability", "abnormal"} each, of `probe.reliability`.
    """
    figure = Figure(figsize=(4.3, 4.0), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    predicted, share, videos = (np.array([one[key] for one in bins]) for key in ("probability", "abnormal", "videos"))
    above.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1, label="perfectly calibrated")
    above.plot(predicted, share, color=LINES[0], linewidth=1.2, marker="o", markersize=5)
    above.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    above.set_ylabel("share that is abnormal", fontsize=9, color=INK)
    above.legend(fontsize=8, frameon=False, labelcolor=INK)
    left, width = np.array([one["from"] for one in bins]), np.array([one["to"] - one["from"] for one in bins])
    bars = below.bar(left, videos, width, align="edge", color=LINES[0], alpha=0.5, edgecolor="white")
    below.bar_label(bars, fontsize=7.5, color=INK)
    below.set_ylim(0, 1.35 * videos.max())
    below.set_ylabel("videos", fontsize=9, color=INK)
    below.set_xlabel("predicted probability of abnormal", fontsize=9, color=INK)
    for axes in (above, below):
        _style(axes)
    return png(figure)


def shares(series: Mapping[str, Sequence[Mapping[str, Any] | None]], names: Sequence[str], ylabel: str) -> bytes:
    """A figure of each encoder with its interval, one place on the horizontal axis for each of `names`.

    Args:
      series: {encoder: one entry of results.json, or None, for each name}.
    """
    figure, axes = figure_and_axes((4.3, 3.1))
    for number, (encoder, entries) in enumerate(series.items()):
        known = [(i, e) for i, e in enumerate(entries) if e and e["value"] is not None]
        places = np.array([i for i, _ in known]) + 0.09 * (number - (len(series) - 1) / 2)
        values = np.array([e["value"] for _, e in known])
        # Without an interval (one patient, say) the bar has no length.
        ends = [[e["value"] if e[end] is None else e[end] for _, e in known] for end in ("low", "high")]
        lengths = np.maximum([values - ends[0], np.array(ends[1]) - values], 0)
        axes.errorbar(
            places, values, lengths, color=LINES[number % len(LINES)], label=encoder, linewidth=1.5, elinewidth=1,
            marker="o", markersize=4, capsize=2,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_xlabel("share of the training labels", fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return png(figure)


def drops(panels: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], ylabel: str) -> bytes:
    """A panel per perturbation, a line per encoder: how much worse it gets with the strength, with intervals.

    Args:
      panels: {title: {encoder: [an entry of results.json per strength, the mildest first]}}.
    """
    columns = min(3, len(panels))
    figure = Figure(figsize=(2.4 * columns, 2.2 * -(-len(panels) // columns)), layout="constrained", facecolor="white")
    flat = figure.subplots(-(-len(panels) // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in flat[len(panels) :]:
        axes.remove()
    for axes, (title, encoders) in zip(flat, panels.items(), strict=False):
        _style(axes)
        for number, (encoder, entries) in enumerate(encoders.items()):
            places = np.arange(1, len(entries) + 1) + 0.07 * (number - (len(encoders) - 1) / 2)
            value, low, high = (np.array([e[key] for e in entries], float) for key in ("value", "low", "high"))
            color = LINES[number % len(LINES)]
            axes.plot(places, value, color=color, label=encoder, linewidth=1.5, marker="o", markersize=3.5)
            axes.vlines(places, low, high, color=color, linewidth=1)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_xticks(range(1, 1 + max(map(len, encoders.values()))))
    flat[0].legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.supxlabel("strength", fontsize=9, color=INK)
    figure.supylabel(ylabel, fontsize=9, color=INK)
    return png(figure)


def usage(counts: Mapping[str, np.ndarray]) -> bytes:
    """How many tokens each prototype has, the most frequent first; {label: int [prototypes]}, a line each."""
    figure, axes = figure_and_axes((4.3, 3.1))
    for (label, each), color in zip(counts.items(), LINES, strict=False):
        share = 100 * np.sort(each)[::-1] / each.sum()
        axes.stairs(share, np.arange(len(share) + 1) + 0.5, color=color, label=label, linewidth=1.5)
    axes.axhline(100 / len(share), color=INK, linestyle="--", linewidth=1, label="equal shares")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("prototype, by frequency", fontsize=9, color=INK)
    axes.set_ylabel("share of the tokens (%)", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return png(figure)


def prototype_palette(count: int) -> np.ndarray:
    """Colours of the most frequent prototypes, uint8 [count + 1, 3]; the last is grey, for all the rest."""
    # Golden-ratio steps of hue: neighbours in rank look different for any count. Those of nearly the same hue are 13,
    # 21 or 34 ranks apart, and so of another one of four shades.
    index = np.arange(count)
    shades = np.array([(0.85, 0.95), (0.45, 1.0), (0.9, 0.55), (0.5, 0.75)])[index % 4]
    hsv = np.concatenate([(index[:, None] * 0.618034) % 1, shades], axis=1)
    palette = np.concatenate([colors.hsv_to_rgb(hsv), [[0.55, 0.55, 0.55]]])
    return np.round(palette * 255).astype(np.uint8)
