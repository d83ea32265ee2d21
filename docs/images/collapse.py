"""Draws docs/images/collapse.png: the law of collapse, prediction and measurement (docs/notes/learning.md).

python docs/images/collapse.py [rows.jsonl of examples/law_of_collapse.py]
"""

import json
import pathlib
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
ROWS = HERE.parent / "notes" / "results" / "collapse.jsonl"
COLOURS = {0.01: "#9cc9fb", 0.02: "#1f6fe5", 0.04: "#f59b00", 0.08: "#d8430f"}  # of the teacher's temperature
UNIFORM = 0.5  # ln K - H; the law is for less
MARKERS = {0.9: "o", 0.5: "s"}  # of the share that is masked


def rates(run: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Growth of the spread per step, predicted from rho and measured, and whether targets are near uniform.

    From step 60 on: before, the student has not learned what its view predicts.
    """
    step, spread, rho, gap = np.array(run["rows"]).T
    predicted = (1 - run["m"]) * (rho * run["tau_s"] / run["tau_t"] - 1)
    measured = np.diff(np.log(spread)) / np.diff(step)
    late = step[:-1] >= 60
    return (predicted[:-1] + predicted[1:])[late] / 2, measured[late], gap[1:][late] < UNIFORM


def draw(rows: pathlib.Path) -> None:
    runs = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for run in runs:
        step, spread, _, _ = np.array(run["rows"]).T
        style = {"color": COLOURS[run["tau_t"]], "marker": MARKERS[run["ratio"]], "markersize": 4}
        left.plot(step, spread, linewidth=1, **style)
        predicted, measured, near = rates(run)
        right.plot(predicted[near], measured[near], linestyle="", **style)
        right.plot(predicted[~near], measured[~near], linestyle="", fillstyle="none", alpha=0.6, **style)
    left.set(yscale="log", xlabel="step", title="Spread of the teacher's outputs")
    right.axline((0, 0), slope=1, color="black", linewidth=1, linestyle=(0, (4, 3)))
    right.axhline(0, color="#c0c0c0", linewidth=0.8, zorder=0)
    right.axvline(0, color="#c0c0c0", linewidth=0.8, zorder=0)
    right.set(xlabel="predicted: (1 - m) (rho tau_s / tau_t - 1)", ylabel="measured", title="Growth per step")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    handles = [plt.Line2D([], [], color=c, label=f"tau_t {t:g}, needs rho > {10 * t:g}") for t, c in COLOURS.items()]
    grey = {"color": "grey", "linestyle": ""}
    handles += [plt.Line2D([], [], marker=m, label=f"{100 * r:g} % masked", **grey) for r, m in MARKERS.items()]
    handles += [plt.Line2D([], [], marker="o", fillstyle="none", label=f"ln K - H above {UNIFORM:g}", **grey)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "collapse.png", dpi=100)


if __name__ == "__main__":
    draw(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
