"""Draws method.svg: python docs/figures/method.py (needs matplotlib)."""

import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STUDENT, TEACHER, LOSS, DATA = "#dce9f7", "#f6e3cf", "#dff0dc", "#f1f1f1"
INK = "#222222"

plt.rcParams |= {"svg.hashsalt": "method", "font.family": "sans-serif", "font.size": 9.5}
figure, axis = plt.subplots(figsize=(9.2, 6.6))
axis.set_xlim(0, 92)
axis.set_ylim(0, 66)
axis.axis("off")


def box(x, y, width, height, text, colour):
    style = "round,pad=0,rounding_size=1"
    look = {"boxstyle": style, "facecolor": colour, "edgecolor": INK, "linewidth": 0.9}
    axis.add_patch(FancyBboxPatch((x, y), width, height, **look))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, linespacing=1.35)


def arrow(start, end, dashed=False):
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1.0, shrinkA=0, shrinkB=0,
            linestyle=(0, (4, 3)) if dashed else "-",
        )
    )  # fmt: skip


def note(x, y, text, **options):
    axis.text(x, y, text, color=INK, fontsize=8.5, style="italic", **({"ha": "center", "va": "center"} | options))


box(1, 28, 12, 10, "clip\n64 frames,\n112 x 112", DATA)

# Video branch.
box(22, 55, 19, 8, "video teacher\nall tubelets", TEACHER)
box(22, 41, 19, 8, "video student\n10 % of tubelets", STUDENT)
box(50, 55, 20, 8, "head: CLS\ntargets $P_t$", TEACHER)
box(50, 44, 20, 5.5, "head: CLS of 4 views", STUDENT)
box(50, 35.5, 20, 5.5, "decoder: all tokens", STUDENT)
box(76, 48, 15, 8, "$L_{vid}$\ncross-entropy", LOSS)
# Image branch.
box(22, 17, 19, 8, "image teacher\nwhole frames", TEACHER)
box(22, 3, 19, 8, "image student\n10 % of patches", STUDENT)
box(50, 24.5, 20, 5.5, "patch tokens", TEACHER)
box(50, 14, 20, 6, "head: CLS, targets", TEACHER)
box(50, 3, 20, 8, "head: CLS of\n4 masked views", STUDENT)
box(76, 7, 15, 8, "$L_{img}$\ncross-entropy", LOSS)
# Clusters.
box(76, 25, 15, 16, "$L_{scd}$\nprototypes,\nSinkhorn: each\npredicts the\nother's cluster", LOSS)

for y in (59, 45, 21, 7):
    arrow((13, 33), (22, y))
arrow((41, 59), (50, 59))
arrow((41, 46.5), (50, 46.5))
arrow((41, 43), (50, 38.5))
note(44.6, 37.6, "decoder\nview")
arrow((41, 22.5), (50, 27))
arrow((41, 19), (50, 17))
arrow((41, 7), (50, 7))
arrow((70, 59), (76, 53.5), dashed=True)
arrow((70, 46.5), (76, 50.5))
arrow((70, 38), (76, 36))
arrow((70, 27), (76, 30), dashed=True)
arrow((70, 17), (76, 12.5), dashed=True)
arrow((70, 7), (76, 9.5))
# Teachers follow their students.
arrow((31.5, 49), (31.5, 55), dashed=True)
note(32.4, 52, "EMA", ha="left")
arrow((31.5, 11), (31.5, 17), dashed=True)
note(32.4, 14, "EMA", ha="left")

for row, (colour, text) in enumerate(((STUDENT, "trained by gradients"), (TEACHER, "teacher"), (LOSS, "loss"))):
    y = 64 - 2.9 * row
    style = {"boxstyle": "round,pad=0", "facecolor": colour, "edgecolor": INK, "linewidth": 0.7}
    axis.add_patch(FancyBboxPatch((1, y - 0.8), 1.8, 1.6, **style))
    axis.text(3.8, y, text, va="center", color=INK, fontsize=8.5)
axis.plot([0.9, 3.2], [55, 55], color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
axis.text(3.8, 55, "no gradient", va="center", color=INK, fontsize=8.5)

out = pathlib.Path(__file__).with_suffix(".svg")
figure.savefig(out, bbox_inches="tight", pad_inches=0.08, facecolor="white", metadata={"Date": None})
