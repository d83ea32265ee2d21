"""The pixel baseline that stands beside every encoder: what a head can read without learning anything."""

import cv2
import numpy as np

SIDE = 28
ENERGY_SIDES = (12, 6, 3)
NAMES = ("pixels", *(f"motion_energy_{side}" for side in ENERGY_SIDES))
PARTS = ("mean_frame", "std_frame")  # of "pixels"


def readouts(frames: np.ndarray, num_valid: int) -> dict[str, np.ndarray]:
    """All features of `NAMES` for one clip; heads choose among them on validation, as among those of an encoder.

    Args:
      frames: uint8 [T, H, W], grey.
      num_valid: how many of the T frames are real; the rest (repeats of the last) are left out.

    Returns:
      `pixels`: float32 [2 * 28 * 28], see `pixel_features`; `motion_energy_12`, `_6` and `_3`: float32 [144], [36] and
      [9], see `motion_energy`.

    Raises:
      ValueError: frames of another rank, or num_valid outside 1..T.
    """
    energy = motion_energy(frames, num_valid)
    maps = {f"motion_energy_{side}": _resize(energy, side).reshape(-1) for side in ENERGY_SIDES}
    return {"pixels": pixel_features(frames, num_valid)} | maps


def named(frames: np.ndarray, num_valid: int) -> dict[str, np.ndarray]:
    """`readouts`, and the two `PARTS` of "pixels" alone, float32 [28 * 28] each; arguments and errors as there."""
    found = readouts(frames, num_valid)
    return found | dict(zip(PARTS, np.split(found["pixels"], 2), strict=True))


def pixel_features(frames: np.ndarray, num_valid: int) -> np.ndarray:
    """Mean frame and temporal-std frame at 28 x 28 of a clip standardised to zero mean and unit standard deviation.

    Args:
      frames, num_valid: as of `readouts`.

    Returns:
      float32 [2 * 28 * 28], the mean frame and then the std frame, row by row. A clip of one grey level gives zeros.

    Raises:
      ValueError: as `readouts`.
    """
    clip, scale = _standard(frames, num_valid)
    # Standardising the two pictures equals standardising the clip, and keeps the std of a pixel that
    # never changes at exactly 0: rounding noise there would be blown up by a head that scales its inputs.
    mean = (clip.mean(axis=0, dtype=np.float64) - clip.mean(dtype=np.float64)) / scale
    spread = clip.std(axis=0, dtype=np.float64) / scale
    return np.concatenate([_resize(picture, SIDE).reshape(-1) for picture in (mean, spread)]).astype(np.float32)


def motion_energy(frames: np.ndarray, num_valid: int) -> np.ndarray:
    """Temporal std of the mean of each cell of a 12 x 12 grid, of the standardised clip.

    Averaging before the std removes speckle that decorrelates from frame to frame and keeps the motion of the wall, so
    this reads more of the ejection fraction than the std of single pixels.

    Args:
      frames, num_valid: as of `readouts`.

    Returns:
      float32 [12, 12]; zeros for a clip of one grey level.

    Raises:
      ValueError: as `readouts`.
    """
    clip, scale = _standard(frames, num_valid)
    cells = np.stack([_resize(frame, ENERGY_SIDES[0]) for frame in clip])
    return (cells.std(axis=0, dtype=np.float64) / scale).astype(np.float32)


def _standard(frames: np.ndarray, num_valid: int) -> tuple[np.ndarray, float]:
    """The real frames as float32, and their standard deviation (1 where it is 0)."""
    if frames.ndim != 3:
        raise ValueError(f"frames must be [T, H, W], got shape {frames.shape}")
    if not 1 <= num_valid <= len(frames):
        raise ValueError(f"num_valid must be 1 to {len(frames)} for {len(frames)} frames, got {num_valid}")
    clip = frames[:num_valid].astype(np.float32)
    return clip, float(clip.std(dtype=np.float64)) or 1.0


def _resize(picture: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
