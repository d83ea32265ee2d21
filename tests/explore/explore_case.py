"""Made-up videos to explore: clips of noise, and columns of every kind."""

import numpy as np
import pandas as pd

from discovr_jax.explore import clips, videos
from discovr_jax.predictor import Outline

COUNT, SIDE = 60, 32


class Noise:
    """Clips of noise; one cannot be read."""

    def __init__(self, bad: int = 3):
        self._bad, self.asked = bad, []

    def read(self, row):
        self.asked.append(row)
        if row == self._bad:
            raise clips.ClipError("<b>its</b> file is gone")
        frames = np.random.default_rng(row).integers(0, 255, (30, SIDE, SIDE), np.uint8)
        mask = np.zeros((SIDE, SIDE), bool)
        mask[8:24, 8:24] = True
        return clips.Clip(frames, 50.0, {"ed": Outline(2, mask)})

    def thumbnail(self, row):
        return clips.webp([self.read(row).frames[0]])


def made_up(count=COUNT, **more) -> videos.Videos:
    """Videos of two groups that lie apart; the second is abnormal, every fifth has no EF."""
    rng = np.random.default_rng(0)
    group = np.arange(count) % 2
    features = rng.normal(size=(count, 8)).astype(np.float32) + 6 * group[:, None].astype(np.float32)
    ef = np.where(np.arange(count) % 5 == 0, np.nan, 60 - 20.0 * group + np.arange(count) / count)
    columns = pd.DataFrame(
        {
            "id": [f"v{row:03d}" for row in range(count)],
            "dataset": np.full(count, "phantom", object),
            "split": np.array(["train", "val", "test"], object)[np.arange(count) % 3],
            "label": np.array(["normal", "abnormal"], object)[group],
            "ef": ef,
            "lvef_error": rng.normal(size=count),
        }
    )
    return videos.Videos("made-up", "eight numbers", columns, features, **{"clips": Noise(), **more})
