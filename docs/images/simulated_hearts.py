"""Draws docs/images/simulated_hearts.png: four simulated views at end-diastole and end-systole, the cavity outlined.

python docs/images/simulated_hearts.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from tfds_builders.echo_phantom import simulator, views

SEED = 11
NAMES = {
    "A4C": "apical four-chamber", "A2C": "apical two-chamber", "PLAX": "parasternal long axis", "PSAX": "short axis"
}  # fmt: skip


def main() -> None:
    figure, axes = plt.subplots(2, 4, figsize=(8, 4.3), facecolor="black")
    for column, (view, name) in enumerate(NAMES.items()):
        params = views.VIEWS[view].draw(np.random.default_rng(SEED + column))
        clip = simulator.simulate(params, view)
        for row, (phase, frame) in enumerate(zip(("end-diastole", "end-systole"), clip.traced_frames, strict=True)):
            axis = axes[row, column]
            axis.imshow(clip.frames[frame], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
            axis.contour(clip.masks[frame] == 1, levels=[0.5], colors="#ffd24d", linewidths=1)
            axis.set_axis_off()
            if row == 0:
                known = f"EF {clip.ef:.0f} %" if view != "PLAX" else ""
                axis.set_title(f"{name}\n{known}", color="white", fontsize=8)
            axis.text(2, 108, phase, color="#bbbbbb", fontsize=7)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.88, wspace=0.02, hspace=0.02)
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=100, facecolor="black")


if __name__ == "__main__":
    main()
