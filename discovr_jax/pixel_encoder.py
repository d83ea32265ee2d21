"""The pixel baseline of any video: features of the clips that an encoder would see, without its network."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation.features import pixels, video_clips
from discovr_jax.inference import VideoEncoder

_OF_THE_NETWORK = ("branch", "readout", "readout_from", "map_side", "mean_lengths", "input_normalisation", "dtype")


class PixelEncoder:
    """Stands where a `VideoEncoder` does; `width` is D of a video's features, `options` and the like as there.

    Attributes:
      DEFAULT: the readout where none is named; parts: {readout: its share of D}, in their order.
    """

    DEFAULT = "motion_energy_6"
    uses_fps = True

    def __init__(self, encoder: VideoEncoder, readout: str):
        """
        Args:
          encoder: whose clips are taken; readout: one of `pixels.NAMES` or `pixels.PARTS`, or several with commas.

        Raises:
          ValueError: another readout, or clips in colour.
        """
        known = (*pixels.NAMES, *pixels.PARTS)
        names = readout.split(",")
        if not set(names) <= set(known) or encoder.options["channels"] != 1:
            raise ValueError(f"the readout of pixels must be one of {known}, of clips in grey, not {readout!r}")
        kept = {name: value for name, value in encoder.options.items() if name not in _OF_THE_NETWORK}
        self.options: dict[str, Any] = kept | {"readout": readout}
        side = self.options["image_size"]
        found = pixels.named(np.zeros((1, side, side), np.uint8), 1)
        self.parts = {name: len(found[name]) for name in names}
        self.width = sum(self.parts.values())
        self.frame_rates, self._package = encoder.frame_rates, encoder.card()["package"]

    def embed(
        self,
        frames: np.ndarray | Sequence[np.ndarray],
        fps: float | Sequence[float | None] | None = None,
        *,
        spacing: Sequence[tuple[float, float] | None] | None = None,
    ) -> np.ndarray:
        """Mean over a video's clips, float32 [D], or [N, D] for several; arguments as of `VideoEncoder.embed`."""
        clips, several = video_clips.clips_of(frames, fps, spacing, self.options)
        found = [pixels.named(*clip) for clip in clips]
        rows = np.stack([np.concatenate([each[name] for name in self.parts]) for each in found])
        features = rows.reshape(-1, self.options["clips"], self.width).mean(1)
        return features if several else features[0]

    def card(self) -> dict[str, Any]:
        """What somebody needs to know of the features, as JSON values."""
        return {
            "package": self._package,
            "encoder": "pixels",
            "features": self.width,
            "readouts": self.parts,
            "preprocessing": self.options,
        }
