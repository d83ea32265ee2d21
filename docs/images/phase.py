"""Draws docs/images/phase.png from docs/notes/results/phase.jsonl: test metrics against the clips that were seen.

python docs/images/phase.py
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
ROWS = HERE.parent / "notes" / "results" / "phase.jsonl"
# name in the rows: (what is scored, label, colour, line)
CURVES = {
    "sup": ("z_sum", "trained with labels", "#808080", "--"),
    "s0long": ("cls_std", "phase, seed 0, batch 96", "#1f6fe5", "-"),
    "dev": ("cls_std", "phase, seed 0, batch 64", "#1f6fe5", ":"),
    "s1": ("cls_std", "phase, seed 1, batch 64", "#4fa8f5", "-"),
    "s2": ("cls_std", "phase, seed 2, batch 64", "#9cc9fb", "-"),
    "full": ("cls_std", "without taking the mean away", "#d8430f", "-"),
    "dev_nocrop": ("cls_std", "one crop for both views", "#f59b00", "-"),
}
METRICS = ("EF R2", "linear probe, AUROC", "kNN, AUROC")
PIXELS = "motion_energy_12"


def draw() -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    pixels = next(row["v"] for row in rows if row["name"] == PIXELS)
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), constrained_layout=True)
    for metric, (axis, title) in enumerate(zip(axes, METRICS, strict=True)):
        for name, (scored, label, colour, line) in CURVES.items():
            points = [(row["clips"] / 1000, row[scored][metric]) for row in rows if row["name"] == name]
            axis.plot(*zip(*points, strict=True), line, color=colour, marker="o", markersize=4, label=label)
        axis.axhline(pixels[metric], color="black", linewidth=1, linestyle=(0, (4, 3)), label="pixels: motion energy")
        axis.set(title=title, xlabel="thousand clips seen")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "phase.png", dpi=100)


if __name__ == "__main__":
    draw()
